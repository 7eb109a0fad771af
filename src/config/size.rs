//! Amounts of memory as text: `20GiB`, `500MB`, `1.5 GiB`, or plain bytes.

const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Bytes of a size such as `20GiB`: a number and a unit, of powers of 1024 (KiB, MiB, GiB, TiB) or
/// of 1000 (KB, MB, GB, TB).
///
/// # Errors
/// What was expected and found, where `text` is no such size or the size is zero.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("expected a size such as \"20GiB\" or \"500MB\", found {text:?}");
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let unit = unit.trim();
    let (_, scale) = UNITS
        .iter()
        .find(|(name, _)| unit.eq_ignore_ascii_case(name) || (unit.is_empty() && *name == "B"))
        .ok_or_else(bad)?;
    // Whole numbers stay exact; 2^53 bytes would not survive a float.
    let bytes = match number.parse::<u64>() {
        Ok(number) => number.checked_mul(*scale),
        Err(_) => {
            let bytes = number.parse::<f64>().map_err(|_| bad())? * *scale as f64;
            (bytes < u64::MAX as f64).then_some(bytes as u64)
        }
    };
    match bytes {
        Some(0) => Err(format!("expected a size above zero, found {text:?}")),
        Some(bytes) => Ok(bytes),
        None => Err(format!("{text:?} is more than any memory")),
    }
}

/// The size in the largest unit that divides it, so that [`parse_size`] gives `bytes` again.
pub fn format_size(bytes: u64) -> String {
    let exact = UNITS.iter().filter(|(_, scale)| bytes.is_multiple_of(*scale));
    exact
        .max_by_key(|(_, scale)| *scale)
        .map_or_else(|| format!("{bytes}B"), |(unit, scale)| format!("{}{unit}", bytes / scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_1024_and_of_1000() {
        assert_eq!(parse_size("20GiB"), Ok(20 << 30));
        assert_eq!(parse_size("500MB"), Ok(500_000_000));
        assert_eq!(parse_size("1.5 gib"), Ok(3 << 29));
        assert_eq!(parse_size("4096"), Ok(4096));
        for bad in ["", "GiB", "20 GiBs", "-1GB", "0GB", "1e3GB", "99999999TiB"] {
            assert!(parse_size(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn sizes_read_back_exactly() {
        for bytes in [1, 1023, 1024, 500_000_000, 20 << 30, (1 << 60) + 1, u64::MAX] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
        assert_eq!(format_size(20 << 30), "20GiB");
    }
}
