//! Headers of anything: random bytes, and valid files with bytes changed, cut or replaced by huge numbers. Either the model
//! opens and every part is whole, or it is refused in a sentence; nothing panics, and no header makes us allocate what its
//! file could not fill.
#![allow(unsafe_code, reason = "an allocator that watches the sizes asked for")]

mod tiny;

use kernels::Format;
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::LazyLock;
use thermocline::checkpoint::{Checkpoint, Files, Header};
use thermocline::{Error, Result};
use tiny::Tiny;

struct Watching;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Gone while a thread ends; nothing is measured then.
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(layout.size())));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Reads headers as from a repository: of one GGUF, or of a config and one safetensors file.
fn read(gguf: Option<&[u8]>, safetensors: Option<(&str, &[u8])>) -> Result<Header> {
    let mut all: Vec<(&str, &[u8])> = vec![];
    all.extend(gguf.map(|bytes| ("model.gguf", bytes)));
    if let Some((config, bytes)) = safetensors {
        all.extend([("config.json", config.as_bytes()), ("model.safetensors", bytes)]);
    }
    let list = all.iter().map(|(name, bytes)| (name.to_string(), bytes.len() as u64)).collect();
    let read_at = Box::new(|name: &str, offset: u64, len: usize| {
        let (_, bytes) = all.iter().find(|(n, _)| *n == name).expect("only listed files are read");
        Ok(bytes[offset as usize..offset as usize + len].to_vec())
    });
    Header::read(&Files { label: "owner/model".into(), list, read_at })
}

/// What a small header may cost beyond its size: lists of layers, tables of names, sentences.
const FLOOR: usize = 64 << 10;

/// Runs `read` and holds the largest allocation against the size of the files.
fn measured(size: usize, read: impl FnOnce() -> Result<Header>) -> Result<Header> {
    LARGEST.set(0);
    let result = read();
    let largest = LARGEST.get();
    assert!(largest <= size.max(FLOOR), "an allocation of {largest} bytes for files of {size}");
    if let Err(error) = &result {
        assert!(matches!(error, Error::Model(_)), "{error:?}");
        assert!(error.to_string().starts_with("owner/model"), "{error} names no file");
    }
    result
}

fn gguf(bytes: &[u8]) -> Result<Header> {
    measured(bytes.len(), || read(Some(bytes), None))
}

fn safetensors(config: &str, bytes: &[u8]) -> Result<Header> {
    measured(bytes.len() + config.len(), || read(None, Some((config, bytes))))
}

static CONFIG: LazyLock<String> =
    LazyLock::new(|| serde_json::Value::Object(Tiny::default().config_json()).to_string());
static SAFETENSORS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let tensors: Vec<_> = Tiny::default().tensors().iter().map(|t| tiny::Entry::of(t, Format::F16)).collect();
    tiny::safetensors(&tensors)
});
static GGUF: LazyLock<Vec<u8>> = LazyLock::new(|| Tiny::default().gguf(Format::Q4_0).bytes());

/// Where tensor data begins, about: changes beyond are changes of weights.
const GGUF_HEADER: usize = 6000;
const SAFETENSORS_HEADER: usize = 7000;

/// A change of some bytes near the beginning of a file.
#[derive(Clone, Debug)]
enum Damage {
    Byte(usize, u8),
    Number(usize, u64),
    Cut(usize),
    Repeat(usize, usize),
}

fn damage(header: usize) -> impl Strategy<Value = Vec<Damage>> {
    let huge = prop_oneof![Just(u64::MAX), Just(1 << 63), Just(1 << 32), Just(1 << 20), any::<u64>(), 0u64..300];
    let one = prop_oneof![
        4 => (0..header, any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        4 => (0..header, huge).prop_map(|(at, n)| Damage::Number(at, n)),
        1 => (0..header * 2).prop_map(Damage::Cut),
        1 => (0..header, 1..64usize).prop_map(|(at, n)| Damage::Repeat(at, n)),
    ];
    prop::collection::vec(one, 1..4)
}

fn damaged(good: &[u8], damage: &[Damage]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for d in damage {
        match *d {
            Damage::Byte(at, byte) if at < bytes.len() => bytes[at] = byte,
            Damage::Number(at, n) if at + 8 <= bytes.len() => bytes[at..at + 8].copy_from_slice(&n.to_le_bytes()),
            Damage::Cut(at) => bytes.truncate(at),
            Damage::Repeat(at, n) if at + n <= bytes.len() => {
                let piece = bytes[at..at + n].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {}
        }
    }
    bytes
}

/// A model that opens in spite of the damage must have every part whole.
fn look_at_everything(model: &Checkpoint) {
    for part in model.parts() {
        let stored = model.stored(part);
        assert_eq!(Some(stored.bytes.len()), stored.format.row_bytes(stored.width).map(|row| row * stored.rows));
        std::hint::black_box(stored.bytes.iter().fold(0u8, |a, b| a ^ b));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_no_gguf(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        prop_assert!(gguf(&bytes).is_err());
    }

    #[test]
    fn random_headers_of_gguf(version in 2u32..=3, counts in any::<(u8, u8)>(), rest in prop::collection::vec(0u8..14, 0..3000)) {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(version.to_le_bytes());
        bytes.extend((counts.0 as u64).to_le_bytes());
        bytes.extend((counts.1 as u64).to_le_bytes());
        bytes.extend(rest);
        prop_assert!(gguf(&bytes).is_err());
    }

    #[test]
    fn random_bytes_are_no_safetensors(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        prop_assert!(safetensors(&CONFIG, &bytes).is_err());
    }

    #[test]
    fn random_texts_are_no_header_of_safetensors(text in "[\\[\\]{}\":,0-9a-z_ ]{0,200}", data in 0..100usize) {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.bytes());
        bytes.resize(bytes.len() + data, 0);
        prop_assert!(safetensors(&CONFIG, &bytes).is_err());
    }

    #[test]
    fn random_texts_are_no_config(text in "[\\[\\]{}\":,0-9a-z_ ]{0,200}") {
        prop_assert!(safetensors(&text, &SAFETENSORS).is_err());
    }

    #[test]
    fn changed_gguf(damage in damage(GGUF_HEADER)) {
        let bytes = damaged(&GGUF, &damage);
        if gguf(&bytes).is_ok() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("model.gguf");
            std::fs::write(&path, &bytes).unwrap();
            look_at_everything(&Checkpoint::open(&path).unwrap());
        }
    }

    #[test]
    fn changed_safetensors(damage in damage(SAFETENSORS_HEADER), in_config in damage(900), which in 0..3) {
        let config = if which == 0 { damaged(CONFIG.as_bytes(), &in_config) } else { CONFIG.as_bytes().to_vec() };
        let Ok(config) = String::from_utf8(config) else { return Ok(()) };
        let bytes = if which == 0 { SAFETENSORS.clone() } else { damaged(&SAFETENSORS, &damage) };
        if safetensors(&config, &bytes).is_ok() {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("config.json"), &config).unwrap();
            std::fs::write(dir.path().join("model.safetensors"), &bytes).unwrap();
            look_at_everything(&Checkpoint::open(dir.path()).unwrap());
        }
    }
}

/// A list of as many entries as are kept takes more in memory than in the file, and no more than a small header may cost.
#[test]
fn lists_of_any_length_stay_within_their_files() {
    for len in [1000u64, 1024, 1025, 4096, 60_000] {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend([0u64, 1, 1].map(u64::to_le_bytes).concat()); // no tensors, one key, whose name has one letter
        bytes.push(b'k');
        bytes.extend([9u32, 0].map(u32::to_le_bytes).concat()); // an array of bytes
        bytes.extend(len.to_le_bytes());
        bytes.resize(bytes.len() + len as usize, 7);
        assert!(gguf(&bytes).is_err(), "it says nothing of a model");
    }
}

#[test]
fn whole_headers_stay_within_their_files() {
    gguf(&GGUF).unwrap();
    safetensors(&CONFIG, &SAFETENSORS).unwrap();
    assert!(GGUF.len() > GGUF_HEADER && SAFETENSORS.len() > SAFETENSORS_HEADER);
}

/// The largest shape a config may have asks for millions of parts that no file backs.
#[test]
fn a_config_cannot_ask_for_memory() {
    let mut config = Tiny::default().config_json();
    config["moe_num_primary_experts"] = 4096.into();
    config["num_hidden_layers"] = 1024.into();
    config.remove("rope_layout");
    config.remove("sliding_window_layout");
    let config = serde_json::Value::Object(config).to_string();
    let error = safetensors(&config, &SAFETENSORS).err().unwrap();
    assert!(error.to_string().contains("primary_router"), "{error}");
}
