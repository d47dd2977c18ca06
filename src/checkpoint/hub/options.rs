//! Where the hub is, where its cache is, who we are, and how patient: the environment other hub tools read.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The user's key to the hub. It has no `Display`, and `Debug` hides it, so it cannot reach a log by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// `None` for a text that is empty once trimmed.
    pub fn new(text: &str) -> Option<Token> {
        let text = text.trim();
        (!text.is_empty()).then(|| Token(text.to_string()))
    }

    /// The value of the `Authorization` header.
    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Everything a lookup may vary in. `from_env` is what a program wants; tests set fields.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// Branch, tag or commit.
    pub revision: String,
    /// No request at all: only what the cache holds.
    pub offline: bool,
    /// Without a slash at the end.
    pub endpoint: String,
    /// The folder that holds `models--owner--name`.
    pub cache: PathBuf,
    pub token: Option<Token>,
    /// A connection that brings no byte for so long is given up and made again.
    pub stall: Duration,
    /// Tries in a row without progress before a download is given up; at least 1.
    pub attempts: u32,
    /// Wait before the second try; doubled for each further one, at most 30 seconds.
    pub backoff: Duration,
    /// Bytes a user may still write at a path (an existing one). A field so that a full disk can be tested.
    pub free_bytes: fn(&Path) -> io::Result<u64>,
}

impl HubOptions {
    /// The options that the environment asks for.
    pub fn from_env() -> HubOptions {
        HubOptions::from_vars(|name| std::env::var(name).ok())
    }

    /// The same for any environment. An empty variable counts as one that is not set.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> HubOptions {
        let var = |name: &str| var(name).filter(|value| !value.trim().is_empty());
        let user = var("HOME").map(PathBuf::from).or_else(std::env::home_dir).unwrap_or_default();
        let path = |text: String| match text.strip_prefix("~/") {
            Some(rest) => user.join(rest),
            None => PathBuf::from(text),
        };
        let home = match (var("HF_HOME"), var("XDG_CACHE_HOME")) {
            (Some(home), _) => path(home),
            (None, Some(cache)) => path(cache).join("huggingface"),
            (None, None) => user.join(".cache").join("huggingface"),
        };
        let cache = var("HF_HUB_CACHE").or_else(|| var("HUGGINGFACE_HUB_CACHE"));
        let token_file = var("HF_TOKEN_PATH").map(path).unwrap_or_else(|| home.join("token"));
        let token = var("HF_TOKEN")
            .or_else(|| var("HUGGING_FACE_HUB_TOKEN"))
            .or_else(|| std::fs::read_to_string(token_file).ok());
        let yes = |text: String| matches!(text.trim().to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        HubOptions {
            revision: "main".into(),
            offline: var("HF_HUB_OFFLINE").or_else(|| var("TRANSFORMERS_OFFLINE")).is_some_and(yes),
            endpoint: var("HF_ENDPOINT").as_deref().unwrap_or("https://huggingface.co").trim_end_matches('/').into(),
            cache: cache.map(path).unwrap_or_else(|| home.join("hub")),
            token: token.as_deref().and_then(Token::new),
            stall: Duration::from_secs(30),
            attempts: 8, // with the waits below: a minute and a half without a network
            backoff: Duration::from_secs(1),
            free_bytes,
        }
    }
}

/// Bytes that an ordinary user may still write to the file system of `path`.
#[cfg(unix)]
pub(in crate::checkpoint) fn free_bytes(path: &Path) -> io::Result<u64> {
    let system = rustix::fs::statvfs(path)?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

/// Elsewhere nobody tells us; the write itself will.
#[cfg(not(unix))]
pub(in crate::checkpoint) fn free_bytes(_: &Path) -> io::Result<u64> {
    Ok(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(vars: &[(&str, &str)]) -> HubOptions {
        HubOptions::from_vars(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string()))
    }

    #[test]
    fn folders_follow_the_hub_tools() {
        let base = ("HOME", "/home/u");
        assert_eq!(options(&[base]).cache, Path::new("/home/u/.cache/huggingface/hub"));
        assert_eq!(options(&[base, ("XDG_CACHE_HOME", "/c")]).cache, Path::new("/c/huggingface/hub"));
        assert_eq!(options(&[base, ("HF_HOME", "~/h")]).cache, Path::new("/home/u/h/hub"));
        assert_eq!(options(&[base, ("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")]).cache, Path::new("/old"));
        let both = [base, ("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")];
        assert_eq!(options(&both).cache, Path::new("/new"));
        assert_eq!(options(&[base, ("HF_HOME", " ")]).cache, Path::new("/home/u/.cache/huggingface/hub"));
    }

    #[test]
    fn endpoint_and_offline() {
        let plain = options(&[]);
        assert_eq!((plain.endpoint.as_str(), plain.offline), ("https://huggingface.co", false));
        assert_eq!(options(&[("HF_ENDPOINT", "http://127.0.0.1:8/")]).endpoint, "http://127.0.0.1:8");
        for (value, want) in [("1", true), ("true", true), ("ON", true), ("0", false), ("no", false)] {
            assert_eq!(options(&[("HF_HUB_OFFLINE", value)]).offline, want, "{value}");
        }
    }

    #[test]
    fn the_token_comes_from_the_variable_then_the_file_and_stays_hidden() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        std::fs::write(folder.path().join("token"), "from-home\n").unwrap();
        let other = folder.path().join("other");
        std::fs::write(&other, "from-path\n").unwrap();
        let bearer = |vars: &[(&str, &str)]| options(vars).token.map(|token| token.bearer());
        assert_eq!(bearer(&[("HF_HOME", home)]).as_deref(), Some("Bearer from-home"));
        let path = other.to_str().unwrap();
        assert_eq!(bearer(&[("HF_HOME", home), ("HF_TOKEN_PATH", path)]).as_deref(), Some("Bearer from-path"));
        assert_eq!(bearer(&[("HF_HOME", home), ("HF_TOKEN", "hf_secret")]).as_deref(), Some("Bearer hf_secret"));
        assert_eq!(bearer(&[("HF_HOME", "/nowhere")]), None);
        let shown = format!("{:?}", options(&[("HF_TOKEN", "hf_secret")]));
        assert!(!shown.contains("hf_secret"), "{shown}");
    }

    #[test]
    fn this_disk_has_a_size() {
        assert!(free_bytes(Path::new(".")).unwrap() > 0);
    }
}
