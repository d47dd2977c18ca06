//! A way out: when an answer held to a schema is about to run out of tokens, it is brought to an end the schema allows.
//!
//! A model that rambles in a string would otherwise leave text that is no JSON. The way is looked for byte by byte: what
//! closes first, then what is forced, then what fills. It is short, not the shortest, and there may be none (a pattern
//! nothing here fits): then the answer is cut off like any other.

use llguidance::Matcher;
use toktrie::TokTrie;

/// Tokens by which the way out may grow with the next one: an object that was opened, with all it must have.
const MARGIN: usize = 32;
/// Most tokens between two looks for a way.
const STRIDE: usize = 32;
/// Bytes of a way, for each token that is left.
const BYTES_EACH: usize = 4;

/// Where in JSON the last byte was.
#[derive(Clone, Copy, Default)]
struct Place {
    in_string: bool,
    escaped: bool,
}

impl Place {
    fn pass(&mut self, byte: u8) {
        match (self.in_string, self.escaped, byte) {
            (true, true, _) => self.escaped = false,
            (true, false, b'\\') => self.escaped = true,
            (_, _, b'"') => self.in_string = !self.in_string,
            _ => {}
        }
    }
}

/// Watches how far the end is.
pub struct Landing {
    /// The token of each byte.
    letters: Box<[Option<u32>; 256]>,
    place: Place,
    /// Look for a way again when so many tokens are left.
    look: usize,
}

impl Landing {
    pub fn new(trie: &TokTrie) -> Landing {
        let letters = Box::new(std::array::from_fn(|byte| trie.token_id(&[byte as u8])));
        Landing { letters, place: Place::default(), look: usize::MAX }
    }

    /// The answer went on by these bytes.
    pub fn pass(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.place.pass(*byte));
    }

    /// The way out, once it must be taken: `left` tokens are, the one that ends the answer among them.
    pub fn begin(&mut self, left: usize, matcher: &Matcher, trie: &TokTrie) -> Option<Vec<u32>> {
        if left > self.look {
            return None;
        }
        let way = self.way_out(left, matcher.clone()).map(|bytes| trie.greedy_tokenize(&bytes));
        // One more ends the answer.
        let spare = way.as_ref().map(|way| left.saturating_sub(way.len() + 1 + MARGIN));
        self.look = left - spare.map_or(STRIDE, |spare| spare / 2).clamp(1, STRIDE).min(left);
        way.filter(|way| spare == Some(0) && way.len() < left)
    }

    fn way_out(&self, left: usize, mut matcher: Matcher) -> Option<Vec<u8>> {
        let mut place = self.place;
        let mut way = Vec::new();
        while !matcher.is_stopped() && !matcher.is_accepting().ok()? {
            if way.len() > left.saturating_mul(BYTES_EACH) {
                return None;
            }
            let mut bytes = matcher.compute_ff_bytes();
            if bytes.is_empty() {
                bytes.push(self.next(place, way.len(), &mut matcher)?);
            } else {
                let tokens: Option<Vec<u32>> = bytes.iter().map(|byte| self.letters[usize::from(*byte)]).collect();
                matcher.consume_tokens(&tokens?).ok()?;
            }
            bytes.iter().for_each(|byte| place.pass(*byte));
            way.extend(bytes);
        }
        (!matcher.is_error()).then_some(way)
    }

    /// Takes the first byte that may come next, in an order that leads out.
    fn next(&self, place: Place, at: usize, matcher: &mut Matcher) -> Option<u8> {
        let closing: &[u8] = if place.in_string { b"\"" } else { b"}]" };
        // No filler satisfies every pattern, so they take turns, each longer than the one before: 4, 8, 16 and so on.
        let turn = (at / 4 + 1).ilog2() as usize % 3;
        let fillers: [&[u8]; 3] = match place.in_string {
            true => [b"a0A-", b"0aA.", b"@./:-a0"],
            false => [b",\"0123456789ntf.e-[{", b"0123456789,\"ntf.e-[{", b",\"0123456789ntf.e-[{"],
        };
        let rest: Vec<u8> = (0x20..=0xFF).collect();
        for byte in closing.iter().chain(fillers[turn]).chain(&rest) {
            let Some(token) = self.letters[usize::from(*byte)] else { continue };
            match matcher.try_consume_tokens(&[token]) {
                Ok(1) => return Some(*byte),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
        None
    }
}
