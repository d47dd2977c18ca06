//! What a user may call a model: a folder, a `.gguf` file, or `owner/repo[:QUANT]` on the hub.

use crate::error::{Error, Result};
use std::fmt;
use std::path::{Path, PathBuf};

/// The hub refuses longer names, so a longer one is a typing accident.
const LONGEST_REPO: usize = 96;

/// A model's name, read but not looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelName {
    /// A folder or file of this machine, which existed when the name was read.
    Local(PathBuf),
    /// A repository; `pick` names one GGUF in it: a quantisation (`Q4_0`) or a whole file name.
    Hub { repo: String, pick: Option<String> },
}

impl ModelName {
    /// Reads what follows `--model`. A path that exists wins over a repository of the same spelling.
    /// Errors: `Usage` for a text that is neither, `Model` for a path with nothing there.
    pub fn parse(text: &str) -> Result<ModelName> {
        if Path::new(text).exists() {
            return Ok(ModelName::Local(PathBuf::from(text)));
        }
        if looks_like_a_path(text) {
            return Err(Error::Model(format!("there is no file or folder at `{text}`")));
        }
        ModelName::hub(text)
    }

    /// Reads what follows `-hf`: always a repository, whatever lies in the working folder.
    pub fn hub(text: &str) -> Result<ModelName> {
        // People paste the address of the page; what is left is the same name.
        let bare = ["https://huggingface.co/", "https://hf.co/", "huggingface.co/", "hf.co/"]
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix))
            .unwrap_or(text)
            .trim_end_matches('/');
        let (repo, pick) = match bare.split_once(':') {
            Some((repo, pick)) => (repo, Some(pick)),
            None => (bare, None),
        };
        let parts: Vec<&str> = repo.split('/').collect();
        let named = parts.len() == 2 && repo.len() <= LONGEST_REPO && parts.iter().all(|part| is_repo_word(part));
        if !named {
            return Err(Error::Usage(format!(
                "`{text}` is neither a file or folder here nor a repository `owner/name` or `owner/name:QUANT` on the hub"
            )));
        }
        let picked = pick.is_none_or(|pick| {
            !pick.is_empty() && pick.chars().all(|c| c.is_ascii_alphanumeric() || "._-/ ".contains(c))
        });
        if !picked {
            return Err(Error::Usage(format!(
                "`{text}`: after the colon comes a quantisation such as Q4_0 or the name of a .gguf file in the repository"
            )));
        }
        Ok(ModelName::Hub { repo: repo.to_string(), pick: pick.map(str::to_string) })
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelName::Local(path) => write!(f, "{}", path.display()),
            ModelName::Hub { repo, pick: None } => f.write_str(repo),
            ModelName::Hub { repo, pick: Some(pick) } => write!(f, "{repo}:{pick}"),
        }
    }
}

/// True for a text that cannot be meant as a repository. `owner/repo:name.gguf` can.
fn looks_like_a_path(text: &str) -> bool {
    let address = text.contains("://") || text.starts_with("huggingface.co/") || text.starts_with("hf.co/");
    let file = |ending: &str| text.to_ascii_lowercase().ends_with(ending) && !text.contains(':');
    !address
        && (text.starts_with(['/', '.', '~'])
            || text.contains('\\')
            || text.trim_end_matches('/').split(':').next().is_some_and(|repo| repo.matches('/').count() > 1)
            || file(".gguf")
            || file(".safetensors"))
}

/// The hub's own rule for an owner or a name: letters, digits, `-_.`, no dash or dot at an end, none doubled.
fn is_repo_word(word: &str) -> bool {
    !word.is_empty()
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !word.starts_with(['-', '.'])
        && !word.ends_with(['-', '.'])
        && !word.contains("--")
        && !word.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(repo: &str, pick: Option<&str>) -> ModelName {
        ModelName::Hub { repo: repo.into(), pick: pick.map(str::to_string) }
    }

    #[test]
    fn names_of_repositories() {
        for (text, want) in [
            ("PowerInfer/SmallThinker-4BA0.6B-Instruct", hub("PowerInfer/SmallThinker-4BA0.6B-Instruct", None)),
            ("a/b:Q4_0", hub("a/b", Some("Q4_0"))),
            ("a/b:x.Q4_0.powerinfer.gguf", hub("a/b", Some("x.Q4_0.powerinfer.gguf"))),
            ("a/b:Q4_0/x.gguf", hub("a/b", Some("Q4_0/x.gguf"))),
            ("https://huggingface.co/a/b", hub("a/b", None)),
            ("hf.co/a/b:Q8_0", hub("a/b", Some("Q8_0"))),
            ("a/b/", hub("a/b", None)),
        ] {
            assert_eq!(ModelName::parse(text).unwrap(), want, "{text}");
            assert_eq!(ModelName::hub(text).unwrap(), want, "{text}");
        }
        assert_eq!(hub("a/b", Some("Q4_0")).to_string(), "a/b:Q4_0");
    }

    #[test]
    fn an_existing_path_wins_but_not_after_hf() {
        assert_eq!(ModelName::parse("src").unwrap(), ModelName::Local("src".into()));
        assert_eq!(ModelName::parse("src/checkpoint").unwrap(), ModelName::Local("src/checkpoint".into()));
        assert_eq!(ModelName::hub("src/checkpoint").unwrap(), hub("src/checkpoint", None));
    }

    #[test]
    fn each_mistake_has_its_sentence() {
        for (text, exit, part) in [
            ("./nothing-here", 5, "no file or folder"),
            ("/no/such/file.gguf", 5, "no file or folder"),
            ("nothing.gguf", 5, "no file or folder"),
            ("models/nothing.gguf", 5, "no file or folder"),
            ("~/models/x", 5, "no file or folder"),
            ("a/b/c", 5, "no file or folder"),
            ("C:\\models\\x", 5, "no file or folder"),
            ("", 2, "neither"),
            ("justaword", 2, "neither"),
            ("a/b--c", 2, "neither"),
            ("a/-b", 2, "neither"),
            ("a b/c", 2, "neither"),
            ("a/b:", 2, "after the colon"),
            ("a/b:Q4_0?x", 2, "after the colon"),
        ] {
            let error = ModelName::parse(text).unwrap_err();
            assert_eq!(error.exit_code(), exit, "{text}: {error}");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }
}
