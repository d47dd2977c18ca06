//! A way out: when an answer held to a schema is about to run out of tokens, it is brought to an end the schema allows.
//!
//! A model that rambles in a string would otherwise leave text that is no JSON. The way is looked for byte by byte: what
//! closes first, then what is forced, then what fills. It is short, not the shortest, and there may be none (a pattern
//! nothing here fits): then the answer is cut off like any other. Near the end every token is tried before it is taken: one
//! that opens more than can be closed in time (an object with all it must have, another call) is not.

use llguidance::Matcher;
use toktrie::TokTrie;

/// Where the way out leaves no more tokens than these, each is tried: a way may grow so much by one token.
const ZONE: usize = 256;
/// Most tokens between two looks for a way before that.
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
    /// The way from here, where tokens are tried.
    ready: Option<Vec<u32>>,
}

impl Landing {
    pub fn new(trie: &TokTrie) -> Landing {
        let letters = Box::new(std::array::from_fn(|byte| trie.token_id(&[byte as u8])));
        Landing { letters, place: Place::default(), look: usize::MAX, ready: None }
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
        let way = self.ready.take().or_else(|| self.way_out(self.place, left, matcher.clone(), trie));
        let Some(way) = way else {
            self.look = left - STRIDE.min(left);
            return None;
        };
        let spare = left - (way.len() + 1);
        match spare {
            0 => return Some(way),
            1..=ZONE => (self.look, self.ready) = (left - 1, Some(way)),
            _ => self.look = left - (spare - ZONE).min(STRIDE),
        }
        None
    }

    /// Whether the next token has to be tried.
    pub fn tries(&self) -> bool {
        self.ready.is_some()
    }

    /// The way out, where it must be taken instead of `token`, after which there would be none that is short enough.
    pub fn instead_of(&mut self, token: u32, left: usize, matcher: &Matcher, trie: &TokTrie) -> Option<Vec<u32>> {
        let way = self.ready.take()?;
        let (mut place, mut after) = (self.place, matcher.clone());
        trie.token(token).iter().for_each(|byte| place.pass(*byte));
        self.ready = match after.consume_token(token) {
            Ok(()) => self.way_out(place, left - 1, after, trie),
            Err(_) => None,
        };
        self.ready.is_none().then_some(way)
    }

    /// A way from `place`, where `matcher` is, for which `left` tokens suffice, the one that ends the answer among them.
    fn way_out(&self, mut place: Place, left: usize, mut matcher: Matcher, trie: &TokTrie) -> Option<Vec<u32>> {
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
        let way = trie.greedy_tokenize(&way);
        (!matcher.is_error() && way.len() < left).then_some(way)
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
