//! What each token id stands for, in bytes: one flat table, so that decoding is copying.
//!
//! Byte-level BPE writes a token as text by giving each byte a printable character of its own. The table
//! undoes that once, at load. Special tokens and padding rows are known here too: both decode to nothing.

use std::ops::Range;

/// The bytes of every id below [`Pieces::limit`].
pub struct Pieces {
    bytes: Vec<u8>,
    /// `ends[id]` is where the bytes of `id` end; they begin where those of `id - 1` end.
    ends: Vec<u32>,
    kinds: Vec<Kind>,
}

/// What an id is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A piece of text; user-defined added tokens (`<tool_call>`) are text too.
    Text,
    /// A control token (`<|im_end|>`): it has a spelling, but is no part of an answer.
    Special,
    /// A row of the embedding without a token: never sampled, decodes to nothing.
    Padding,
}

/// One token, as the table is built from.
pub struct Token<'a> {
    pub id: u32,
    pub text: &'a str,
    pub kind: Kind,
    /// The text is spelled in the alphabet of byte-level BPE; added tokens are spelled literally.
    pub byte_level: bool,
}

impl Pieces {
    /// Builds the table; ids nobody names are padding. A later token of the same id wins.
    pub fn new<'a>(tokens: impl IntoIterator<Item = Token<'a>>) -> Pieces {
        let mut by_id: Vec<Option<Token<'a>>> = Vec::new();
        for token in tokens.into_iter().filter(|t| t.kind != Kind::Padding) {
            let id = token.id as usize;
            if by_id.len() <= id {
                by_id.resize_with(id + 1, || None);
            }
            by_id[id] = Some(token);
        }
        let alphabet = Alphabet::new();
        let (mut bytes, mut ends, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
        for token in &by_id {
            match token {
                Some(t) if t.byte_level => alphabet.append(t.text, &mut bytes),
                Some(t) => bytes.extend_from_slice(t.text.as_bytes()),
                None => {}
            }
            ends.push(u32::try_from(bytes.len()).expect("a vocabulary came out of memory maps far below 4 GiB"));
            kinds.push(token.as_ref().map_or(Kind::Padding, |t| t.kind));
        }
        Pieces { bytes, ends, kinds }
    }

    /// One more than the highest id that has a token. Ids from here on are padding.
    pub fn limit(&self) -> usize {
        self.kinds.len()
    }

    pub fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Padding)
    }

    /// The spelling of any id, special ones included; empty for padding.
    pub fn spelling(&self, id: u32) -> &[u8] {
        if (id as usize) < self.limit() { &self.bytes[self.range(id as usize)] } else { &[] }
    }

    /// Ids below the limit that have no token.
    pub fn holes(&self) -> Vec<u32> {
        (0u32..).zip(&self.kinds).filter(|(_, k)| **k == Kind::Padding).map(|(id, _)| id).collect()
    }

    fn range(&self, id: usize) -> Range<usize> {
        let start = if id == 0 { 0 } else { self.ends[id - 1] as usize };
        start..self.ends[id] as usize
    }
}

/// The printable character byte-level BPE writes for each byte: Latin-1 where that is printable; the other 68
/// take, in order, the characters from U+0100 on.
pub fn byte_characters() -> impl Iterator<Item = (u8, char)> {
    let mut next = '\u{100}'..;
    (0..=255u8).map(move |byte| match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => (byte, byte as char),
        _ => (byte, next.next().expect("an open range of characters does not end")),
    })
}

/// [`byte_characters`], undone.
struct Alphabet {
    bytes: [Option<u8>; 256 + 68],
}

impl Alphabet {
    fn new() -> Alphabet {
        let mut bytes = [None; 256 + 68];
        for (byte, character) in byte_characters() {
            bytes[character as usize] = Some(byte);
        }
        Alphabet { bytes }
    }

    /// Appends the bytes `text` spells; a text with any foreign character stands for itself as a whole.
    fn append(&self, text: &str, out: &mut Vec<u8>) {
        let start = out.len();
        for c in text.chars() {
            match self.bytes.get(c as usize).copied().flatten() {
                Some(byte) => out.push(byte),
                None => {
                    out.truncate(start);
                    out.extend_from_slice(text.as_bytes());
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32, text: &str, kind: Kind, byte_level: bool) -> Token<'_> {
        Token { id, text, kind, byte_level }
    }

    #[test]
    fn the_alphabet_is_a_bijection() {
        let alphabet = Alphabet::new();
        let mut seen: Vec<u8> = alphabet.bytes.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=255u8).collect::<Vec<_>>());
        let mut out = Vec::new();
        alphabet.append("ĠHiĊ", &mut out);
        assert_eq!(out, b" Hi\n");
    }

    #[test]
    fn gaps_and_padding_are_empty_and_the_limit_ignores_trailing_padding() {
        let pieces = Pieces::new([
            token(0, "Ġa", Kind::Text, true),
            token(2, "<|im_end|>", Kind::Special, false),
            token(3, "<é >", Kind::Text, false),
            token(9, "[PAD9]", Kind::Padding, true),
        ]);
        assert_eq!(pieces.limit(), 4);
        assert_eq!(pieces.holes(), [1]);
        assert_eq!(pieces.spelling(0), b" a");
        assert_eq!(pieces.spelling(1), b"");
        assert_eq!(pieces.spelling(2), b"<|im_end|>");
        assert_eq!(pieces.spelling(3), "<é >".as_bytes());
        assert_eq!(pieces.spelling(9), b"");
        assert_eq!(pieces.spelling(u32::MAX), b"");
        assert_eq!((pieces.kind(2), pieces.kind(7)), (Kind::Special, Kind::Padding));
    }
}
