use std::io::Write as _;

use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;

const LIMIT: usize = 1 << 20;

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn zstd(plain: &[u8]) -> Vec<u8> {
    ::zstd::stream::encode_all(plain, 3).unwrap()
}

fn frame(compressed: bool, message: &[u8]) -> Vec<u8> {
    let mut framed = vec![u8::from(compressed)];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    framed
}

/// What the service sees of a request in pieces of `piece` bytes, or how it is refused.
async fn seen(encoding: &'static str, body: &[u8], piece: usize) -> Result<Vec<u8>, ApiError> {
    let pieces: Vec<_> = body.chunks(piece).map(Bytes::copy_from_slice).collect();
    let pieces = futures::stream::iter(pieces.into_iter().map(|piece| Ok::<_, Status>(Frame::data(piece))));
    let request = Request::builder().header(ENCODING, encoding);
    let request = request.body(Body::new(http_body_util::StreamBody::new(pieces))).unwrap();
    let service = tower::service_fn(|request: Request<Body>| async move {
        assert!(!request.headers().contains_key(ENCODING), "tonic would refuse it");
        Ok(match request.into_body().collect().await {
            Ok(body) => Response::new(Body::new(http_body_util::Full::new(body.to_bytes()))),
            Err(status) => status.into_http(),
        })
    });
    let answer = AcceptCompressed::new(service, LIMIT).oneshot(request).await.unwrap();
    if let Some(status) = Status::from_header_map(answer.headers()) {
        let listed = answer.headers().get(ACCEPTED).map(|listed| listed.to_str().unwrap().to_owned());
        return Err(ApiError::from(status).with("listed", listed.unwrap_or_default()));
    }
    Ok(answer.into_body().collect().await.unwrap().to_bytes().to_vec())
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

#[tokio::test]
async fn messages_of_any_size_arrive_plain_however_they_are_cut_into_pieces() {
    let noise = noise(400_000);
    let messages: [&[u8]; 5] = [b"", b"one", &noise, &[7; LIMIT], b"last"];
    let plain: Vec<u8> = messages.iter().flat_map(|message| frame(false, message)).collect();
    for (name, compress) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("zstd", zstd)] {
        // Messages may be compressed or not, one by one.
        let framed = |(number, message): (usize, &&[u8])| match number {
            3 => frame(true, &compress(message)),
            number if number % 2 == 1 => frame(false, message),
            _ => frame(true, &compress(message)),
        };
        let body: Vec<u8> = messages.iter().enumerate().flat_map(framed).collect();
        for piece in [1, 4, 1000, body.len()] {
            assert!(seen(name, &body, piece).await.unwrap() == plain, "{name} in pieces of {piece}");
        }
    }
}

#[tokio::test]
async fn a_message_ends_also_where_other_tasks_get_their_turn() {
    for bytes in (0..40).map(|more| TURN_BYTES + (more << 10)).chain([2 * TURN_BYTES, 3 * TURN_BYTES + 1]) {
        let plain = frame(false, &vec![0; bytes]);
        for (name, compressed) in [("gzip", gzip(&plain[5..])), ("zstd", zstd(&plain[5..]))] {
            let body = frame(true, &compressed);
            for piece in [body.len(), body.len() - 8, body.len() - 9] {
                assert!(seen(name, &body, piece).await.as_ref() == Ok(&plain), "{name}, {bytes} bytes in {piece}");
            }
        }
    }
}

#[tokio::test]
async fn what_decompresses_to_more_than_the_limit_is_refused() {
    for (name, bomb) in [("gzip", gzip(&vec![0; LIMIT + 1])), ("zstd", zstd(&vec![0; LIMIT + 1]))] {
        assert!(bomb.len() < LIMIT / 500);
        let refused = seen(name, &frame(true, &bomb), 1000).await.unwrap_err();
        assert_eq!((refused.code(), refused.reason()), (Code::ResourceExhausted, Reason::RecordTooLarge), "{name}");
    }
    let refused = seen("gzip", &[1, 0xff, 0xff, 0xff, 0xff, 0], 6).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::RecordTooLarge, "before anything of it has come");
}

#[test]
fn a_bomb_is_not_decompressed_beyond_the_limit() {
    for (encoding, bomb) in [(Encoding::Gzip, gzip(&vec![0; 64 << 20])), (Encoding::Zstd, zstd(&vec![0; 64 << 20]))] {
        let mut message = Message::new(encoding, 0, LIMIT).unwrap();
        let mut input = &bomb[..];
        let error = loop {
            match message.write(input) {
                Ok(taken) => input = &input[taken..],
                Err(error) => break error,
            }
        };
        assert!(matches!(error, MessageError::TooLarge), "{encoding:?}: {error}");
        assert!(message.plain_bytes() <= LIMIT);
    }
}

#[tokio::test]
async fn what_is_not_whole_is_refused() {
    let plain = noise(5000);
    for (name, whole) in [("gzip", gzip(&plain)), ("zstd", zstd(&plain))] {
        let cut = &whole[..whole.len() - 1];
        let mut longer = whole.clone();
        longer.push(0);
        let mut changed = whole.clone();
        changed[0] ^= 0xff;
        let in_the_middle = &frame(true, &whole)[..whole.len()];
        let bodies =
            [frame(true, cut), frame(true, &longer), frame(true, &changed), frame(true, b""), in_the_middle.to_vec()];
        for (number, body) in bodies.iter().enumerate() {
            let refused = seen(name, body, 999).await.unwrap_err();
            assert_eq!(
                (refused.code(), refused.reason()),
                (Code::InvalidArgument, Reason::FieldInvalid),
                "{name} {number}"
            );
        }
        assert!(seen(name, &[1, 0, 0], 3).await.is_err(), "a cut prefix");
    }
}

/// The version 0.7 of zstd, which the library can be built to read.
#[tokio::test]
async fn older_formats_of_zstd_are_refused() {
    let refused = seen("zstd", &frame(true, &[0x27, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0]), 100).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::FieldInvalid);
}

#[tokio::test]
async fn an_unknown_encoding_is_answered_with_those_that_are_accepted() {
    let refused = seen("snappy", &frame(true, b"x"), 10).await.unwrap_err();
    assert_eq!((refused.code(), refused.reason()), (Code::Unimplemented, Reason::FeatureDisabled));
    assert_eq!((refused.value("accepted"), refused.value("listed")), (Some(ENCODINGS), Some(ENCODINGS)));
    assert_eq!(seen("identity", &frame(false, b"x"), 10).await, Ok(frame(false, b"x")));
}
