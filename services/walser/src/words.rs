//! Numbers in words.

/// Bytes for people: `1.2 GiB`.
pub(crate) fn bytes(count: i64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A number with separators: `1,204,331`.
pub(crate) fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if number < 0 { format!("-{out}") } else { out }
}

/// The first `named_max` of `count` names, and how many more there are.
pub(crate) fn first_of(names: impl Iterator<Item = String>, count: usize, named_max: usize) -> String {
    let named = names.take(named_max).collect::<Vec<_>>().join(", ");
    match count.saturating_sub(named_max) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// `1 record`, `2 records`.
pub(crate) fn plural(number: i64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}
