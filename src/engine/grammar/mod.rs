//! Answers held to a grammar: of all tokens only those may be drawn that can go on to something the grammar allows.
//!
//! A grammar is compiled once, within limits that no text can exceed ([`Grammars::compile`]), and then walked by every
//! answer on its own ([`Walk`]). What it allows is a set of tokens for each step, worked out after the token before it was
//! drawn; what the model thinks of them is the sampler's affair.

pub mod calls;
mod gbnf;
mod landing;
mod lark;
mod schema;

use super::text::Text;
use crate::error::{Error, Result};
use landing::Landing;
use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::{Logger, Matcher, ParserFactory, TokenParser};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use toktrie::{ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};

/// Bytes of one grammar or schema as text.
const MOST_BYTES: usize = 256 << 10;
/// Brackets inside brackets: the library's parsers go down the stack with them.
const MOST_DEPTH: usize = 96;
/// Patterns that one text must satisfy: with each the automaton of all of them multiplies.
const MOST_MET: usize = 8;
/// Characters of the library's explanation that are passed on.
const MOST_WORDS: usize = 500;

/// What an answer must be.
#[derive(Clone, Debug)]
pub enum Form {
    /// Any JSON object.
    Object,
    /// JSON that a schema allows, on one line, its properties in the order of the schema.
    Schema(Value),
    /// What a grammar allows, in llama.cpp's notation (GBNF, told by its `::=`) or in the library's (Lark).
    Grammar(String),
    /// Calls of functions, or text in which there may be some.
    Calls(calls::Calls),
}

impl Form {
    /// Whether it is JSON, or JSON in a wrapping that leaves no choice, so that an answer can be brought to its end.
    fn lands(&self) -> bool {
        matches!(self, Form::Object | Form::Schema(_))
            || matches!(self, Form::Calls(calls) if calls.required || calls.otherwise.is_some())
    }
}

/// Makes grammars for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
}

impl Grammars {
    /// A trie of all tokens: for 151,936 of them half a second and some 40 MB.
    pub fn new(text: &Text) -> Result<Grammars> {
        let spelling = |id: u32| match text.is_special(id) {
            // Never equal to a piece of text: text is UTF-8, which has no such byte.
            true => [&[TokTrie::SPECIAL_TOKEN_MARKER], text.spelling(id)].concat(),
            false => text.spelling(id).to_vec(),
        };
        let words: Vec<Vec<u8>> = (0..text.limit() as u32).map(spelling).collect();
        let end = text.eos().first().copied().unwrap_or(INVALID_TOKEN);
        let mut trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, end), &words);
        if !text.eos().is_empty() {
            trie = trie.with_eos_tokens(text.eos());
        }
        let environment = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let factory = ParserFactory::new(&(environment as _), InferenceCapabilities::default(), &slices);
        let mut factory = factory.map_err(|e| Error::Runtime(format!("the vocabulary fits into no trie: {e}")))?;
        *factory.limits_mut() = limits();
        Ok(Grammars { factory })
    }

    /// Errors (usage): a schema or grammar that is too large, makes no sense, or asks for what is not supported, by name.
    pub fn compile(&self, form: &Form) -> Result<Grammar> {
        let (what, grammar) = match form {
            Form::Object => ("object", schema::grammar(json!({ "type": "object" }))?),
            Form::Schema(value) => ("schema", schema::grammar(value.clone())?),
            Form::Grammar(text) => {
                check_size("grammar", text)?;
                let lark = if text.contains("::=") { gbnf::to_lark(text)? } else { text.clone() };
                lark::check(&lark)?;
                ("grammar", TopLevelGrammar::from_lark(lark))
            }
            Form::Calls(calls) => {
                let lark = calls::to_lark(calls)?;
                check_length("set of functions", &lark)?;
                lark::check(&lark)?;
                ("set of functions", TopLevelGrammar::from_lark(lark))
            }
        };
        let parser = self.factory.create_parser_from_init_ext(
            GrammarInit::Serialized(grammar),
            Logger::new(0, 0),
            InferenceCapabilities::default(),
            limits(),
        );
        let mut parser = parser.map_err(|e| refused(what, &e.to_string()))?;
        if let Some(warning) = parser.grammar_warnings().first() {
            return Err(refused(what, warning));
        }
        parser.start_without_prompt();
        // A grammar without a first token is refused before a stream begins.
        let mut first = Matcher::new(Ok(parser.deep_clone()));
        if first.compute_mask().is_err() && !first.is_accepting().unwrap_or(false) {
            return Err(refused(what, "nothing satisfies it"));
        }
        let environment = self.factory.tok_env().clone();
        Ok(Grammar { parser: Arc::new(Mutex::new(parser)), environment, lands: form.lands() })
    }
}

/// Bounds of time and memory: some 15 ms for the tokens of one step and 40 MB at the very worst. Half a second to compile:
/// patterns that a text must satisfy all at once are looked through before the first step, for a text that does.
fn limits() -> ParserLimits {
    ParserLimits {
        max_lexer_states: 20_000,
        max_grammar_size: 100_000,
        initial_lexer_fuel: 500_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

fn check_length(what: &str, text: &str) -> Result<()> {
    let kib = MOST_BYTES >> 10;
    match text.len() > MOST_BYTES {
        true => Err(Error::Usage(format!("the {what} has {} bytes; at most {kib} KiB are read", text.len()))),
        false => Ok(()),
    }
}

fn check_size(what: &str, text: &str) -> Result<()> {
    check_length(what, text)?;
    let mut depth = 0usize;
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MOST_DEPTH {
            return Err(Error::Usage(format!("the {what} nests brackets more than {MOST_DEPTH} deep")));
        }
    }
    Ok(())
}

/// The library's words, shortened, without its own state and backtraces.
fn refused(what: &str, why: &str) -> Error {
    let why = why.split("\n<").next().unwrap_or_default().trim();
    let why = match why.strip_prefix("panic: ") {
        Some(_) => "it is more than the grammar library can work with",
        None => why,
    };
    let shown: String = why.chars().take(MOST_WORDS).collect();
    Error::Usage(format!("this {what} cannot be held to: {shown}"))
}

/// A compiled grammar. Cheap to clone.
#[derive(Clone)]
pub struct Grammar {
    /// Never moves on; every answer walks a copy.
    parser: Arc<Mutex<TokenParser>>,
    environment: TokEnv,
    lands: bool,
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grammar")
    }
}

impl Grammar {
    /// From its beginning.
    pub fn walk(&self) -> Walk {
        let parser = self.parser.lock().unwrap_or_else(PoisonError::into_inner).deep_clone();
        let landing = self.lands.then(|| Landing::new(self.environment.tok_trie()));
        let environment = self.environment.clone();
        Walk { matcher: Matcher::new(Ok(parser)), environment, landing, way: None, mask: Vec::new() }
    }
}

/// One answer's way through a grammar.
pub struct Walk {
    matcher: Matcher,
    environment: TokEnv,
    landing: Option<Landing>,
    /// The way out, once it is taken.
    way: Option<VecDeque<u32>>,
    mask: Vec<u32>,
}

impl Walk {
    /// The tokens that may come next, those that end an answer among them where the grammar may end: a bit for each, 32 to
    /// a word, the lowest first. `left` tokens may still be written: where the answer is JSON that would not be whole by
    /// then, only those are allowed that make it so.
    ///
    /// Errors (usage): the grammar allows so much at once that working it out would take too long.
    pub fn allowed(&mut self, left: usize) -> Result<&[u32]> {
        if self.way.is_none()
            && let Some(landing) = &mut self.landing
        {
            self.way = landing.begin(left, &self.matcher, self.environment.tok_trie()).map(VecDeque::from);
        }
        let trie = self.environment.tok_trie();
        let mask = match self.way.as_mut().map(VecDeque::pop_front) {
            None => self.matcher.compute_mask().map_err(|e| refused("grammar", &e.to_string()))?,
            Some(Some(token)) => trie.singleton_token_set(token),
            Some(None) => trie.eos_token_set(),
        };
        self.mask.clear();
        self.mask.extend_from_slice(mask.as_slice());
        Ok(&self.mask)
    }

    /// Whether the next token may be one that [`strands`](Walk::strands) the answer.
    pub fn is_near_its_end(&self) -> bool {
        self.way.is_none() && self.landing.as_ref().is_some_and(Landing::tries)
    }

    /// Whether after `id`, drawn from those allowed, no way out would be short enough: then the way from here is taken, and
    /// [`allowed`](Walk::allowed) gives its first token instead.
    pub fn strands(&mut self, id: u32, left: usize) -> bool {
        let Some(landing) = self.landing.as_mut().filter(|_| self.way.is_none()) else { return false };
        let way = landing.instead_of(id, left, &self.matcher, self.environment.tok_trie());
        self.way = way.map(VecDeque::from);
        self.way.is_some()
    }

    /// Whether the answer is on its way out, for want of tokens.
    pub fn is_landing(&self) -> bool {
        self.way.is_some()
    }

    /// Goes on with a token that was allowed. True when nothing can come after it.
    pub fn take(&mut self, id: u32) -> Result<bool> {
        self.matcher.consume_token(id).map_err(|e| refused("grammar", &e.to_string()))?;
        if let Some(landing) = &mut self.landing {
            landing.pass(self.environment.tok_trie().token(id));
        }
        Ok(self.matcher.is_stopped())
    }
}
