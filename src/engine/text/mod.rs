//! Between people's text and the model's token ids: the tokenizer, what ends an answer, the chat template.
//!
//! Both containers (files beside the weights, keys inside a GGUF) become the same `Parts` and go one road
//! from there, so that a model answers alike in either.

mod bpe;
mod clock;
mod folder;
mod gguf;
mod guards;
mod pattern;
mod pieces;
mod stream;
mod template;
mod tools;

pub use pattern::Pattern;
pub use stream::TextStream;
pub use template::{CHATML, Message, Template, TemplateOverride};
pub use tools::CALL;

use crate::checkpoint::TextSource;
use crate::config::Config;
use crate::error::{Error, Result};
use folder::Shelf;
use pieces::{Kind, Pieces};
use std::sync::{PoisonError, RwLock};
use tokenizers::Tokenizer;

/// Special tokens that end an answer in this family, also where a file forgets to say so. The other
/// end-of-something tokens of the vocabulary (`<|file_sep|>` and so on) end one only if the file lists them.
const ENDS: [&str; 2] = ["<|endoftext|>", "<|im_end|>"];

/// A model's way with text.
pub struct Text {
    /// Behind a lock because "are special tokens parsed?" is a setting of the tokenizer, not of a call: it is
    /// off for the length of one call at a time.
    tokenizer: RwLock<Tokenizer>,
    pieces: Pieces,
    eos: Vec<u32>,
    leading: Option<u32>,
    template: Template,
    notes: Vec<String>,
}

/// What a container says about text.
struct Parts {
    vocabulary: bpe::Vocabulary,
    /// Ids that end an answer, besides those of the config.
    eos: Vec<u32>,
    /// The id of the first token of every plain prompt, where the container gives it as an id...
    leading: Option<u32>,
    /// ... and whether there is one at all; otherwise it is `bos_token` of `named`.
    add_bos: bool,
    /// Special tokens by the names templates use (`bos_token`), with their text.
    named: Vec<(String, String)>,
    /// The chat template and where it stands.
    template: Option<(String, String)>,
    notes: Vec<String>,
}

impl Text {
    /// Reads the tokenizer and compiles the template.
    ///
    /// Errors: model for files or keys that are missing, damaged, of another kind of tokenizer, or with more
    /// ids than the model has rows; usage for a template the user named wrongly.
    pub fn open(source: &TextSource, config: &Config, chosen: TemplateOverride) -> Result<Text> {
        let parts = match source {
            TextSource::Folder(folder) => folder::read(&Shelf::Folder(folder))?,
            TextSource::Kept(kept) => folder::read(&Shelf::Kept(kept))?,
            TextSource::Gguf(keys) => gguf::read(keys)?,
        };
        let Parts { vocabulary, eos, leading, add_bos, named, template, mut notes } = parts;
        let (mut tokenizer, pieces) = vocabulary.build(config.vocab)?;
        tokenizer.set_encode_special_tokens(false);
        let id_named =
            |name: &str| named.iter().find(|(n, _)| n == name).and_then(|(_, text)| tokenizer.token_to_id(text));
        let special = |text: &&str| tokenizer.token_to_id(text).filter(|id| pieces.kind(*id) == Kind::Special);
        let mut ends: Vec<u32> = config.eos.iter().copied().chain(eos).chain(id_named("eos_token")).collect();
        ends.extend(ENDS.iter().filter_map(special));
        ends.sort_unstable();
        ends.dedup();
        if ends.is_empty() {
            notes.push("no token ends an answer: generation stops at its length limit or a full context".to_string());
        }
        if template.is_none() && chosen == TemplateOverride::Checkpoint {
            notes.push("the checkpoint has no chat template: plain ChatML is used".to_string());
        }
        let leading = leading.or_else(|| add_bos.then(|| id_named("bos_token")).flatten());
        let template = Template::new(template, &chosen, named)?;
        Ok(Text { tokenizer: RwLock::new(tokenizer), pieces, eos: ends, leading, template, notes })
    }

    /// Token ids of a text. With `special`, special tokens spelled out in it are those tokens: for rendered
    /// templates. Without, they are plain text like any other: for words that come from outside. Added tokens
    /// that are not special (`<tool_call>`) are found either way. Nothing is put before or after.
    ///
    /// Errors (runtime): text the splitting pattern gives up on (a million blanks in a row).
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let failed = |e| Error::Runtime(format!("a text of {} bytes could not be split into tokens: {e}", text.len()));
        if !special {
            let mut tokenizer = self.tokenizer.write().unwrap_or_else(PoisonError::into_inner);
            tokenizer.set_encode_special_tokens(true);
            let encoding = tokenizer.encode_fast(text, false);
            tokenizer.set_encode_special_tokens(false);
            return Ok(encoding.map_err(failed)?.get_ids().to_vec());
        }
        let tokenizer = self.tokenizer.read().unwrap_or_else(PoisonError::into_inner);
        Ok(tokenizer.encode_fast(text, false).map_err(failed)?.get_ids().to_vec())
    }

    /// Text of token ids; special tokens and padding are nothing, broken characters U+FFFD.
    /// Equal to what a [`TextStream`] makes of the [`piece`](Text::piece)s.
    pub fn decode(&self, ids: &[u32]) -> String {
        String::from_utf8_lossy(&ids.iter().flat_map(|&id| self.piece(id)).copied().collect::<Vec<u8>>()).into_owned()
    }

    /// The bytes of one token in an answer: perhaps a part of a character, nothing for special tokens and padding.
    pub fn piece(&self, id: u32) -> &[u8] {
        if self.pieces.kind(id) == Kind::Text { self.pieces.spelling(id) } else { &[] }
    }

    /// The bytes of one token as it is spelled, special tokens included; nothing for padding.
    pub fn spelling(&self, id: u32) -> &[u8] {
        self.pieces.spelling(id)
    }

    /// The id of a token by its exact spelling in the vocabulary (special tokens by their text).
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.read().unwrap_or_else(PoisonError::into_inner).token_to_id(token)
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.pieces.kind(id) == Kind::Special
    }

    pub fn is_eos(&self, id: u32) -> bool {
        self.eos.binary_search(&id).is_ok()
    }

    /// Every id that ends an answer, ascending.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The token to put before a plain prompt, where the checkpoint wants one. Templates write their own.
    pub fn leading(&self) -> Option<u32> {
        self.leading
    }

    /// Ids from here on are padding rows of the embedding: never sampled.
    pub fn limit(&self) -> usize {
        self.pieces.limit()
    }

    /// Padding ids below [`limit`](Text::limit); usually none.
    pub fn holes(&self) -> Vec<u32> {
        self.pieces.holes()
    }

    /// The conversation as the model was trained to see it; encode it with special tokens.
    /// `add_generation_prompt` opens the assistant's turn.
    ///
    /// Errors: usage when the template refuses the conversation (roles that must alternate), model when it fails.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_with_tools(messages, &[], add_generation_prompt)
    }

    /// The same, with functions that may be called (OpenAI's objects): in the template's own words, or in ours where it has
    /// none.
    pub fn render_with_tools(
        &self,
        messages: &[Message],
        tools: &[serde_json::Value],
        add_generation_prompt: bool,
    ) -> Result<String> {
        self.template.render(messages, tools, add_generation_prompt)
    }

    /// Where the chat template came from, and its text.
    pub fn template(&self) -> (&str, &str) {
        (self.template.place(), self.template.source())
    }

    /// Assumptions made where the checkpoint was silent, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}
