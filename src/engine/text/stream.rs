//! Text out of bytes that arrive in pieces: no character is ever split, and the pieces joined are exactly
//! what decoding everything at once would give.

/// Holds back the bytes of an unfinished character (three at most).
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    held: Vec<u8>,
}

impl TextStream {
    pub fn new() -> TextStream {
        TextStream::default()
    }

    /// Takes the bytes of one token; gives the text that is complete now, perhaps none.
    /// Bytes that can never become a character turn into U+FFFD, one for each broken sequence.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.held.len());
        let mut rest = self.held.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(e) => {
                    let (valid, broken) = rest.split_at(e.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).expect("checked up to here by the same function"));
                    rest = broken;
                    // Without a length the sequence is only unfinished: the next token may finish it.
                    let Some(length) = e.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[length..];
                }
            }
        }
        let keep = rest.len();
        self.held.drain(..self.held.len() - keep);
        text
    }

    /// The end of the answer: an unfinished character becomes one U+FFFD.
    pub fn finish(&mut self) -> String {
        let unfinished = !std::mem::take(&mut self.held).is_empty();
        if unfinished { char::REPLACEMENT_CHARACTER.to_string() } else { String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_character_in_four_bytes_arrives_whole() {
        let mut stream = TextStream::new();
        let out: Vec<String> = "🦙".bytes().map(|b| stream.push(&[b])).collect();
        assert_eq!(out, ["", "", "", "🦙"]);
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn an_unfinished_character_is_replaced_at_the_end_only() {
        let mut stream = TextStream::new();
        assert_eq!(stream.push(&[b'a', 0xF0, 0x9F]), "a");
        assert_eq!(stream.finish(), "\u{FFFD}");
        assert_eq!(stream.finish(), "");
    }

    proptest! {
        #[test]
        fn any_split_of_any_bytes_reads_as_the_whole(chunks in prop::collection::vec(prop::collection::vec(
            prop_oneof![Just(0xF0u8), Just(0x9F), Just(0xA6), Just(0x99), Just(0xE2), Just(0xC3), Just(b'x'), any::<u8>()],
            0..5), 0..40)) {
            let mut stream = TextStream::new();
            let mut text: String = chunks.iter().map(|c| stream.push(c)).collect();
            text.push_str(&stream.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&chunks.concat()).into_owned());
        }
    }
}
