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

/// Most repeated items in one answer: a write of [`ITEMS_MAX`] records is answered with as many positions, and with the
/// batches that it became.
pub const ANSWER_ITEMS_MAX: usize = 500_000;

/// Deepest nesting of messages.
pub const DEPTH_MAX: usize = 16;

/// Why a message is refused before decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BoundsError {
    /// More repeated items than a message of its kind has.
    #[error("the message has more than {max} repeated items; send several smaller ones")]
    TooManyItems {
        /// How many it may have, inclusive.
        max: usize,
    },
    /// Messages are nested deeper than [`DEPTH_MAX`].
    #[error("the message is nested more than {DEPTH_MAX} levels deep")]
    TooDeep,
    /// Not the protobuf wire format.
    #[error("the message is not valid protobuf: it ends in the middle of a field or has a bad tag")]
    Malformed,
}

/// What a scan has to know of a message type: its repeated fields and its nested messages.
#[derive(Debug, Default)]
struct Shape {
    /// By field number. Those of our messages are small.
    fields: Vec<FieldShape>,
}

/// What a scan has to know of a field; the default is a field that it passes by.
#[derive(Debug, Clone, Copy, Default)]
struct FieldShape {
    repeated: bool,
    /// Where the shape of the nested message is in the table.
    message: Option<usize>,
}

/// Shapes of every message in the descriptor set.
#[derive(Debug, Default)]
struct Shapes {
    table: Vec<Shape>,
    /// By full name, without a leading dot.
    by_name: HashMap<String, usize>,
}

impl BoundsError {
    /// The stable word for `ErrorInfo.metadata["rule"]`.
    pub fn rule(self) -> &'static str {
        match self {
            Self::TooManyItems { .. } => "too-many-items",
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
    let Some(&shape) = shapes.by_name.get(&M::full_name()) else { return Ok(()) };
    let max = if M::NAME.ends_with("Response") { ANSWER_ITEMS_MAX } else { ITEMS_MAX };
    let mut left = max;
    scan(&shapes.table, shape, raw, &mut left, 0).map_err(|error| match error {
        BoundsError::TooManyItems { .. } => BoundsError::TooManyItems { max },
        error => error,
    })
}

/// Takes items from what is left of them.
fn count(left: &mut usize, items: usize) -> Result<(), BoundsError> {
    *left = left.checked_sub(items).ok_or(BoundsError::TooManyItems { max: 0 })?;
    Ok(())
}

fn scan(table: &[Shape], shape: usize, mut raw: &[u8], left: &mut usize, depth: usize) -> Result<(), BoundsError> {
    let fields = &table[shape].fields;
    if depth > DEPTH_MAX {
        return Err(BoundsError::TooDeep);
    }
    while !raw.is_empty() {
        let key = varint(&mut raw)?;
        let number = u32::try_from(key >> 3).map_err(|_| BoundsError::Malformed)?;
        let field = usize::try_from(number).ok().and_then(|number| fields.get(number)).copied().unwrap_or_default();
        if field.repeated {
            count(left, 1)?;
        }
        match key & 7 {
            0 => drop(varint(&mut raw)?),
            1 => drop(take(&mut raw, 8)?),
            5 => drop(take(&mut raw, 4)?),
            2 => {
                let length = usize::try_from(varint(&mut raw)?).map_err(|_| BoundsError::Malformed)?;
                let payload = take(&mut raw, length)?;
                match field {
                    FieldShape { message: Some(nested), .. } => scan(table, nested, payload, left, depth + 1)?,
                    // A packed list of numbers: at least one byte each. Strings and bytes are not repeated scalars.
                    FieldShape { repeated: true, message: None } => count(left, payload.len() / 64)?,
                    FieldShape { repeated: false, message: None } => {}
                }
            }
            _ => return Err(BoundsError::Malformed),
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

/// Built once.
fn shapes() -> &'static Shapes {
    static SHAPES: OnceLock<Shapes> = OnceLock::new();
    SHAPES.get_or_init(|| {
        let set = FileDescriptorSet::decode(crate::DESCRIPTORS).expect("the descriptor set was written by the build");
        let mut messages = Vec::new();
        for file in &set.file {
            file.message_type.iter().for_each(|message| collect(file.package(), message, &mut messages));
        }
        let by_name: HashMap<_, _> = messages.iter().map(|(name, _)| name.clone()).zip(0..).collect();
        let table = messages.iter().map(|(_, message)| shape(message, &by_name)).collect();
        Shapes { table, by_name }
    })
}

/// Lists a message and those that are declared within it, with their full names.
fn collect<'a>(prefix: &str, message: &'a DescriptorProto, messages: &mut Vec<(String, &'a DescriptorProto)>) {
    let name = format!("{prefix}.{}", message.name());
    for nested in &message.nested_type {
        collect(&name, nested, messages);
    }
    messages.push((name, message));
}

fn shape(message: &DescriptorProto, by_name: &HashMap<String, usize>) -> Shape {
    let mut shape = Shape::default();
    for field in &message.field {
        let nested = (field.r#type() == Type::Message).then(|| field.type_name().trim_start_matches('.'));
        let nested = nested.and_then(|name| by_name.get(name)).copied();
        let number = usize::try_from(field.number()).expect("field numbers are positive");
        if shape.fields.len() <= number {
            shape.fields.resize(number + 1, FieldShape::default());
        }
        shape.fields[number] = FieldShape { repeated: field.label() == Label::Repeated, message: nested };
    }
    shape
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
        let too_many = Err(BoundsError::TooManyItems { max: ITEMS_MAX });
        assert_eq!(check::<pb::ProduceRequest>(&empty_records), too_many);
        let headers = vec![pb::Header::default(); ITEMS_MAX + 1];
        let record = pb::Record { headers, ..Default::default() };
        let batch = pb::ProduceBatch { records: vec![record], ..Default::default() };
        let request = pb::ProduceStreamRequest { message: Some(pb::produce_stream_request::Message::Batch(batch)) };
        let refused = check::<pb::ProduceStreamRequest>(&request.encode_to_vec());
        assert_eq!(refused, too_many);
    }

    #[test]
    fn the_answer_to_the_most_records_that_are_accepted_can_be_read() {
        let request = pb::ProduceRequest { records: vec![pb::Record::default(); ITEMS_MAX], ..Default::default() };
        assert_eq!(check::<pb::ProduceRequest>(&request.encode_to_vec()), Ok(()));
        let positions = vec![pb::RecordPosition { partition: 3, offset: 1 << 40 }; ITEMS_MAX];
        let answer = pb::ProduceResponse { positions, appends: vec![pb::AppendResult::default(); 10_000] };
        assert_eq!(check::<pb::ProduceResponse>(&answer.encode_to_vec()), Ok(()));
        let flood = pb::ProduceResponse { positions: vec![answer.positions[0]; ANSWER_ITEMS_MAX + 1], appends: vec![] };
        let refused = check::<pb::ProduceResponse>(&flood.encode_to_vec());
        assert_eq!(refused, Err(BoundsError::TooManyItems { max: ANSWER_ITEMS_MAX }));
    }

    #[test]
    fn cut_messages_are_malformed() {
        let request = pb::ProduceRequest { topic: "orders".into(), ..Default::default() }.encode_to_vec();
        for end in 1..request.len() {
            assert_eq!(check::<pb::ProduceRequest>(&request[..end]), Err(BoundsError::Malformed));
        }
    }
}
