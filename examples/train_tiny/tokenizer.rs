//! A byte-level BPE vocabulary trained on the corpus, split the way the family splits (specification 4.2).

use crate::corpus;
use crate::corpus::random::Random;
use anyhow::{Result, anyhow};
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer, TokenizerBuilder};

pub const END_OF_TEXT: &str = "<|endoftext|>";
pub const START: &str = "<|im_start|>";
pub const END: &str = "<|im_end|>";

/// Contractions; a word with at most one mark before it; one digit; marks; line ends; spaces.
const SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Documents the vocabulary is learnt from.
const DOCUMENTS: usize = 20_000;

/// `size` tokens: bytes and merges first, then the three marks of the template, as in the family's vocabulary.
pub fn train(size: usize, seed: u64) -> Result<Tokenizer> {
    let fail = |e: tokenizers::Error| anyhow!("training the tokenizer: {e}");
    let mut random = Random::new(seed);
    let mut texts = Vec::new();
    for _ in 0..DOCUMENTS {
        let text = corpus::document(&mut random).text;
        texts.extend(text.split("<|im_start|>").flat_map(|part| part.split("<|im_end|>")).map(str::to_string));
    }
    let split =
        Split::new(SplitPattern::Regex(SPLIT.to_string()), SplitDelimiterBehavior::Isolated, false).map_err(fail)?;
    let split = Sequence::new(vec![
        PreTokenizerWrapper::Split(split),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false)),
    ]);
    let mut learner = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(Some(NFC))
        .with_pre_tokenizer(Some(split))
        .with_post_processor(Some(ByteLevel::new(false, false, false)))
        .with_decoder(Some(ByteLevelDecoder::new(false, false, false)))
        .build()
        .map_err(fail)?;
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(size - 3)
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    learner.train(&mut trainer, texts.iter()).map_err(fail)?;
    let marks = [END_OF_TEXT, START, END].map(|mark| AddedToken::from(mark, true));
    learner.add_special_tokens(marks).map_err(fail)?;
    let tokenizer = Tokenizer::from_bytes(learner.to_string(false).map_err(fail)?.as_bytes()).map_err(fail)?;
    anyhow::ensure!(
        tokenizer.get_vocab_size(true) == size,
        "expected {size} tokens, got {}",
        tokenizer.get_vocab_size(true)
    );
    Ok(tokenizer)
}

pub fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    Ok(tokenizer.encode_fast(text, false).map_err(|e| anyhow!("encoding {text:?}: {e}"))?.get_ids().to_vec())
}

pub fn id(tokenizer: &Tokenizer, mark: &str) -> Result<u32> {
    tokenizer.token_to_id(mark).ok_or_else(|| anyhow!("the tokenizer has no token {mark}"))
}

/// The two ids that end an answer: the end of a text, then the end of a message.
pub fn ends(tokenizer: &Tokenizer) -> Result<[u32; 2]> {
    Ok([id(tokenizer, END_OF_TEXT)?, id(tokenizer, END)?])
}
