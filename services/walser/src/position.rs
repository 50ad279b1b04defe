//! Places in a log as people write them: `earliest`, `latest`, `42`, `-10`, `@2025-11-21T00:00:00Z`, `@-1h`.

use std::str::FromStr;

use walser_model::parse_duration_ms;
use walser_proto::v1 as pb;
use walser_proto::v1::position::At;

use crate::records::time::parse_time;

/// A place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    Earliest,
    Latest,
    Offset(i64),
    /// The last so many records.
    Last(i64),
    /// Milliseconds since the Unix epoch.
    Time(i64),
    /// Milliseconds before now, an age.
    Age(i64),
}

const RULE: &str = "write earliest, latest, an offset, -N for the last N records, @2025-11-21T00:00:00Z, or @-1h";

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("\"{text}\" is not a position: {RULE}");
        match text {
            "earliest" | "start" => return Ok(Self::Earliest),
            "latest" | "end" => return Ok(Self::Latest),
            _ => {}
        }
        if let Some(ago) = text.strip_prefix("@-") {
            return parse_duration_ms(ago).map(Self::Age).map_err(|_| bad());
        }
        if let Some(time) = text.strip_prefix('@') {
            return parse_time(time).map(Self::Time).ok_or_else(bad);
        }
        match text.parse::<i64>() {
            Ok(number) if text.starts_with('-') => number.checked_neg().map(Self::Last).ok_or_else(bad),
            Ok(number) => Ok(Self::Offset(number)),
            Err(_) => Err(bad()),
        }
    }
}

impl Position {
    /// The wire form.
    pub(crate) fn wire(self) -> pb::Position {
        let at = match self {
            Self::Earliest => At::Bound(pb::Bound::Earliest.into()),
            Self::Latest => At::Bound(pb::Bound::Latest.into()),
            Self::Offset(offset) => At::Offset(offset),
            Self::Last(count) => At::TailCount(count),
            Self::Time(millis) => At::Timestamp(pbjson_types::Timestamp {
                seconds: millis.div_euclid(1000),
                nanos: i32::try_from(millis.rem_euclid(1000)).unwrap_or(0) * 1_000_000,
            }),
            Self::Age(millis) => At::Age(pbjson_types::Duration {
                seconds: millis / 1000,
                nanos: i32::try_from(millis % 1000).unwrap_or(0) * 1_000_000,
            }),
        };
        pb::Position { at: Some(at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read() {
        let cases = [
            ("earliest", Position::Earliest),
            ("latest", Position::Latest),
            ("42", Position::Offset(42)),
            ("-10", Position::Last(10)),
            ("@-1h", Position::Age(3_600_000)),
            ("@1763686023118", Position::Time(1_763_686_023_118)),
            ("@2025-11-21T00:47:03.118Z", Position::Time(1_763_686_023_118)),
            ("@2025-11-21T01:47:03.118+01:00", Position::Time(1_763_686_023_118)),
            ("@2025-11-20T23:47:03.118-01:00", Position::Time(1_763_686_023_118)),
            ("@1970-01-02", Position::Time(86_400_000)),
            ("@2025-11-21T00:47", Position::Time(1_763_686_020_000)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for bad in ["", "soon", "@", "@yesterday", "@2025-13-01", "1.5"] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }
}
