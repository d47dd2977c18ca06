//! How many columns of a terminal a text takes, and what of it may be shown there.

/// Columns of one character: none where it joins the one before, two where it is wide.
pub fn columns_of(c: char) -> usize {
    match c as u32 {
        0..0x20 | 0x7f..0xa0 => 0,
        0x300..=0x36f | 0x483..=0x489 | 0x591..=0x5bd | 0x64b..=0x65f | 0x1ab0..=0x1aff | 0x1dc0..=0x1dff => 0,
        0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x2064 | 0x20d0..=0x20ff | 0xfe00..=0xfe0f | 0xfe20..=0xfe2f => 0,
        0xfeff | 0x1f3fb..=0x1f3ff | 0xe0000..=0xe01ef => 0,
        0x1100..=0x115f | 0x2e80..=0x303e | 0x3041..=0x4dbf | 0x4e00..=0xa4cf | 0xa960..=0xa97f => 2,
        0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe4f | 0xff00..=0xff60 | 0xffe0..=0xffe6 => 2,
        0x1f300..=0x1f64f | 0x1f680..=0x1f6ff | 0x1f900..=0x1f9ff | 0x1fa70..=0x1faff | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

pub fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// Without what would move the cursor or change the terminal: a model's words are words only. Tabs become four spaces.
pub fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => out.push_str("    "),
            '\n' => out.push(c),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_counted_as_terminals_do() {
        for (text, count) in [("abc", 3), ("é", 1), ("e\u{301}", 1), ("漢字", 4), ("🦊", 2), ("Привет", 6), ("한글", 4)]
        {
            assert_eq!(columns(text), count, "{text}");
        }
    }

    #[test]
    fn escapes_do_not_pass() {
        assert_eq!(harmless("a\x1b[2Jb\rc\td\u{9b}1m\n"), "a[2Jbc    d1m\n");
    }
}
