//! Sizes in bytes as people write and read them. K, M, G and T are powers of 1024, in both directions.

/// Powers of 1024 and their letters.
const UNITS: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];

/// `8G`, `8 GiB`, `8GB`, `1.5g`, `8589934592`: bytes, rounded down. Errors are sentences; a size is at least 1 byte.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("a size is expected, like 8G, 1.5G or 800M (G is 2^30 bytes); found {text:?}");
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
    let (number, unit) = (&trimmed[..end], trimmed[end..].trim_start().to_ascii_uppercase());
    let shift = match unit.as_str() {
        "" | "B" => 0,
        unit => {
            let known = UNITS.iter().find_map(|(letter, shift)| Some((unit.strip_prefix(*letter)?, *shift)));
            known.filter(|(rest, _)| ["", "B", "IB"].contains(rest)).ok_or_else(wrong)?.1
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return Err(wrong());
    }
    let most = || format!("{text}: more bytes than 64 bits can count");
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| most())? };
    // The fraction's first digits say more than any memory is measured to; u128 holds them times 2^40.
    let digits: String = fraction.chars().take(15).collect();
    let part = match digits.is_empty() {
        true => 0,
        false => {
            let numerator: u128 = digits.parse().map_err(|_| wrong())?;
            (numerator << shift) / 10u128.pow(digits.len() as u32)
        }
    };
    let bytes = (u128::from(whole) << shift) + part;
    match u64::try_from(bytes) {
        Ok(0) => Err(format!("{text}: at least 1 byte is expected")),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(most()),
    }
}

/// Three figures or so: `812 B`, `1.50 KiB`, `31.4 MiB`, `8.00 GiB`.
pub fn shown(bytes: u64) -> String {
    // 1023.5 would print as 1024.
    let unit = UNITS.iter().rev().find(|(_, shift)| bytes as f64 / (1u64 << shift) as f64 >= 0.9995);
    let Some((letter, shift)) = unit else { return format!("{bytes} B") };
    let value = bytes as f64 / (1u64 << shift) as f64;
    let places = if value >= 99.95 { 0 } else { if value >= 9.995 { 1 } else { 2 } };
    format!("{value:.places$} {letter}iB")
}

/// The shortest spelling that [`parse`] reads back as at least `bytes`: whole MiB, rounded up.
pub fn argument(bytes: u64) -> String {
    let mib = bytes.div_ceil(1 << 20);
    match mib.is_multiple_of(1024) && mib > 0 {
        true => format!("{}G", mib / 1024),
        false => format!("{mib}M"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_spelling_means_powers_of_1024() {
        for (text, bytes) in [
            ("8G", 8 << 30),
            ("8g", 8 << 30),
            ("8GiB", 8 << 30),
            ("8 GB", 8 << 30),
            (" 8gib ", 8 << 30),
            ("1.5G", 3 << 29),
            (".5M", 1 << 19),
            ("2.K", 2 << 10),
            ("1T", 1 << 40),
            ("800M", 800 << 20),
            ("12345", 12345),
            ("12345B", 12345),
            ("1.9", 1),
            ("0.1K", 102),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_a_sentence() {
        for text in ["", "G", "8X", "8GG", "8 Gib it", "-1G", "1e9", "1.2.3G", ".", "..", "eight", "8iB", "8,5G"] {
            assert!(parse(text).unwrap_err().contains("like 8G"), "{text}");
        }
        for text in ["0", "0G", "0.0", "0.2"] {
            assert!(parse(text).unwrap_err().contains("at least 1 byte"), "{text}");
        }
        for text in ["99999999999999999999", "99999999T", "18446744073709551616"] {
            assert!(parse(text).unwrap_err().contains("64 bits"), "{text}");
        }
    }

    #[test]
    fn sizes_for_people() {
        let shown = [0, 1023, 1024, 1536, 1_048_575, 33_000_000, 8 << 30, (1 << 40) + 1].map(shown);
        assert_eq!(
            ["0 B", "1023 B", "1.00 KiB", "1.50 KiB", "1.00 MiB", "31.5 MiB", "8.00 GiB", "1.00 TiB"],
            shown[..]
        );
    }

    proptest! {
        #[test]
        fn an_argument_is_enough_and_hardly_more(bytes in 1u64..1 << 50) {
            let read = parse(&argument(bytes)).unwrap();
            prop_assert!(read >= bytes && read - bytes < 1 << 20);
        }

        #[test]
        fn nothing_makes_it_panic(text in ".{0,12}") {
            let _ = parse(&text);
        }
    }
}
