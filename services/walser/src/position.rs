//! Places in a log as people write them: `earliest`, `latest`, `42`, `-10`, `@2025-11-21T00:00:00Z`, `@-1h`.

use std::str::FromStr;

use walser_model::parse_duration_ms;
use walser_proto::v1 as pb;
use walser_proto::v1::position::At;

use crate::output::days_from_civil;

/// A place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    Earliest,
    Latest,
    Offset(i64),
    /// The last so many records.
    Last(i64),
    /// Unix milliseconds.
    Time(i64),
    /// Milliseconds ago.
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
            Ok(number) if text.starts_with('-') => Ok(Self::Last(-number)),
            Ok(number) => Ok(Self::Offset(number)),
            Err(_) => Err(bad()),
        }
    }
}

/// Reads Unix milliseconds, a date, or an RFC 3339 time in UTC or with an offset.
fn parse_time(text: &str) -> Option<i64> {
    if let Ok(millis) = text.parse::<i64>() {
        return Some(millis);
    }
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00Z"));
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (clock, zone) = match time.find(['Z', '+']).or_else(|| time.rfind('-')) {
        Some(at) => time.split_at(at),
        None => (time, "Z"),
    };
    let mut parts = clock.splitn(3, ':');
    let hour: i64 = parts.next()?.parse().ok()?;
    let minute: i64 = parts.next().unwrap_or("0").parse().ok()?;
    let (second, fraction) = parts
        .next()
        .unwrap_or("0")
        .split_once('.')
        .map_or_else(|| (clock.splitn(3, ':').nth(2).unwrap_or("0"), ""), |(second, fraction)| (second, fraction));
    let second: i64 = second.parse().ok()?;
    // The first record at or after the instant: a part of a millisecond counts as a whole one.
    let nanos: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let millis = (nanos + 999_999) / 1_000_000;
    let zone_minutes = match zone {
        "Z" | "z" => 0,
        zone => {
            let (sign, rest) = zone.split_at(1);
            let (hours, minutes) = rest.split_once(':').unwrap_or((rest, "0"));
            let total = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
            if sign == "-" { -total } else { total }
        }
    };
    if !(0..24).contains(&hour) || !(0..60).contains(&minute) || !(0..61).contains(&second) {
        return None;
    }
    let seconds = (days_from_civil(year, month, day) * 24 + hour) * 3600 + (minute - zone_minutes) * 60 + second;
    Some(seconds * 1000 + millis)
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
