//! Zigzag variable-length integers, as in protobuf's `sint32` and `sint64`.

/// Bytes of the encoded form.
pub(crate) fn encoded_len(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Appends the encoded form.
#[expect(clippy::cast_possible_truncation, reason = "the low seven bits are meant")]
pub(crate) fn put(out: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Takes a 64-bit number from the front. `None` when the bytes end or the number is too long.
#[inline]
pub(crate) fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    let mut shift = 0;
    loop {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(unzigzag(value));
        }
        shift += 7;
        if shift > 63 {
            return None;
        }
    }
}

/// Takes a 32-bit number from the front. `None` as for [`take_i64`], or when it does not fit.
#[inline]
pub(crate) fn take_i32(bytes: &mut &[u8]) -> Option<i32> {
    i32::try_from(take_i64(bytes)?).ok()
}

#[expect(clippy::cast_sign_loss, reason = "zigzag moves the sign into the lowest bit")]
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[expect(clippy::cast_possible_wrap, reason = "the inverse of zigzag")]
fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

/// A length as varints have it.
pub(crate) fn signed(length: usize) -> i64 {
    i64::try_from(length).expect("lengths are below 2 GiB")
}

/// Bytes of a nullable field with its length.
pub(crate) fn field_len(field: Option<&[u8]>) -> usize {
    field.map_or(1, |bytes| encoded_len(signed(bytes.len())) + bytes.len())
}

/// Writes a nullable field with its length.
pub(crate) fn put_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => put(out, -1),
        Some(bytes) => {
            put(out, signed(bytes.len()));
            out.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_number_survives(value in any::<i64>()) {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            prop_assert_eq!(bytes.len(), encoded_len(value));
            let mut rest = bytes.as_slice();
            prop_assert_eq!(take_i64(&mut rest), Some(value));
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn cut_and_overlong_numbers_are_refused() {
        assert_eq!(take_i64(&mut [0x80].as_slice()), None);
        assert_eq!(take_i64(&mut [0xff; 11].as_slice()), None);
        assert_eq!(take_i32(&mut [0xff, 0xff, 0xff, 0xff, 0xff, 0x01].as_slice()), None);
    }
}
