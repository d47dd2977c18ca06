//! Words with their looks, and lines of them as a terminal is told.

use super::width::columns_of;

/// What a terminal can colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Colours {
    None,
    Sixteen,
    Many,
    True,
}

impl Colours {
    /// As `NO_COLOR`, `COLORTERM` and `TERM` say.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Colours {
        let said = |name| variable(name).filter(|value| !value.is_empty());
        let (deep, term) = (said("COLORTERM").unwrap_or_default(), said("TERM").unwrap_or_default());
        match () {
            () if said("NO_COLOR").is_some() || term.is_empty() || term == "dumb" => Colours::None,
            () if deep.contains("truecolor") || deep.contains("24bit") || term.ends_with("-direct") => Colours::True,
            () if term.contains("256color") => Colours::Many,
            () => Colours::Sixteen,
        }
    }
}

/// The looks of a word. Colours are those of the terminal's own palette, which its owner can read on its ground.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    pub bold: bool,
    pub dim: bool,
    pub italic: bool,
    pub underlined: bool,
    pub struck: bool,
    /// Of SGR: 31 to 36, 91 to 96; 0: the terminal's ink.
    pub colour: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub text: String,
    pub look: Look,
}

impl Span {
    pub fn new(text: impl Into<String>, look: Look) -> Span {
        Span { text: text.into(), look }
    }

    pub fn plain(text: impl Into<String>) -> Span {
        Span::new(text, Look::default())
    }
}

/// A line of the screen.
pub type Line = Vec<Span>;

/// A line with its escapes; every look ends where it should.
pub fn painted(line: &[Span], colours: Colours) -> String {
    let mut out = String::new();
    for span in line {
        let Look { bold, dim, italic, underlined, struck, colour } = span.look;
        let marks = [(bold, 1), (dim, 2), (italic, 3), (underlined, 4), (struck, 9)];
        let mut codes: Vec<String> = marks.iter().filter(|(on, _)| *on).map(|(_, code)| code.to_string()).collect();
        if colour > 0 && colours > Colours::None {
            codes.push(colour.to_string());
        }
        match codes.is_empty() {
            true => out.push_str(&span.text),
            false => out.push_str(&format!("\x1b[{}m{}\x1b[0m", codes.join(";"), span.text)),
        }
    }
    out
}

pub fn columns(line: &[Span]) -> usize {
    line.iter().map(|span| super::width::columns(&span.text)).sum()
}

/// Breaks words into lines of at most `width` columns: `first` goes before the first of them, `rest` before the others.
/// A line break in a text is one, and spaces behind it stay. Words longer than a line are cut.
pub fn wrap(words: &[Span], width: usize, first: &[Span], rest: &[Span]) -> Vec<Line> {
    let mut lines = vec![first.to_vec()];
    let (mut used, mut begun, mut broken) = (columns(first), false, false);
    for span in words {
        for (at, part) in span.text.split('\n').enumerate() {
            if at > 0 {
                lines.push(rest.to_vec());
                (used, begun, broken) = (columns(rest), false, true);
            }
            for piece in pieces(part) {
                let long = super::width::columns(piece);
                let gap = piece.trim().is_empty();
                if begun && used + long > width {
                    lines.push(rest.to_vec());
                    (used, begun, broken) = (columns(rest), false, false);
                }
                if gap && !begun && !broken {
                    continue; // none where a line was broken here
                }
                broken = false;
                for (cut, part) in cut(piece, width.saturating_sub(used).max(1), width).into_iter().enumerate() {
                    if cut > 0 {
                        lines.push(rest.to_vec());
                        used = columns(rest);
                    }
                    used += super::width::columns(part);
                    let line = lines.last_mut().expect("there is a first");
                    match line.last_mut().filter(|last| begun && last.look == span.look) {
                        Some(last) => last.text.push_str(part),
                        None => line.push(Span::new(part, span.look)),
                    }
                    begun = true;
                }
            }
        }
    }
    lines
}

/// Words and the gaps between them, in turn; wide characters are words of their own.
fn pieces(text: &str) -> Vec<&str> {
    let kind = |c: char| match c {
        ' ' => 0,
        c if columns_of(c) == 2 => 2,
        _ => 1,
    };
    let mut out = Vec::new();
    let (mut start, mut last) = (0, None);
    for (at, c) in text.char_indices() {
        if columns_of(c) == 0 {
            continue; // it belongs to the one before
        }
        if last.is_some_and(|last| last != kind(c) || last == 2) {
            out.push(&text[start..at]);
            start = at;
        }
        last = Some(kind(c));
    }
    if start < text.len() {
        out.push(&text[start..]);
    }
    out
}

/// A text in parts of at most `first`, then `width` columns.
fn cut(text: &str, first: usize, width: usize) -> Vec<&str> {
    let (mut parts, mut start, mut used, mut room) = (Vec::new(), 0, 0, first);
    for (at, c) in text.char_indices() {
        let wide = columns_of(c);
        if used + wide > room && at > start {
            parts.push(&text[start..at]);
            (start, used, room) = (at, 0, width);
        }
        used += wide;
    }
    parts.push(&text[start..]);
    parts
}

/// A line of code in parts of at most `width` columns, nothing left out.
pub fn chop(line: &[Span], width: usize) -> Vec<Line> {
    let (mut lines, mut used) = (vec![Line::new()], 0);
    for span in line {
        for (at, part) in cut(&span.text, width.saturating_sub(used), width).into_iter().enumerate() {
            let full = used + super::width::columns(part) > width;
            if at > 0 || full && used > 0 {
                lines.push(Line::new());
                used = 0;
            }
            used += super::width::columns(part);
            lines.last_mut().expect("there is a first").push(Span::new(part, span.look));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: &[Line]) -> Vec<String> {
        lines.iter().map(|line| line.iter().map(|span| span.text.as_str()).collect()).collect()
    }

    #[test]
    fn words_are_broken_between_and_long_ones_inside() {
        let words = [
            Span::plain("The quick "),
            Span::new("brown", Look { bold: true, ..Look::default() }),
            Span::plain(" fox"),
        ];
        assert_eq!(text(&wrap(&words, 11, &[Span::plain("- ")], &[Span::plain("  ")])), ["- The quick", "  brown fox"]);
        assert_eq!(text(&wrap(&[Span::plain("abcdefghij")], 4, &[], &[])), ["abcd", "efgh", "ij"]);
        assert_eq!(text(&wrap(&[Span::plain("漢字漢字")], 5, &[], &[])), ["漢字", "漢字"]);
        assert_eq!(text(&wrap(&[Span::plain("one\n  two")], 9, &[], &[])), ["one", "  two"]);
        for width in 1..40 {
            let lines = wrap(&[Span::plain("Some words, longwordslongwords and 漢字 in between.")], width, &[], &[]);
            assert!(lines.iter().all(|line| columns(line) <= width.max(2)), "{width}: {lines:?}");
        }
    }

    #[test]
    fn code_is_chopped_whole() {
        let line = [Span::plain("let x = "), Span::plain("\"a long text\"")];
        for width in 1..30 {
            let lines = chop(&line, width);
            assert!(lines.iter().all(|line| columns(line) <= width), "{width}: {lines:?}");
            assert_eq!(text(&lines).concat(), "let x = \"a long text\"");
        }
    }

    #[test]
    fn terminals_say_what_they_can() {
        let colours = |pairs: &[(&str, &str)]| {
            Colours::of(|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_string()))
        };
        assert_eq!(colours(&[("TERM", "xterm")]), Colours::Sixteen);
        assert_eq!(colours(&[("TERM", "xterm-256color")]), Colours::Many);
        assert_eq!(colours(&[("TERM", "xterm-256color"), ("COLORTERM", "truecolor")]), Colours::True);
        for none in [&[("TERM", "dumb")][..], &[], &[("TERM", "xterm"), ("NO_COLOR", "1")]] {
            assert_eq!(colours(none), Colours::None);
        }
    }
}
