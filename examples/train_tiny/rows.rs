//! Documents packed into rows of tokens. A row starts with a document; the last one is cut where the row ends.

use crate::corpus::random::Random;
use crate::corpus::{self, Domain};
use crate::tokenizer::{END, END_OF_TEXT, START, encode, id};
use anyhow::Result;
use tokenizers::Tokenizer;

/// Tokens of a question, and the numbers of a plain list of sums, count this much in training: they cannot be guessed.
/// What the model is to say counts 1.
const QUESTION_WEIGHT: f32 = 0.2;

pub struct Packer<'a> {
    tokenizer: &'a Tokenizer,
    random: Random,
    only: Option<Domain>,
    end_of_text: u32,
    start: u32,
    end: u32,
    assistant: u32,
    equals: u32,
    line: u32,
}

/// `length + 1` tokens, so that each of the first `length` has a next one; `weights[i]` counts the guess of `tokens[i + 1]`.
pub struct Row {
    pub tokens: Vec<u32>,
    pub weights: Vec<f32>,
}

impl<'a> Packer<'a> {
    /// Rows of all domains mixed, or of `only` one.
    pub fn new(tokenizer: &'a Tokenizer, seed: u64, only: Option<Domain>) -> Result<Packer<'a>> {
        let first = |text| Ok::<_, anyhow::Error>(encode(tokenizer, text)?[0]);
        Ok(Packer {
            tokenizer,
            random: Random::new(seed),
            only,
            end_of_text: id(tokenizer, END_OF_TEXT)?,
            start: id(tokenizer, START)?,
            end: id(tokenizer, END)?,
            assistant: first("assistant")?,
            equals: first(" =")?,
            line: first("\n")?,
        })
    }

    pub fn row(&mut self, length: usize) -> Result<Row> {
        let mut row = Row { tokens: Vec::with_capacity(length + 1), weights: Vec::with_capacity(length) };
        while row.tokens.len() <= length {
            let document = match self.only {
                Some(domain) => corpus::document_of(domain, &mut self.random),
                None => corpus::document(&mut self.random),
            };
            let mut tokens = encode(self.tokenizer, &document.text)?;
            tokens.push(self.end_of_text);
            let sums = document.plain && document.domain == Domain::Sums;
            let mut question = sums;
            for (i, &token) in tokens.iter().enumerate() {
                if token == self.start {
                    question = tokens.get(i + 1) != Some(&self.assistant);
                }
                // The first token of a row is given, never guessed.
                if !row.tokens.is_empty() {
                    row.weights.push(if question { QUESTION_WEIGHT } else { 1.0 });
                }
                row.tokens.push(token);
                if token == self.end || token == self.equals && sums {
                    question = false;
                } else if token == self.line && sums {
                    question = true;
                }
            }
        }
        row.tokens.truncate(length + 1);
        row.weights.truncate(length);
        Ok(row)
    }
}
