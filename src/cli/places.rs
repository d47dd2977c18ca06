//! Where this program keeps things of its own: folders of the user, by the XDG base directory rules.

use std::path::PathBuf;

/// An absolute path from the environment; the rules say that a relative one counts for nothing.
fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn under_home(rest: &str) -> Option<PathBuf> {
    std::env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(rest))
}

/// Folders that may be filled again at any time, the best first. The last is the system's folder for temporary files.
pub fn cache_folders() -> Vec<PathBuf> {
    let own = absolute("XDG_CACHE_HOME").or_else(|| under_home(".cache")).map(|base| base.join("thermocline"));
    // Another user's folder of the same name cannot be written to, and what it holds is compared before use.
    own.into_iter().chain([std::env::temp_dir().join("thermocline")]).collect()
}

/// Where a history of what was typed lives.
pub fn state_folder() -> Option<PathBuf> {
    absolute("XDG_STATE_HOME").or_else(|| under_home(".local/state")).map(|base| base.join("thermocline"))
}
