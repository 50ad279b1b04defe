//! One record as it stands in a batch, before anything of it is copied or shared.

use crate::varint;

/// The parts of a record before they become `Bytes`.
pub(crate) struct RawRecord<'a> {
    pub(crate) timestamp_delta: i64,
    pub(crate) offset_delta: i32,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) header_count: i32,
    pub(crate) headers: &'a [u8],
}

impl RawRecord<'_> {
    /// How many headers the record has.
    pub(crate) fn headers_len(&self) -> usize {
        usize::try_from(self.header_count).unwrap_or(0)
    }

    /// Writes the record with another time.
    pub(crate) fn put(&self, out: &mut Vec<u8>, timestamp_delta: i64) {
        let (offset_delta, header_count) = (i64::from(self.offset_delta), i64::from(self.header_count));
        let numbers = [timestamp_delta, offset_delta, header_count].map(varint::encoded_len).iter().sum::<usize>();
        let length = 1 + numbers + varint::field_len(self.key) + varint::field_len(self.value) + self.headers.len();
        varint::put(out, varint::signed(length));
        out.push(0);
        varint::put(out, timestamp_delta);
        varint::put(out, offset_delta);
        varint::put_field(out, self.key);
        varint::put_field(out, self.value);
        varint::put(out, header_count);
        out.extend_from_slice(self.headers);
    }
}

/// Takes one record from the front of `section`. `None` when it is malformed.
#[inline]
pub(crate) fn take_record<'a>(section: &mut &'a [u8]) -> Option<RawRecord<'a>> {
    let length = usize::try_from(varint::take_i32(section)?).ok()?;
    let (mut body, rest) = section.split_at_checked(length)?;
    *section = rest;
    let (_attributes, tail) = body.split_first()?;
    body = tail;
    let timestamp_delta = varint::take_i64(&mut body)?;
    let offset_delta = varint::take_i32(&mut body)?;
    let key = take_field(&mut body)?;
    let value = take_field(&mut body)?;
    let header_count = varint::take_i32(&mut body).filter(|count| *count >= 0)?;
    // Each header has at least two length bytes, so the count is bounded by the bytes that are there.
    if usize::try_from(header_count).ok()? > body.len() / 2 {
        return None;
    }
    let headers = body;
    for _ in 0..header_count {
        take_header(&mut body)?;
    }
    body.is_empty().then_some(RawRecord { timestamp_delta, offset_delta, key, value, header_count, headers })
}

/// A nullable field: `Some(None)` is null, `None` is malformed.
#[inline]
fn take_field<'a>(body: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = varint::take_i32(body)?;
    if length == -1 {
        return Some(None);
    }
    let (field, rest) = body.split_at_checked(usize::try_from(length).ok()?)?;
    *body = rest;
    Some(Some(field))
}

/// Takes one header of a record, name and value.
#[inline]
pub(crate) fn take_header<'a>(body: &mut &'a [u8]) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let key = take_field(body)??;
    let value = take_field(body)?;
    Some((key, value))
}
