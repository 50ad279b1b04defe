//! The gRPC codec of every Walser service.
//!
//! It differs from tonic's own in three ways. Encoding reserves the exact size first, so that a message of any size
//! costs one allocation. Decoding counts repeated items on the raw bytes before prost allocates for them
//! ([`crate::bounds`]). And a message that does not decode is the caller's mistake: `INVALID_ARGUMENT` with a
//! `google.rpc.ErrorInfo` in the details, where tonic would say `INTERNAL`.

use std::marker::PhantomData;

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::{Message, Name};
use tonic::codec::{BufferSettings, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status};

use crate::bounds;

/// A message is handed to the connection once this many bytes are waiting.
const YIELD_BYTES: usize = 256 << 10;
/// What an encoder starts with; larger messages reserve what they need.
const BUFFER_BYTES: usize = 1 << 10;

/// A message that came in so few bytes may keep them.
const PINNED_MIN: usize = 64 << 10;
/// A message keeps at most this many times its size in memory.
const PINNED_MAX: usize = 4;

/// Encodes `T` and decodes `U`.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

/// The encoding half of [`Codec`].
#[derive(Debug)]
pub struct MessageEncoder<T>(PhantomData<T>);

/// The decoding half of [`Codec`].
#[derive(Debug)]
pub struct MessageDecoder<U>(PhantomData<U>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = MessageEncoder<T>;
    type Decoder = MessageDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        MessageEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        MessageDecoder(PhantomData)
    }
}

impl<T: Message> Encoder for MessageEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        debug_assert!(buffer.remaining_mut() >= item.encoded_len());
        item.encode_raw(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
    }
}

impl<U: Message + Name + Default> Decoder for MessageDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let raw = buffer.copy_to_bytes(buffer.remaining());
        bounds::check::<U>(&raw).map_err(|error| refusal(&error.to_string(), error.rule()))?;
        let decoded = U::decode(raw.clone()).and_then(|message| detached(message, &raw));
        let refuse = |error: prost::DecodeError| {
            refusal(&format!("the message is not a {}: {error}", U::full_name()), "malformed")
        };
        decoded.map(Some).map_err(refuse)
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
    }
}

/// A message whose fields share the memory in which it came, unless it would keep far more there than it says: fields
/// that nobody knows, or that came twice.
fn detached<U: Message + Default>(message: U, raw: &Bytes) -> Result<U, prost::DecodeError> {
    if raw.len() <= PINNED_MIN || raw.len() / PINNED_MAX <= message.encoded_len() {
        return Ok(message);
    }
    U::decode(&raw[..])
}

/// `google.rpc.Status`, as far as a refusal needs it.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<RpcAny>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct RpcAny {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, Message)]
struct RpcErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: std::collections::BTreeMap<String, String>,
}

/// A status with the details that every Walser error carries (`libs/rpc` makes all others).
fn refusal(message: &str, rule: &str) -> Status {
    let metadata = [("retry", "never"), ("effect", "none"), ("rule", rule)];
    let info = RpcErrorInfo {
        reason: "FIELD_INVALID".to_owned(),
        domain: crate::ERROR_DOMAIN.to_owned(),
        metadata: metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    };
    let info =
        RpcAny { type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(), value: info.encode_to_vec().into() };
    let code = Code::InvalidArgument;
    let details = RpcStatus { code: code as i32, message: message.to_owned(), details: vec![info] };
    Status::with_details(code, message, details.encode_to_vec().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1 as pb;

    /// An unknown field of so many bytes, and a record.
    fn padded(bytes: usize) -> Bytes {
        let record = pb::Record { value: Some(Bytes::from_static(&[7; 1000])), ..Default::default() };
        let mut raw = pb::ProduceRequest { records: vec![record], ..Default::default() }.encode_to_vec();
        prost::encoding::bytes::encode(15_000, &vec![1_u8; bytes], &mut raw);
        raw.into()
    }

    #[test]
    fn a_small_message_does_not_keep_a_large_one_in_memory() {
        for (bytes, kept) in [(10, true), (50 << 10, true), (1 << 20, false)] {
            let raw = padded(bytes);
            let message = detached(pb::ProduceRequest::decode(raw.clone()).unwrap(), &raw).unwrap();
            assert_eq!(message.records[0].value.as_deref(), Some(&[7; 1000][..]));
            assert_eq!(raw.is_unique(), !kept, "{bytes}");
        }
    }
}
