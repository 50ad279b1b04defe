//! Values of settings as text: durations, sizes, and suggestions for misspelt names.

use std::fmt;

/// How a setting's value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigType {
    /// The value is `true` or `false`.
    Bool,
    /// The value is a decimal integer.
    Int,
    /// Milliseconds; also accepts `250ms`, `30s`, `5m`, `12h`, `7d`.
    DurationMs,
    /// Bytes; also accepts `64KiB`, `1MiB`, `1GiB`.
    Bytes,
    Text,
}

/// Why a value does not fit a setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{value}\" is not allowed: {allowed}")]
pub struct ValueError {
    /// The value that was given.
    pub value: String,
    /// What would be accepted.
    pub allowed: String,
}

impl ValueError {
    /// The value is none of a fixed list.
    pub fn one_of(value: &str, choices: &[&str]) -> Self {
        Self { value: value.to_owned(), allowed: format!("one of {}", choices.join(", ")) }
    }

    /// The value breaks a rule given in words.
    pub fn rule(value: impl fmt::Display, allowed: impl Into<String>) -> Self {
        Self { value: value.to_string(), allowed: allowed.into() }
    }
}

const DURATION_RULE: &str = "milliseconds, or a number with ms, s, m, h or d such as 7d";
const BYTES_RULE: &str = "bytes, or a number with KiB, MiB or GiB such as 64MiB";

/// Reads a duration in milliseconds: a plain number, or one with `ms`, `s`, `m`, `h` or `d`. `-1` stays `-1`.
pub fn parse_duration_ms(text: &str) -> Result<i64, ValueError> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("", 1)];
    parse_scaled(text, &units, DURATION_RULE)
}

/// Reads a size in bytes: a plain number, or one with `KiB`, `MiB`, `GiB` or `TiB`. `-1` stays `-1`.
pub fn parse_bytes(text: &str) -> Result<i64, ValueError> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("B", 1), ("", 1)];
    parse_scaled(text, &units, BYTES_RULE)
}

const DURATION_UNITS: [(&str, i64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const BYTES_UNITS: [(&str, i64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// Milliseconds with the largest unit that leaves nothing over: `7d`, `90s`. [`parse_duration_ms`] reads it.
pub fn show_duration_ms(millis: i64) -> String {
    show_scaled(millis, &DURATION_UNITS)
}

/// Bytes with the largest unit that leaves nothing over: `1GiB`, `1048588`. [`parse_bytes`] reads it.
pub fn show_bytes(bytes: i64) -> String {
    show_scaled(bytes, &BYTES_UNITS)
}

fn show_scaled(number: i64, units: &[(&str, i64)]) -> String {
    let unit = units.iter().find(|(_, scale)| number > 0 && number % scale == 0);
    unit.map_or_else(|| number.to_string(), |(suffix, scale)| format!("{}{suffix}", number / scale))
}

fn parse_scaled(text: &str, units: &[(&str, i64)], rule: &str) -> Result<i64, ValueError> {
    let error = || ValueError::rule(text, rule);
    for (suffix, scale) in units {
        if let Some(number) = text.trim().strip_suffix(suffix) {
            let Ok(number) = number.trim_end().parse::<i64>() else { continue };
            return number.checked_mul(*scale).ok_or_else(error);
        }
    }
    Err(error())
}

/// The candidate closest to `name` by edit distance (with swapped neighbours as one edit), when it is close enough to be a slip of the finger.
pub fn suggest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.len() / 3).clamp(1, 4);
    let near = candidates.into_iter().filter(|candidate| at_least_apart(name, candidate) <= limit);
    let scored = near.map(|candidate| (strsim::osa_distance(name, candidate), candidate));
    scored.filter(|(distance, _)| *distance <= limit).min_by_key(|(distance, _)| *distance).map(|(_, found)| found)
}

/// A lower bound of the edit distance, by how often each byte occurs: cheap, and most names are far apart.
fn at_least_apart(left: &str, right: &str) -> usize {
    let mut counts = [0_i32; 256];
    left.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
    right.bytes().for_each(|byte| counts[usize::from(byte)] -= 1);
    let (more, fewer) = counts.iter().fold((0, 0), |(more, fewer), count| match count {
        count if *count > 0 => (more + count.unsigned_abs(), fewer),
        count => (more, fewer + count.unsigned_abs()),
    });
    // A character is four bytes at most, and one edit changes one character.
    usize::try_from(more.max(fewer)).unwrap_or(usize::MAX).div_ceil(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_take_units() {
        assert_eq!(parse_duration_ms("7d"), Ok(604_800_000));
        assert_eq!(parse_duration_ms("250"), Ok(250));
        assert_eq!(parse_duration_ms("90s"), Ok(90_000));
        assert_eq!(parse_duration_ms("-1"), Ok(-1));
        assert!(parse_duration_ms("soon").is_err());
        assert!(parse_duration_ms("99999999999999999d").is_err());
        assert_eq!(parse_bytes("1GiB"), Ok(1 << 30));
        assert_eq!(parse_bytes("1048588"), Ok(1_048_588));
        assert!(parse_bytes("").is_err());
    }

    #[test]
    fn what_is_shown_is_read_as_the_same() {
        for text in ["7d", "12h", "90s", "250ms", "-1", "0"] {
            assert_eq!(show_duration_ms(parse_duration_ms(text).unwrap()), text);
        }
        for text in ["1GiB", "64KiB", "1048588", "-1", "3TiB"] {
            assert_eq!(show_bytes(parse_bytes(text).unwrap()), text);
        }
    }

    #[test]
    fn a_slip_of_the_finger_gets_a_suggestion() {
        let names = ["retention.ms", "retention.bytes", "segment.bytes"];
        assert_eq!(suggest("retention.msec", names), Some("retention.ms"));
        assert_eq!(suggest("rentention.bytes", names), Some("retention.bytes"));
        assert_eq!(suggest("segmetn.bytes", names), Some("segment.bytes"));
        assert_eq!(suggest("hree", ["here"]), Some("here"));
        assert_eq!(suggest("colour", names), None);
    }
}
