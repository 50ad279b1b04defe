//! Deadlines of callers.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// The time that a caller still has, from `grpc-timeout`. `None`: it has no deadline, or one that makes no sense.
pub fn remaining(metadata: &MetadataMap) -> Option<Duration> {
    parse(metadata.get("grpc-timeout")?.to_str().ok()?)
}

/// A time as `grpc-timeout` carries it.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_of_the_grpc_specification() {
        let cases = [("5S", Some(5_000)), ("250m", Some(250)), ("2M", Some(120_000)), ("x", None), ("5", None)];
        for (text, millis) in cases {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            assert_eq!(remaining(&metadata), millis.map(Duration::from_millis), "{text}");
        }
    }
}
