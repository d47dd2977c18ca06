//! Opens a model folder or GGUF file and answers one question: where are the bytes of tensor X?
//! Reads headers, never weights (`convert` and `pack` alone stream weights, to quantise and re-lay them).

mod catalogue;
mod convert;
mod files;
mod form;
mod gguf;
pub mod hub;
mod map;
pub mod pack;
mod reader;
mod safetensors;
mod summary;

pub use crate::config::{DownOrder, Part};
pub use convert::{Beside, Matrix, Quant, Relay, Sizes, Spread, Weights};
pub use files::{Files, ReadAt};
pub use form::{Form, Kind, Stored};
pub use reader::{ALIGNED, Reader};
pub use summary::{Group, Summary};

use crate::config::Config;
use crate::config::family::Family;
use crate::error::{Error, Result};
use catalogue::Catalogue;
use map::Map;
use pack::Packed;
use std::path::{Path, PathBuf};

/// Where text comes from: files beside the weights, or keys inside a GGUF.
#[derive(Clone, Debug)]
pub enum TextSource {
    /// Folder with `tokenizer.json`, `tokenizer_config.json`, maybe `chat_template.jinja`, `generation_config.json`.
    Folder(PathBuf),
    /// Vocabulary out of GGUF metadata.
    Gguf(GgufText),
    /// Those files, kept inside a packed one.
    Kept(TextFiles),
}

/// Files of text by their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextFiles {
    /// What they are kept in, for sentences.
    pub place: PathBuf,
    pub files: Vec<(String, String)>,
}

impl TextFiles {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.files.iter().find(|(n, _)| n == name).map(|(_, text)| text.as_str())
    }
}

/// The `tokenizer.*` keys of a GGUF.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufText {
    pub model: String,
    pub pre: String,
    pub tokens: Vec<String>,
    /// GGUF token types: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub token_types: Vec<u32>,
    /// "left right" pairs in order of rank.
    pub merges: Vec<String>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub padding: Option<u32>,
    pub add_bos: bool,
    pub chat_template: Option<String>,
}

/// An opened checkpoint: validated headers, memory-mapped files, no weight read.
pub struct Checkpoint {
    pub config: Config,
    pub text: TextSource,
    pub down: DownOrder,
    family: &'static Family,
    container: String,
    catalogue: Catalogue,
    files: Vec<(PathBuf, u64)>,
    maps: Vec<Map>,
    packed: Option<Packed>,
}

/// What the headers of a model say: enough to print what it is, wherever its files are.
pub struct Header {
    pub config: Config,
    pub down: DownOrder,
    /// The vocabulary, where the container carries it.
    pub text: Option<TextSource>,
    /// `"safetensors"`, `"GGUF version 3"` or `"packed file"`.
    pub container: String,
    /// Files that hold weights, with their sizes.
    pub files: Vec<(String, u64)>,
    family: &'static Family,
    catalogue: Catalogue,
    packed: Option<Packed>,
}

impl Header {
    /// What GGUF files call the tensor of a part; all experts of a layer share one.
    pub fn gguf_name(&self) -> fn(Part) -> String {
        self.family.gguf_tensor
    }

    /// Reads and checks the headers of the one model among `files`: `config.json` with safetensors, or a single GGUF file.
    pub fn read(files: &Files<'_>) -> Result<Header> {
        let gguf: Vec<&str> = names(files, ".gguf");
        let safetensors = !names(files, ".safetensors").is_empty() || files.size(safetensors::INDEX).is_some();
        // Without weights beside it, a config still tells whether the model would be of a kind we run.
        if files.size("config.json").is_some() && (safetensors || gguf.is_empty()) {
            let (family, fields) = safetensors::config_fields(files)?;
            if safetensors {
                return safetensors::read(files, family, fields);
            }
        }
        match gguf[..] {
            [one] => gguf::read(files, one),
            [] => Err(Error::Model(no_model(files, safetensors))),
            _ => Err(Error::Model(format!(
                "{}: expected one GGUF file, found {}; name one of: {}",
                files.label,
                gguf.len(),
                gguf.join(", ")
            ))),
        }
    }

    /// The headers of a model on the hub, by ranged reads. `label` names the repository in sentences.
    pub fn remote(remote: &hub::Remote, label: &str) -> Result<Header> {
        let wanted: Vec<&str> = match remote.weights() {
            hub::Weights::Gguf(file) => vec![file],
            hub::Weights::Safetensors(shards) => {
                let beside = ["config.json", "generation_config.json", safetensors::INDEX];
                let there = beside.into_iter().filter(|name| remote.files().iter().any(|f| f == name));
                there.chain(shards.iter().map(String::as_str)).collect()
            }
        };
        let opened = wanted.into_iter().map(|name| Ok((name, remote.file(name)?)));
        let opened = opened.collect::<Result<std::collections::HashMap<_, _>>>()?;
        let list = opened.iter().map(|(name, file)| (name.to_string(), file.size())).collect();
        let read_at = Box::new(|name: &str, offset: u64, len: usize| {
            let bytes = opened[name].read_at(offset, len)?;
            if bytes.len() == len {
                return Ok(bytes);
            }
            Err(Error::Download(format!("{label}/{name}: {} of {len} bytes came from byte {offset}", bytes.len())))
        });
        Header::read(&Files { label: label.to_string(), list, read_at })
    }

    /// What the bytes of one part are in its file.
    pub fn kind(&self, part: Part) -> Kind {
        let entry = self.catalogue.entry(&self.config, part);
        let (rows, width) = self.config.shape(part, self.down);
        Kind { format: entry.format, form: entry.form, rows, width }
    }

    /// What the model is, in figures.
    pub fn summary(&self) -> Summary {
        Summary::of(&self.config, self.down, &self.container, self.files.clone(), &self.catalogue)
    }
}

fn names<'a>(files: &'a Files<'_>, ending: &str) -> Vec<&'a str> {
    files.list.iter().map(|(n, _)| n.as_str()).filter(|n| n.ends_with(ending)).collect()
}

/// Why a folder is not a model, with what was found instead.
fn no_model(files: &Files<'_>, safetensors: bool) -> String {
    let expected = "expected config.json with model.safetensors (or its shards and index), or one .gguf file";
    if safetensors {
        return format!("{}: config.json is missing beside the safetensors files", files.label);
    }
    if files.list.iter().any(|(n, _)| n.ends_with(".bin") || n.ends_with(".pt") || n.ends_with(".pth")) {
        return format!("{}: {expected}; PyTorch's pickled weights are not read", files.label);
    }
    if files.list.is_empty() {
        return format!("{}: {expected}, found no files", files.label);
    }
    let shown: Vec<&str> = files.list.iter().map(|(n, _)| n.as_str()).take(8).collect();
    let more = if files.list.len() > shown.len() { ", ..." } else { "" };
    format!("{}: is no model: {expected}; found {}{more}", files.label, shown.join(", "))
}

impl Checkpoint {
    /// `path` is a folder (safetensors, or holding one GGUF) or a `.gguf` file.
    ///
    /// Fails with `Error::Model` and a sentence naming the file, tensor or key when anything is missing, damaged or of a kind
    /// that is not implemented. Where config.json ties the head to the embedding and a head is stored all the same, the two
    /// are compared byte by byte: the one look at weights this room takes.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        let (folder, files) = Files::local(path)?;
        let single_file = path.is_file();
        let header = if single_file { Self::single(path, &files)? } else { Header::read(&files)? };
        let mut maps = vec![];
        let mut found = vec![];
        for (name, size) in &header.files {
            let path = folder.join(name);
            let map = Map::open(&path, header.packed.is_some())?;
            if map.bytes().len() as u64 != *size {
                return Err(Error::Model(format!("{}: changed its size while it was opened", path.display())));
            }
            maps.push(map);
            found.push((path, *size));
        }
        let Header { config, down, text, container, family, catalogue, packed, .. } = header;
        let text = text.unwrap_or(TextSource::Folder(folder));
        let mut opened = Checkpoint { config, text, down, family, container, catalogue, files: found, maps, packed };
        opened.settle_tie();
        Ok(opened)
    }

    /// A path to one file: a GGUF, whatever it is called.
    fn single(path: &Path, files: &Files<'_>) -> Result<Header> {
        let name = files.list[0].0.as_str();
        if name.ends_with(".safetensors") || name == "config.json" || name == safetensors::INDEX {
            return Err(Error::Model(format!("{}: give the folder this file lies in", path.display())));
        }
        gguf::read(files, name)
    }

    /// A head stored beside a tie: the same bytes are shared; others are left alone, as transformers leaves them.
    fn settle_tie(&mut self) {
        let Some(spare) = self.catalogue.spare_head else { return };
        let tied = self.catalogue.entry(&self.config, Part::Embedding);
        let same = spare.format == tied.format && self.slice(spare) == self.slice(tied);
        self.maps[spare.file as usize].release(spare.offset as usize..(spare.offset + spare.bytes) as usize);
        if !same {
            self.config.notes.push(
                "config.json ties the head to the embedding, but a different lm_head.weight is stored: the embedding is used"
                    .into(),
            );
        }
    }

    fn slice(&self, entry: catalogue::Entry) -> &[u8] {
        &self.maps[entry.file as usize].bytes()[entry.offset as usize..(entry.offset + entry.bytes) as usize]
    }

    /// The bytes of one part, borrowed from the map. `Head` of a tied model is the embedding. Panics for a layer or expert
    /// the config does not have.
    pub fn stored(&self, part: Part) -> Stored<'_> {
        let entry = self.catalogue.entry(&self.config, part);
        let (rows, width) = self.config.shape(part, self.down);
        Stored { format: entry.format, form: entry.form, rows, width, bytes: self.slice(entry) }
    }

    /// What the bytes of one part are in its file.
    pub fn kind(&self, part: Part) -> Kind {
        let Stored { format, form, rows, width, .. } = self.stored(part);
        Kind { format, form, rows, width }
    }

    /// Lets pages of one part go from this process's memory, `bytes` counted from its start. The next look reads them from
    /// the file again.
    fn release_range(&self, part: Part, bytes: std::ops::Range<usize>) {
        let entry = self.catalogue.entry(&self.config, part);
        let start = entry.offset as usize;
        self.maps[entry.file as usize].release(start + bytes.start..start + bytes.end);
    }

    /// Has the system fetch one part ahead of its reading, `bytes` counted from its start.
    fn expect(&self, part: Part, bytes: std::ops::Range<usize>) {
        let entry = self.catalogue.entry(&self.config, part);
        let start = entry.offset as usize;
        self.maps[entry.file as usize].expect(start + bytes.start..start + bytes.end);
    }

    /// Some bytes of a file that holds weights (an index into `files`).
    fn file_bytes(&self, file: usize, range: std::ops::Range<u64>) -> &[u8] {
        &self.maps[file].bytes()[range.start as usize..range.end as usize]
    }

    /// Lets pages of a file go from this process's memory.
    fn release_file(&self, file: usize, range: std::ops::Range<u64>) {
        self.maps[file].release(range.start as usize..range.end as usize);
    }

    /// Lets go of the vocabulary that was read with the headers, once text has what it needs of it.
    pub fn forget_text(&mut self) {
        match &mut self.text {
            TextSource::Gguf(text) => *text = GgufText::default(),
            TextSource::Kept(text) => text.files.clear(),
            TextSource::Folder(_) => {}
        }
    }

    /// Pins all files in memory, reading what is not there yet.
    fn lock(&self) -> std::io::Result<()> {
        self.maps.iter().try_for_each(Map::lock)
    }

    /// Lets all pages of all files go from this process's memory.
    fn release_all(&self) {
        for map in &self.maps {
            map.release(0..map.bytes().len());
        }
    }

    /// What the file calls the tensor of one part, for sentences.
    pub fn tensor_name(&self, part: Part) -> String {
        if !self.is_gguf() {
            return (self.family.tensor)(part);
        }
        let name = (self.family.gguf_tensor)(part);
        match part {
            _ if self.packed.is_some() => pack::part_name(self.family, part),
            Part::Gate(_, e) | Part::Up(_, e) | Part::Down(_, e) => format!("{name} (expert {e})"),
            _ => name,
        }
    }

    /// What GGUF files call the tensor of a part; all experts of a layer share one.
    pub fn gguf_name(&self) -> fn(Part) -> String {
        self.family.gguf_tensor
    }

    /// The file one part lies in.
    pub fn file_of(&self, part: Part) -> &Path {
        &self.files[self.catalogue.entry(&self.config, part).file as usize].0
    }

    /// Where one part lies: its file (an index into `files`) and the bytes in it, for tiers that read rather than map.
    pub fn place(&self, part: Part) -> (usize, std::ops::Range<u64>) {
        let entry = self.catalogue.entry(&self.config, part);
        (entry.file as usize, entry.offset..entry.offset + entry.bytes)
    }

    /// Every part of the model once.
    pub fn parts(&self) -> impl Iterator<Item = Part> + '_ {
        self.config.parts()
    }

    /// The files that hold weights, with their sizes in bytes.
    pub fn files(&self) -> &[(PathBuf, u64)] {
        &self.files
    }

    /// The format of a GGUF is already chosen; a folder of floats may be rounded while loading.
    pub fn is_gguf(&self) -> bool {
        !matches!(self.text, TextSource::Folder(_))
    }

    /// What a packed file says about itself and its source; `None` for any other file.
    pub fn packed(&self) -> Option<&Packed> {
        self.packed.as_ref()
    }

    /// What the model is, in figures.
    pub fn summary(&self) -> Summary {
        let name = |p: &PathBuf| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let files = self.files.iter().map(|(p, size)| (name(p), *size)).collect();
        Summary::of(&self.config, self.down, &self.container, files, &self.catalogue)
    }

    /// Bytes of all parts as stored, a shared head once.
    pub fn weight_bytes(&self) -> u64 {
        self.summary().bytes()
    }
}
