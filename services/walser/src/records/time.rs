//! Times as people write them, in UTC to the millisecond.

use chrono::{DateTime, Datelike as _, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat};

/// A Unix time in milliseconds as `2025-11-21T00:47:03.118Z`; one that RFC 3339 cannot write stays a number.
pub(crate) fn time(millis: i64) -> String {
    let known = DateTime::from_timestamp_millis(millis).filter(|time| (0..=9999).contains(&time.year()));
    known.map_or_else(|| millis.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// A time of a message of the proto files.
pub(crate) fn wire_time(time: pbjson_types::Timestamp) -> String {
    self::time(millis(time))
}

/// How long before `now` a time of a message is.
pub(crate) fn since(time: pbjson_types::Timestamp, now: i64) -> String {
    duration(now.saturating_sub(millis(time)))
}

/// Unix milliseconds of a time of a message.
fn millis(time: pbjson_types::Timestamp) -> i64 {
    time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos / 1_000_000))
}

/// How long ago, to the two largest units: `3d 4h`, `12s`.
pub(crate) fn duration(millis: i64) -> String {
    let seconds = millis.max(0) / 1000;
    let parts = [("d", seconds / 86_400), ("h", seconds / 3600 % 24), ("m", seconds / 60 % 60), ("s", seconds % 60)];
    let first = parts.iter().position(|(_, count)| *count > 0).unwrap_or(parts.len() - 1);
    let shown = parts[first..].iter().take(2).enumerate().filter(|(index, (_, count))| *index == 0 || *count > 0);
    shown.map(|(_, (unit, count))| format!("{count}{unit}")).collect::<Vec<_>>().join(" ")
}

/// Parts of Go's reference time, with their places in an RFC 3339 time.
const TIME_PARTS: [(&str, std::ops::Range<usize>); 7] =
    [("2006", 0..4), ("01", 5..7), ("02", 8..10), ("15", 11..13), ("04", 14..16), ("05", 17..19), ("000", 20..23)];

/// Whether a layout names a part of a time.
pub(crate) fn is_layout(layout: &str) -> bool {
    TIME_PARTS.iter().any(|(reference, _)| layout.contains(reference))
}

/// A time in UTC by Go's reference layout, as `rpk` writes it: `2006-01-02T15:04:05.000`; empty is RFC 3339.
pub(crate) fn laid_out(millis: i64, layout: &str) -> String {
    let text = time(millis);
    if layout.is_empty() || !text.ends_with('Z') {
        return text;
    }
    let mut out = String::new();
    let mut rest = layout;
    while let Some(character) = rest.chars().next() {
        match TIME_PARTS.iter().find(|(reference, _)| rest.starts_with(reference)) {
            Some((reference, place)) => {
                out.push_str(&text[place.clone()]);
                rest = &rest[reference.len()..];
            }
            None => {
                out.push(character);
                rest = &rest[character.len_utf8()..];
            }
        }
    }
    out
}

/// Reads Unix milliseconds, a date, or an RFC 3339 time in UTC or with an offset; seconds, the offset's minutes and the
/// offset itself (UTC) may be missing. A part of a millisecond counts as a whole one, so that the first record at or after
/// the instant is meant.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    if let Ok(millis) = text.parse::<i64>() {
        return Some(millis);
    }
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Some(date.and_time(NaiveTime::MIN).and_utc().timestamp_millis());
    }
    let text = text.replacen(' ', "T", 1).replace(['z', 'Z'], "+00:00");
    let with_offset = ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z"];
    let with_offset = with_offset.iter().find_map(|form| DateTime::parse_from_str(&text, form).ok());
    let in_utc = || {
        let forms = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"];
        forms.iter().find_map(|form| NaiveDateTime::parse_from_str(&text, form).ok()).map(|time| time.and_utc())
    };
    let time = with_offset.map(|time| time.to_utc()).or_else(in_utc)?;
    let part = i64::from(time.timestamp_subsec_nanos() % 1_000_000 > 0);
    Some(time.timestamp_millis() + part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_rfc_3339() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_763_686_023_118), "2025-11-21T00:47:03.118Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(laid_out(1_763_686_023_118, "15:04:05 2006-01-02"), "00:47:03 2025-11-21");
        for millis in [i64::MIN, i64::MAX] {
            let _ = laid_out(millis, "2006-01-02T15:04:05.000");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "2025-02-31",
            "2025-13-01",
            "2025-11-21T24:00:00Z",
            "2025-11-21T00:00:00Z05",
            "2025-11-21T00:00:00.-5Z",
            "2025-11-21T00:00:00+99",
            "9223372036854775807-01-01",
            "99999999999-01-01",
            "soon",
            "",
            "2025",
            "2025-11-21T00:00:00+9223372036854775807",
            "\u{fc}",
        ] {
            assert!(parse_time(bad).is_none_or(|millis| bad.parse() == Ok(millis)), "{bad}");
        }
        for good in [
            "2025-11-21T00:00:00z",
            "2025-11-21 00:00",
            "2025-11-21",
            "2025-11-21T01:00:00+01",
            "2025-11-20T23:00-01:00",
        ] {
            assert_eq!(parse_time(good), Some(1_763_683_200_000), "{good}");
        }
        assert_eq!(parse_time("1970-01-01T00:00:00.0000001Z"), Some(1));
        assert_eq!(time(i64::MAX), i64::MAX.to_string());
    }

    #[test]
    fn durations_have_two_units_at_most() {
        for (millis, shown) in
            [(0, "0s"), (999, "0s"), (61_000, "1m 1s"), (3_600_000, "1h"), (90_061_000, "1d 1h"), (-5, "0s")]
        {
            assert_eq!(duration(millis), shown);
        }
    }
}
