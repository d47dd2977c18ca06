//! Regular expressions of users, by the engine that cuts words for tokenizers.

use crate::error::{Error, Result};
use std::fmt;
use std::sync::Arc;
use tokenizers::utils::SysRegex;

/// A regular expression that is looked for anywhere in a text.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: Arc<SysRegex>,
}

impl Pattern {
    /// Errors with `Error::Usage` where it is none.
    pub fn new(text: &str) -> Result<Pattern> {
        let wrong = |e| Error::Usage(format!("{text:?} is no regular expression: {e}"));
        Ok(Pattern { text: text.to_string(), regex: Arc::new(SysRegex::new(text).map_err(wrong)?) })
    }

    pub fn is_in(&self, text: &str) -> bool {
        self.regex.find_iter(text).next().is_some()
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_found_anywhere_and_a_broken_one_is_a_sentence() {
        let pattern = Pattern::new(r"blk\.(1|2\d)\.ffn_.*_exps").unwrap();
        assert!(pattern.is_in("blk.1.ffn_up_exps.weight") && pattern.is_in("x blk.25.ffn_gate_exps"));
        assert!(!pattern.is_in("blk.3.ffn_up_exps.weight") && !pattern.is_in("blk.1.attn_q.weight"));
        let wrong = Pattern::new("blk.(").unwrap_err();
        assert!(wrong.exit_code() == 2 && wrong.to_string().contains("is no regular expression"), "{wrong}");
    }
}
