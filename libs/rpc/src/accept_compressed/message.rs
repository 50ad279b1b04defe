//! One compressed message: what comes in is decompressed at once, a piece at a time.

use std::io::{self, Write as _};

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

/// Largest window of a zstd frame: 128 MiB, the limit of the reference library where nobody sets another. The window
/// is address space; memory is only taken for what is decompressed into it.
const WINDOW_LOG_MAX: u32 = 27;
/// Output of one call of a decoder.
const PIECE_BYTES: usize = 32 << 10;

/// How the messages of a request are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Zstd,
}

/// Why a message is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    #[error("the message is larger than the limit")]
    TooLarge,
    #[error("the compressed form of the message is cut, or its checksum differs")]
    Cut,
    #[error("the message is not valid {0:?}: the decoder stands still")]
    Stuck(Encoding),
    #[error("the message is not valid {0:?}: {1}")]
    Malformed(Encoding, io::Error),
    #[error("the message is not valid {0:?}: more bytes follow its end")]
    Trailing(Encoding),
}

/// A message that is being decompressed.
pub(super) struct Message {
    codec: Codec,
}

enum Codec {
    Gzip(flate2::write::GzDecoder<Plain>),
    /// With whether the frame has ended.
    Zstd(Decoder<'static>, Plain, bool),
}

/// What is decompressed, behind some bytes that are kept free.
struct Plain {
    bytes: Vec<u8>,
    reserved: usize,
    left: usize,
}

impl io::Write for Plain {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === impl MessageError ===

impl MessageError {
    fn of(encoding: Encoding, error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::FileTooLarge { Self::TooLarge } else { Self::Malformed(encoding, error) }
    }
}

// === impl Message ===

impl Message {
    /// An empty message of at most `bytes_max` bytes, inclusive, behind `reserved` zeros.
    ///
    /// # Errors
    /// When the decoder cannot be made.
    pub(super) fn new(encoding: Encoding, reserved: usize, bytes_max: usize) -> Result<Self, MessageError> {
        let plain = Plain { bytes: vec![0; reserved], reserved, left: bytes_max };
        let codec = match encoding {
            Encoding::Gzip => Codec::Gzip(flate2::write::GzDecoder::new(plain)),
            Encoding::Zstd => {
                let malformed = |error| MessageError::of(encoding, error);
                let mut decoder = Decoder::new().map_err(malformed)?;
                decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(malformed)?;
                Codec::Zstd(decoder, plain, false)
            }
        };
        Ok(Self { codec })
    }

    /// How much has been decompressed.
    pub(super) fn plain_bytes(&self) -> usize {
        let plain = match &self.codec {
            Codec::Gzip(decoder) => decoder.get_ref(),
            Codec::Zstd(_, plain, _) => plain,
        };
        plain.bytes.len() - plain.reserved
    }

    /// Decompresses some of `input`, which is not empty, to at most [`PIECE_BYTES`]; returns how much was taken.
    ///
    /// # Errors
    /// [`MessageError`].
    pub(super) fn write(&mut self, input: &[u8]) -> Result<usize, MessageError> {
        match &mut self.codec {
            Codec::Gzip(decoder) => match decoder.write(input) {
                Ok(0) => Err(MessageError::Trailing(Encoding::Gzip)),
                Ok(taken) => Ok(taken),
                Err(error) => Err(MessageError::of(Encoding::Gzip, error)),
            },
            Codec::Zstd(_, _, true) => Err(MessageError::Trailing(Encoding::Zstd)),
            Codec::Zstd(decoder, plain, ended) => {
                let (taken, hint) = run(decoder, plain, input)?;
                *ended = hint == 0;
                Ok(taken)
            }
        }
    }

    /// The whole message.
    ///
    /// # Errors
    /// [`MessageError::Cut`] when its compressed form should go on, or its checksum differs.
    pub(super) fn finish(self) -> Result<Vec<u8>, MessageError> {
        match self.codec {
            Codec::Gzip(decoder) => match decoder.finish() {
                Ok(plain) => Ok(plain.bytes),
                Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Err(MessageError::TooLarge),
                Err(_) => Err(MessageError::Cut),
            },
            Codec::Zstd(mut decoder, mut plain, mut ended) => {
                // All input is taken; output may be left in the decoder.
                while !ended {
                    let before = plain.bytes.len();
                    let (_, hint) = run(&mut decoder, &mut plain, &[])?;
                    ended = hint == 0;
                    if !ended && plain.bytes.len() == before {
                        return Err(MessageError::Cut);
                    }
                }
                Ok(plain.bytes)
            }
        }
    }
}

/// One call of a zstd decoder: how much it took, and 0 when the frame has ended.
fn run(decoder: &mut Decoder<'_>, plain: &mut Plain, given: &[u8]) -> Result<(usize, usize), MessageError> {
    let malformed = |error| MessageError::of(Encoding::Zstd, error);
    let mut piece = [0; PIECE_BYTES];
    let mut output = OutBuffer::around(&mut piece[..]);
    let mut input = InBuffer::around(given);
    let hint = decoder.run(&mut input, &mut output).map_err(malformed)?;
    let (taken, written) = (input.pos(), output.pos());
    if !given.is_empty() && hint > 0 && (taken, written) == (0, 0) {
        return Err(MessageError::Stuck(Encoding::Zstd));
    }
    plain.write_all(&piece[..written]).map_err(malformed)?;
    Ok((taken, hint))
}
