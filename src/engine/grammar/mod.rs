//! Answers held to a grammar: of all tokens only those may be drawn that can go on to something the grammar allows.
//!
//! A grammar is compiled once, within limits that no text can exceed ([`Grammars::compile`]), and then walked by every
//! answer on its own ([`Walk`]). What it allows is a set of tokens for each step, worked out after the token before it was
//! drawn; what the model thinks of them is the sampler's affair.

pub mod calls;
mod gbnf;
mod landing;
mod lark;

use super::text::Text;
use crate::error::{Error, Result};
use landing::Landing;
use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::{JsonCompileOptions, Logger, Matcher, ParserFactory, TokenParser};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use toktrie::{ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};

/// Bytes of one grammar or schema as text.
const MOST_BYTES: usize = 256 << 10;
/// Brackets inside brackets: the library's parsers go down the stack with them.
const MOST_DEPTH: usize = 96;
/// Steps from a schema's root to its innermost part, references followed, and references that are no plain paths.
const MOST_STEPS: usize = 400;
const MOST_NAMED: usize = 64;
/// Patterns for names, each held against every other and against every name.
const MOST_PATTERNS: usize = 4_000;
/// Names of properties: the library looks each up among those before it.
const MOST_NAMES: usize = 5_000;
/// Patterns that one text must satisfy: with each the automaton of all of them multiplies.
const MOST_MET: usize = 16;
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
        matches!(self, Form::Object | Form::Schema(_)) || matches!(self, Form::Calls(calls) if calls.required)
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
            Form::Object => ("object", schema(json!({ "type": "object" }))?),
            Form::Schema(value) => ("schema", schema(value.clone())?),
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

/// Bounds of time and memory: some 20 ms to compile, 15 ms for the tokens of one step, 40 MB, each at the very worst.
fn limits() -> ParserLimits {
    ParserLimits {
        max_lexer_states: 20_000,
        max_grammar_size: 100_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// As `json.dumps` writes it, which is what models have seen most: one blank after a comma or a colon and no other.
fn schema(value: Value) -> Result<TopLevelGrammar> {
    checked(value).map(TopLevelGrammar::from_json_schema)
}

/// A schema within limits, with what the library is to make of it.
fn checked(mut value: Value) -> Result<Value> {
    if !value.is_object() {
        return Err(Error::Usage("the schema is no object".into()));
    }
    follow(&value, &mut Named::default())?;
    let options = JsonCompileOptions {
        item_separator: ", ".into(),
        key_separator: ": ".into(),
        whitespace_flexible: false,
        ..JsonCompileOptions::default()
    };
    options.apply_to(&mut value);
    Ok(value)
}

/// A schema is neither too large nor too deep, nor has it, with `named` of others beside it, too many patterns.
fn follow(value: &Value, named: &mut Named) -> Result<()> {
    check_size("schema", &value.to_string())?;
    Steps { root: value, seen: HashMap::new(), elsewhere: 0, named }.follow(value, 0)
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

/// Follows a schema the way the library does, which goes down the stack with it.
struct Steps<'a> {
    root: &'a Value,
    seen: HashMap<&'a str, ()>,
    /// References that are no paths.
    elsewhere: usize,
    named: &'a mut Named,
}

/// Properties by name and by pattern, so far.
#[derive(Default)]
struct Named {
    names: usize,
    patterns: usize,
}

impl<'a> Steps<'a> {
    fn follow(&mut self, value: &'a Value, depth: usize) -> Result<()> {
        if depth > MOST_STEPS {
            return Err(Error::Usage(format!("the schema is more than {MOST_STEPS} steps deep, references followed")));
        }
        match value {
            Value::Array(list) => list.iter().try_for_each(|inner| self.follow(inner, depth + 1)),
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    self.refer(reference, depth)?;
                }
                map.values().try_for_each(|inner| self.follow(inner, depth + 1))?;
                self.count(map)
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, map: &'a Map<String, Value>) -> Result<()> {
        let members = |key: &str| map.get(key).and_then(Value::as_object).map_or(0, Map::len);
        let Named { names, patterns } = self.named;
        *names += members("properties") + map.get("required").and_then(Value::as_array).map_or(0, Vec::len);
        *patterns += members("patternProperties");
        if *names > MOST_NAMES {
            return Err(Error::Usage(format!("the schema names more than {MOST_NAMES} properties")));
        }
        if *patterns * (*names + *patterns) > MOST_PATTERNS {
            return Err(Error::Usage(format!(
                "the schema has {patterns} patterns in patternProperties and {names} names of properties, too many to tell apart"
            )));
        }
        let met = map.contains_key("allOf") || (map.contains_key("$ref") && map.len() > 1);
        if met && self.patterns_in(map, &mut HashSet::new(), 0) > MOST_MET {
            return Err(Error::Usage(format!(
                "the schema holds texts to more than {MOST_MET} patterns by allOf or $ref"
            )));
        }
        Ok(())
    }

    /// Patterns of texts in a part of the schema, references followed; beyond the limit where that goes too deep.
    fn patterns_in(&self, map: &'a Map<String, Value>, seen: &mut HashSet<&'a str>, depth: usize) -> usize {
        if depth > MOST_STEPS {
            return MOST_MET + 1;
        }
        let own = ["pattern", "format"].iter().filter(|key| map.get(**key).is_some_and(Value::is_string)).count();
        let named = map.get("$ref").and_then(Value::as_str).filter(|path| seen.insert(path));
        let named = named.and_then(|path| self.root.pointer(path.strip_prefix('#')?));
        let inner = map.values().flat_map(|inner| inner.as_array().map_or(std::slice::from_ref(inner), Vec::as_slice));
        let maps = inner.chain(named).filter_map(Value::as_object);
        own + maps.map(|map| self.patterns_in(map, seen, depth + 1)).sum::<usize>()
    }

    fn refer(&mut self, reference: &'a str, depth: usize) -> Result<()> {
        if self.seen.insert(reference, ()).is_some() {
            return Ok(());
        }
        match reference.strip_prefix('#').map(|path| self.root.pointer(path)) {
            Some(Some(inner)) => self.follow(inner, depth + 1),
            _ if self.elsewhere == MOST_NAMED => {
                Err(Error::Usage(format!("the schema has more than {MOST_NAMED} references that are no paths in it")))
            }
            _ => {
                self.elsewhere += 1;
                Ok(())
            }
        }
    }
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
