//! Files a user may be given: models in each container, their configs, profiles, and conversations.

use super::house::{engine, model};
use crate::watch::{Taken, measured};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::sync::LazyLock;
use thermocline::checkpoint::{Files, Header};
use thermocline::engine::text::{TemplateOverride, Text};
use thermocline::planner::profile::Profile;
use thermocline::{Error, Result};

/// A piece of memory may be as large as the files; or this, for lists of layers, short lists as values, sentences.
const FLOOR: usize = 256 << 10;
/// JSON in memory, over JSON as text: a digit and a comma become a value.
const JSON: usize = 128;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// Zeros that stand for the weights behind a header: the first four bytes say how many.
fn padded(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (count, header) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*count) as usize % (64 << 20), header))
}

/// Files by name: their bytes, and how many zeros follow.
type Shown<'a> = [(&'a str, &'a [u8], usize)];

/// Reads headers as from a repository, and holds the memory that takes against the files and what their JSON becomes.
fn read(shown: &Shown<'_>, json: usize) -> Result<Header> {
    let list = shown.iter().map(|(name, bytes, zeros)| (name.to_string(), (bytes.len() + zeros) as u64)).collect();
    let read_at = Box::new(|name: &str, offset: u64, len: usize| {
        let (_, bytes, zeros) = shown.iter().find(|(n, ..)| *n == name).expect("only listed files are read");
        let offset = usize::try_from(offset).expect("within the file");
        assert!(offset + len <= bytes.len() + zeros, "{name}: {len} bytes from byte {offset}");
        let mut piece = bytes.get(offset..bytes.len().min(offset + len)).unwrap_or_default().to_vec();
        piece.resize(len, 0);
        Ok(piece)
    });
    let files = Files { label: "owner/model".into(), list, read_at };
    let (header, took) = measured(|| Header::read(&files));
    let size: usize = shown.iter().map(|(_, bytes, zeros)| bytes.len() + zeros).sum();
    let most = size.max(FLOOR + JSON * json);
    let Taken { in_one, .. } = took;
    assert!(in_one <= most, "an allocation of {in_one} bytes for files of {size}");
    match &header {
        Err(e) => {
            assert!(matches!(e, Error::Model(_)), "{e:?}");
            assert!(e.to_string().starts_with("owner/model"), "{e} names no file");
        }
        Ok(header) => drop(std::hint::black_box(header.summary())),
    }
    header
}

/// A vocabulary that came with a header is opened too.
fn vocabulary(header: Result<Header>) {
    let Ok(Header { config, text: Some(source), .. }) = header else { return };
    if let Err(e) = Text::open(&source, &config, TemplateOverride::Checkpoint) {
        assert!(matches!(e, Error::Model(_)), "{e:?}");
    }
}

pub fn gguf(bytes: &[u8]) {
    let Some((zeros, header)) = padded(bytes) else { return };
    vocabulary(read(&[("model.gguf", header, zeros)], 0));
}

pub fn safetensors(bytes: &[u8]) {
    let Some((zeros, json)) = padded(bytes) else { return };
    let header = [&(json.len() as u64).to_le_bytes(), json].concat();
    let _ = read(&[(CONFIG, &BUNDLED.config, 0), (WEIGHTS, &header, zeros)], json.len());
}

pub fn config(bytes: &[u8]) {
    let Bundled { config: _, header, weights } = &*BUNDLED;
    let _ = read(&[(CONFIG, bytes, 0), (WEIGHTS, header, *weights)], bytes.len() + header.len());
}

pub fn index(bytes: &[u8]) {
    let Bundled { config, header, weights } = &*BUNDLED;
    let shown = [
        (CONFIG, &config[..], 0),
        ("a.safetensors", header, *weights),
        ("b.safetensors", &b"\x02\0\0\0\0\0\0\0{}"[..], 0),
        ("model.safetensors.index.json", bytes, 0),
    ];
    let _ = read(&shown, bytes.len() + header.len());
}

/// The bundled model's files: its config, the header of its weights, and how many bytes follow.
struct Bundled {
    config: Vec<u8>,
    header: Vec<u8>,
    weights: usize,
}

static BUNDLED: LazyLock<Bundled> = LazyLock::new(|| {
    let read = |name: &str| std::fs::read(model().join(name)).expect("the bundled model is whole");
    let mut header = read(WEIGHTS);
    let length = u64::from_le_bytes(header[..8].try_into().expect("eight bytes"));
    let all = header.len();
    header.truncate(8 + length as usize);
    Bundled { config: read(CONFIG), weights: all - header.len(), header }
});

/// A packed file's header, its hash made right again: nobody's damage gets past a hash, but somebody can write one.
pub fn packed(bytes: &[u8]) {
    const PAGE: usize = 4096;
    const HASH: &[u8] = b"thermocline.header.sha256";
    let Some((pages, header)) = padded(bytes) else { return };
    let mut header = header.to_vec();
    header.resize(header.len().next_multiple_of(PAGE), 0);
    // After its name: that it is a list, of texts, of one, of 64 bytes.
    let at = header.windows(HASH.len()).rposition(|name| name == HASH).map(|at| at + HASH.len() + 4 + 4 + 8 + 8);
    if let Some(at) = at.filter(|at| at + 64 <= header.len()) {
        header[at..at + 64].fill(b'0');
        let hash: String = Sha256::digest(&header).iter().map(|byte| format!("{byte:02x}")).collect();
        header[at..at + 64].copy_from_slice(hash.as_bytes());
    }
    vocabulary(read(&[("model.gguf", &header, pages % (1 << 14) * PAGE)], 0));
}

pub fn profile(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (profile, took) = measured(|| Profile::parse(text));
    assert!(took.in_one <= FLOOR + JSON * bytes.len(), "{} bytes for a profile of {}", took.in_one, bytes.len());
    let Ok(mut profile) = profile else { return };
    for layer in 0..profile.layers.len() {
        assert_eq!(profile.by_heat(layer).len(), profile.experts);
        let firing = profile.firing(layer);
        assert!((0.0..=1.0 + 1e-9).contains(&firing), "{firing}");
    }
    let again = Profile::parse(&profile.to_json()).expect("what was read can be written and read");
    profile.merge(&again);
}

/// The first byte says whether the rest is a whole file, or a header, a zero, and what follows: then words MODEL and CACHE
/// of the header stand for this model's own, and the hash is right.
pub fn session(bytes: &[u8]) {
    let Kept { folder, magic, model, cache } = &*KEPT;
    let Some((whole, rest)) = bytes.split_first() else { return };
    let mut file = rest.to_vec();
    if whole % 2 == 0 {
        let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
        let header = String::from_utf8_lossy(&rest[..end]).replace("MODEL", model).replace("CACHE", cache);
        file = [magic, &(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        file.extend(rest.get(end + 1..).unwrap_or_default());
        file.extend(Sha256::digest(&file));
    }
    let path = folder.join("kept");
    std::fs::write(&path, &file).expect("a temporary folder can be written");
    let mut session = engine().session();
    let (restored, took) = measured(|| session.restore(&path));
    assert!(took.in_one <= file.len().max(FLOOR) + JSON * file.len(), "{} bytes for {}", took.in_one, file.len());
    match restored {
        Ok(size) => {
            assert_eq!(size, file.len() as u64);
            session
                .feed(&[1], 0..1, &mut |_, _| {})
                .map_or_else(|e| assert!(matches!(e, Error::Usage(_)), "{e:?}"), |_| ());
        }
        Err(e) => {
            assert!(matches!(e, Error::Usage(_)), "{e:?}");
            assert!(session.tokens().is_empty());
        }
    }
}

/// A place for files, and what a saved session of this model says of itself.
struct Kept {
    folder: PathBuf,
    magic: Vec<u8>,
    model: String,
    cache: String,
}

static KEPT: LazyLock<Kept> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder").keep();
    let path = folder.join("kept");
    engine().session().save(&path).expect("an empty session can be saved");
    let bytes = std::fs::read(&path).expect("it was written");
    let line = bytes.iter().position(|byte| *byte == b'\n').expect("it begins with a line") + 1;
    let length = u64::from_le_bytes(bytes[line..line + 8].try_into().expect("eight bytes"));
    let header: Value = serde_json::from_slice(&bytes[line + 8..][..length as usize]).expect("a header is JSON");
    let word = |name: &str| header[name].as_str().expect("a header says so").to_string();
    Kept { folder, magic: bytes[..line].to_vec(), model: word("model"), cache: word("cache") }
});
