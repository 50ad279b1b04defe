//! Times as people write them, in UTC to the millisecond.

/// A Unix time in milliseconds as `2025-11-21T00:47:03.118Z`.
pub(crate) fn time(millis: i64) -> String {
    let (year, month, day) = civil(millis.div_euclid(86_400_000));
    let of_day = millis.rem_euclid(86_400_000);
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, millisecond) = (of_day / 1000 % 60, of_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

/// A time of a message of the proto files.
pub(crate) fn wire_time(time: pbjson_types::Timestamp) -> String {
    self::time(time.seconds * 1000 + i64::from(time.nanos / 1_000_000))
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
    if layout.is_empty() {
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

/// Reads Unix milliseconds, a date, or an RFC 3339 time in UTC or with an offset.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
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

/// Year, month and day of a day number since 1970 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The day number since 1970 of a date (the same source).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_rfc_3339() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_763_686_023_118), "2025-11-21T00:47:03.118Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00.000Z");
        for day in [-1, 0, 59, 10_957, 20_000] {
            let (year, month, date) = civil(day);
            assert_eq!(days_from_civil(year, month, date), day);
        }
        assert_eq!(laid_out(1_763_686_023_118, "15:04:05 2006-01-02"), "00:47:03 2025-11-21");
        for millis in [i64::MIN, i64::MAX] {
            let _ = laid_out(millis, "2006-01-02T15:04:05.000");
        }
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
