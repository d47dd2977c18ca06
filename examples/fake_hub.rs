//! Serves a local folder as a repository of a model hub on loopback, to try a whole download without a network:
//!
//! ```text
//! cargo run --release --example fake_hub -- FOLDER --repo owner/name --port 8123 --cut-every 500000000
//! HF_ENDPOINT=http://127.0.0.1:8123 HF_HOME=somewhere cargo run --release -- --model owner/name
//! ```

#[allow(dead_code)] // the tests use more of it
#[path = "../tests/fake_hub/mod.rs"]
mod fake_hub;

use anyhow::{Context, Result};
use clap::Parser;
use fake_hub::{Entry, Hub, Repository, Trouble};
use std::path::{Path, PathBuf};

#[derive(Parser)]
struct Options {
    /// The folder whose files (and those of folders in it) the repository has.
    folder: PathBuf,
    /// Its name, `owner/name`.
    #[arg(long)]
    repo: String,
    /// 0 takes a free one.
    #[arg(long, default_value_t = 8123)]
    port: u16,
    /// Ask for this token, as a gated repository does.
    #[arg(long)]
    token: Option<String>,
    /// Cut every connection for a large file after so many bytes.
    #[arg(long)]
    cut_every: Option<u64>,
    /// Fall silent after so many bytes, once for each large file.
    #[arg(long)]
    stall_at: Option<u64>,
    /// Send the byte at this offset wrong, once for each large file.
    #[arg(long)]
    corrupt_at: Option<u64>,
    /// Bytes per second of a large file.
    #[arg(long)]
    slow: Option<u64>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut files = Vec::new();
    collect(&options.folder, "", &mut files)?;
    let large: Vec<String> = files.iter().filter(|(_, entry)| entry.large).map(|(name, _)| name.clone()).collect();
    let mut repository = Repository::new(&options.repo, files);
    repository.gated = options.token;
    let hub = Hub::start_at(repository, options.port)?;
    for name in &large {
        let path = format!("/cdn/{name}");
        let trouble = |times, trouble| hub.trouble("GET", &path, times, trouble);
        options.cut_every.into_iter().for_each(|bytes| trouble(usize::MAX, Trouble::Cut(bytes)));
        options.stall_at.into_iter().for_each(|bytes| trouble(1, Trouble::Stall(bytes)));
        options.corrupt_at.into_iter().for_each(|at| trouble(1, Trouble::Corrupt(at)));
        options.slow.into_iter().for_each(|rate| trouble(usize::MAX, Trouble::Slow(rate)));
    }
    println!("HF_ENDPOINT={} serves {}", hub.endpoint, options.repo);
    loop {
        std::thread::sleep(std::time::Duration::from_millis(200));
        for request in hub.requests() {
            let range = request.range.unwrap_or_default();
            println!("{} {} {range}", request.method, request.path);
        }
    }
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<(String, Entry)>) -> Result<()> {
    for entry in folder.read_dir().with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        let name = format!("{prefix}{}", path.file_name().unwrap_or_default().to_string_lossy());
        if path.is_dir() {
            collect(&path, &format!("{name}/"), files)?;
        } else {
            eprintln!("hashing {name}");
            files.push((name, Entry::file(&path)?));
        }
    }
    Ok(())
}
