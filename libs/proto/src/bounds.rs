//! Bounds on repeated items, counted on the raw bytes before anything is allocated for them.
//!
//! Two bytes on the wire can become a hundred in memory: a 16 MiB message of empty records would decode into a
//! gigabyte. The scan walks the wire format along the descriptors of the message, skips payloads without looking
//! into them, and refuses what has too many items or is nested too deep.

use std::collections::HashMap;
use std::sync::OnceLock;

use prost::{Message as _, Name};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};

/// Most repeated items in one message, nested ones included.
pub const ITEMS_MAX: usize = 200_000;

/// Deepest nesting of messages.
pub const DEPTH_MAX: usize = 16;

/// Why a message is refused before decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BoundsError {
    /// More than [`ITEMS_MAX`] repeated items.
    #[error("the message has more than {ITEMS_MAX} repeated items; send several smaller ones")]
    TooManyItems,
    /// Deeper than [`DEPTH_MAX`].
    #[error("the message is nested more than {DEPTH_MAX} levels deep")]
    TooDeep,
    /// Not the protobuf wire format.
    #[error("the message is not valid protobuf: it ends in the middle of a field or has a bad tag")]
    Malformed,
}

/// What a scan has to know of a message type: its repeated fields and its nested messages.
#[derive(Debug, Default)]
struct Shape {
    fields: HashMap<u32, FieldShape>,
}

#[derive(Debug)]
struct FieldShape {
    repeated: bool,
    /// Full name of the nested message, without a leading dot.
    message: Option<String>,
}

impl BoundsError {
    /// The stable word for `ErrorInfo.metadata["rule"]`.
    pub fn rule(self) -> &'static str {
        match self {
            Self::TooManyItems => "too-many-items",
            Self::TooDeep => "too-deep",
            Self::Malformed => "malformed",
        }
    }
}

/// Checks the encoded form of a `M`.
///
/// # Errors
/// [`BoundsError`]; fields that the descriptors do not know are skipped.
pub fn check<M: Name>(raw: &[u8]) -> Result<(), BoundsError> {
    let shapes = shapes();
    let Some(shape) = shapes.get(&M::full_name()) else { return Ok(()) };
    let mut items = 0;
    scan(shapes, shape, raw, &mut items, 0)
}

fn scan(
    shapes: &HashMap<String, Shape>,
    shape: &Shape,
    mut raw: &[u8],
    items: &mut usize,
    depth: usize,
) -> Result<(), BoundsError> {
    if depth > DEPTH_MAX {
        return Err(BoundsError::TooDeep);
    }
    while !raw.is_empty() {
        let key = varint(&mut raw)?;
        let number = u32::try_from(key >> 3).map_err(|_| BoundsError::Malformed)?;
        let field = shape.fields.get(&number);
        if field.is_some_and(|field| field.repeated) {
            *items += 1;
        }
        match key & 7 {
            0 => drop(varint(&mut raw)?),
            1 => drop(take(&mut raw, 8)?),
            5 => drop(take(&mut raw, 4)?),
            2 => {
                let length = usize::try_from(varint(&mut raw)?).map_err(|_| BoundsError::Malformed)?;
                let payload = take(&mut raw, length)?;
                match field {
                    Some(FieldShape { message: Some(name), .. }) => {
                        if let Some(nested) = shapes.get(name) {
                            scan(shapes, nested, payload, items, depth + 1)?;
                        }
                    }
                    // A packed list of numbers: at least one byte each. Strings and bytes are not repeated scalars.
                    Some(FieldShape { repeated: true, message: None }) => *items += payload.len() / 64,
                    _ => {}
                }
            }
            _ => return Err(BoundsError::Malformed),
        }
        if *items > ITEMS_MAX {
            return Err(BoundsError::TooManyItems);
        }
    }
    Ok(())
}

fn varint(raw: &mut &[u8]) -> Result<u64, BoundsError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = raw.split_first().ok_or(BoundsError::Malformed)?;
        *raw = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(BoundsError::Malformed)
}

fn take<'a>(raw: &mut &'a [u8], length: usize) -> Result<&'a [u8], BoundsError> {
    let (taken, rest) = raw.split_at_checked(length).ok_or(BoundsError::Malformed)?;
    *raw = rest;
    Ok(taken)
}

/// Shapes of every message in the descriptor set, by full name. Built once.
fn shapes() -> &'static HashMap<String, Shape> {
    static SHAPES: OnceLock<HashMap<String, Shape>> = OnceLock::new();
    SHAPES.get_or_init(|| {
        let set = FileDescriptorSet::decode(crate::DESCRIPTORS).expect("the descriptor set was written by the build");
        let mut shapes = HashMap::new();
        for file in &set.file {
            for message in &file.message_type {
                collect(file.package(), message, &mut shapes);
            }
        }
        shapes
    })
}

fn collect(prefix: &str, message: &DescriptorProto, shapes: &mut HashMap<String, Shape>) {
    let name = format!("{prefix}.{}", message.name());
    for nested in &message.nested_type {
        collect(&name, nested, shapes);
    }
    let mut shape = Shape::default();
    for field in &message.field {
        let nested = (field.r#type() == Type::Message).then(|| field.type_name().trim_start_matches('.').to_owned());
        let repeated = field.label() == Label::Repeated;
        let number = u32::try_from(field.number()).expect("field numbers are positive");
        shape.fields.insert(number, FieldShape { repeated, message: nested });
    }
    shapes.insert(name, shape);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1 as pb;

    #[test]
    fn ordinary_messages_pass() {
        let record = pb::Record { value: Some(vec![1; 100].into()), ..Default::default() };
        let request = pb::ProduceRequest { topic: "t".into(), records: vec![record; 1000], ..Default::default() };
        assert_eq!(check::<pb::ProduceRequest>(&request.encode_to_vec()), Ok(()));
    }

    #[test]
    fn a_flood_of_empty_items_is_refused_at_any_depth() {
        let empty_records = [0x1a, 0x00].repeat(ITEMS_MAX + 1);
        assert_eq!(check::<pb::ProduceRequest>(&empty_records), Err(BoundsError::TooManyItems));
        let headers = vec![pb::Header::default(); ITEMS_MAX + 1];
        let record = pb::Record { headers, ..Default::default() };
        let batch = pb::ProduceBatch { records: vec![record], ..Default::default() };
        let request = pb::ProduceStreamRequest { message: Some(pb::produce_stream_request::Message::Batch(batch)) };
        let refused = check::<pb::ProduceStreamRequest>(&request.encode_to_vec());
        assert_eq!(refused, Err(BoundsError::TooManyItems));
    }

    #[test]
    fn cut_messages_are_malformed() {
        let request = pb::ProduceRequest { topic: "orders".into(), ..Default::default() }.encode_to_vec();
        for end in 1..request.len() {
            assert_eq!(check::<pb::ProduceRequest>(&request[..end]), Err(BoundsError::Malformed));
        }
    }
}
