//! The one road from a vocabulary to a tokenizer, whichever container the vocabulary came in.
//!
//! Byte-level BPE as Qwen2 has it (specification, section 4.2). Everything the file can get wrong is found
//! here, before the tokenizer crate sees it.

use super::pieces::{Kind, Pieces, Token, byte_characters};
use crate::error::{Error, Result};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

/// A vocabulary as its container wrote it.
pub struct Vocabulary {
    /// File and, where there is one, section: the beginning of every sentence about it.
    pub place: String,
    /// Ordinary tokens, spelled in the byte alphabet, with their ids.
    pub tokens: Vec<(String, u32)>,
    /// Pairs in order of rank.
    pub merges: Vec<(String, String)>,
    /// Tokens found literally in text before anything else happens to it.
    pub added: Vec<(AddedToken, u32)>,
    pub normalizer: Option<NormalizerWrapper>,
    pub pre_tokenizer: PreTokenizerWrapper,
    /// A word that is a token as a whole is taken as such, whatever the merges say.
    pub ignore_merges: bool,
}

impl Vocabulary {
    /// Builds the tokenizer and the table of pieces. `rows` is the length of the model's embedding.
    ///
    /// Errors (model): an id at or beyond `rows`, a missing byte, a merge of or into something that is no token.
    pub fn build(self, rows: usize) -> Result<(Tokenizer, Pieces)> {
        let fail = |what: String| Error::Model(format!("{}: {what}", self.place));
        let all =
            || self.tokens.iter().map(|(t, id)| (t, *id)).chain(self.added.iter().map(|(t, id)| (&t.content, *id)));
        if let Some((text, id)) = all().filter(|(_, id)| *id as usize >= rows).max_by_key(|(_, id)| *id) {
            return Err(fail(format!(
                "token {text:?} has id {id}, but the model's vocabulary has {rows} rows (ids 0 to {})",
                rows as i64 - 1
            )));
        }
        // Later entries win, added tokens last: they keep the id their file gives them.
        let ids: Vocab = all().map(|(text, id)| (text.clone(), id)).collect();
        for (byte, character) in byte_characters() {
            let mut spelled = [0; 4];
            if !ids.contains_key(character.encode_utf8(&mut spelled) as &str) {
                return Err(fail(format!(
                    "no token for byte 0x{byte:02X} (written {character:?}); expected a byte-level vocabulary with all 256"
                )));
            }
        }
        let mut joined = String::new();
        for (rank, (left, right)) in self.merges.iter().enumerate() {
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            if let Some(missing) = [left, right, &joined].into_iter().find(|t| !ids.contains_key(t.as_str())) {
                return Err(fail(format!(
                    "merge {rank} ({left:?} + {right:?}) needs the token {missing:?}, which is not there"
                )));
            }
        }

        let pieces = Pieces::new(
            self.tokens.iter().map(|(text, id)| Token { id: *id, text, kind: Kind::Text, byte_level: true }).chain(
                self.added.iter().map(|(token, id)| Token {
                    id: *id,
                    text: &token.content,
                    kind: if token.special { Kind::Special } else { Kind::Text },
                    byte_level: false,
                }),
            ),
        );
        let place = self.place;
        let refused = |e: tokenizers::Error| Error::Model(format!("{place}: the tokenizer cannot be built: {e}"));
        let bpe = BPE::builder()
            .vocab_and_merges(ids, self.merges)
            .ignore_merges(self.ignore_merges)
            .build()
            .map_err(refused)?;
        let mut tokenizer = Tokenizer::new(bpe);
        tokenizer.with_normalizer(self.normalizer).map_err(refused)?;
        tokenizer.with_pre_tokenizer(Some(self.pre_tokenizer));
        tokenizer.add_tokens(self.added.into_iter().map(|(token, _)| token)).map_err(refused)?;
        Ok((tokenizer, pieces))
    }
}
