//! Zstandard as zstd-jni's `ZstdInputStream` reads it: frames one after the other, skippable ones among them.

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

use super::CompressionError;
use super::output::Output;

/// Largest window accepted: 128 MiB, the limit of the reference library where nobody sets another. The window is
/// address space; memory is only taken for what is decompressed into it.
const WINDOW_LOG_MAX: u32 = 27;

/// Decompresses all frames of `stream`. A frame that is cut behind a whole one is where the stream ends.
pub(super) fn decompress(stream: &[u8], out: &mut Output) -> Result<(), CompressionError> {
    let mut decoder = Decoder::new().map_err(|error| out.malformed(error))?;
    decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(|error| out.malformed(error))?;
    let mut input = InBuffer::around(stream);
    let mut frames = 0usize;
    while input.pos() < stream.len() {
        let more = run_frame(&mut decoder, &mut input, out)?;
        if !more {
            frames += 1;
        } else if frames > 0 {
            break;
        } else {
            return Err(out.malformed("the first frame is cut"));
        }
    }
    Ok(())
}

/// Decodes until a frame ends, or the input does: then the frame would need more.
fn run_frame(decoder: &mut Decoder<'_>, input: &mut InBuffer<'_>, out: &mut Output) -> Result<bool, CompressionError> {
    loop {
        let before = (input.pos(), out.plain().len());
        let hint = out.write_once(|plain| {
            let at = plain.len();
            decoder.run(input, &mut OutBuffer::around_pos(plain, at))
        })?;
        if hint == 0 {
            return Ok(false);
        }
        if (input.pos(), out.plain().len()) == before {
            return Ok(true);
        }
    }
}
