//! Conversations on the disk: what a session has computed, to go on with later.
//!
//! A file is a line of words, the length of a header, the header (JSON), the tokens, what the cache holds, layer by layer, and
//! the SHA-256 of all that. It is written beside its name and renamed when it is whole; what is read is believed when all of
//! it has the right hash. It fits one model in one setting of the cache: the bits that go on are those that would have.

use super::Session;
use crate::checkpoint::{Checkpoint, Part};
use crate::error::{Error, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// How a file begins; it changes with what follows.
const MAGIC: &[u8] = b"thermocline session 1\n";
/// Bytes of a header, at most: a few words for each layer.
const MOST_HEADER: u64 = 1 << 20;
const HASH: u64 = 32;
/// Of a matrix, what goes into a model's identity.
const SAMPLE: u64 = 256;

/// What tells a model from others: its shape, its formats, and samples of its weights where they lie.
pub(super) struct Identity {
    shape: String,
    samples: Vec<(PathBuf, u64, u64)>,
}

impl Identity {
    /// `rounded`: what weights are rounded to while they are loaded.
    pub fn of(checkpoint: &Checkpoint, rounded: &str) -> Identity {
        let config = &checkpoint.config;
        let mut shape = format!("{config:?} {rounded}");
        let mut samples = Vec::new();
        for layer in 0..config.layers.len() as u16 {
            let expert = layer % config.experts as u16;
            for part in [
                Part::Router(layer),
                Part::NormIn(layer),
                Part::Query(layer),
                Part::Key(layer),
                Part::Value(layer),
                Part::AttentionOut(layer),
                Part::Gate(layer, expert),
                Part::Up(layer, expert),
                Part::Down(layer, expert),
            ] {
                let (file, range) = checkpoint.place(part);
                shape.push_str(&format!(" {:?}", checkpoint.kind(part)));
                samples.push((checkpoint.files()[file].0.clone(), range.start, (range.end - range.start).min(SAMPLE)));
            }
        }
        Identity { shape, samples }
    }

    /// As hexadecimal digits.
    pub fn digest(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(&self.shape);
        let mut open: Option<(&Path, File)> = None;
        for (path, start, bytes) in &self.samples {
            let failed = |e: std::io::Error| Error::Runtime(format!("{} cannot be read: {e}", path.display()));
            if open.as_ref().is_none_or(|(at, _)| at != path) {
                open = Some((path, File::open(path).map_err(failed)?));
            }
            let (_, file) = open.as_mut().expect("opened above");
            std::io::Seek::seek(file, std::io::SeekFrom::Start(*start)).map_err(failed)?;
            let mut sample = vec![0; *bytes as usize];
            file.read_exact(&mut sample).map_err(failed)?;
            hash.update(&sample);
        }
        Ok(hex(&hash.finalize()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Session {
    /// Writes what is computed to `path`, in place of what is there. Returns the bytes of the file.
    ///
    /// Errors (runtime): the file cannot be written, or another program is writing it; then `path` is as it was.
    pub fn save(&self, path: &Path) -> Result<u64> {
        let failed = |e: std::io::Error| Error::Runtime(format!("{} cannot be written: {e}", path.display()));
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::Usage(format!("{} names no file", path.display())));
        };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let beside = folder.join(format!(".{}.part", name.to_string_lossy()));
        let file = File::options().create(true).truncate(false).write(true).open(&beside).map_err(failed)?;
        file.try_lock().map_err(|_| Error::Runtime(format!("another program is writing {}", path.display())))?;
        let done = self.write(&file, failed).and_then(|bytes| {
            file.sync_all().map_err(failed)?;
            std::fs::rename(&beside, path).map_err(failed)?;
            Ok(bytes)
        });
        if done.is_err() {
            let _ = std::fs::remove_file(&beside); // a full disk is not to stay full
        }
        // The name, too, outlasts a loss of power where folders can be synced.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        done
    }

    /// Writes what is computed to an empty file. Returns its bytes.
    fn write(&self, mut file: &File, failed: impl Fn(std::io::Error) -> Error) -> Result<u64> {
        file.set_len(0).map_err(&failed)?; // what a killed attempt has left
        let header = json!({
            "model": self.shared().identity.digest()?,
            "cache": self.shared().kv.words(),
            "tokens": self.tokens().len(),
            "written": self.kv().written(),
        });
        let header = header.to_string();
        let mut hash = Sha256::new();
        let mut bytes = 0;
        let mut put = |part: &[u8]| {
            hash.update(part);
            bytes += part.len() as u64;
            file.write_all(part).map_err(&failed)
        };
        put(MAGIC)?;
        put(&(header.len() as u64).to_le_bytes())?;
        put(header.as_bytes())?;
        put(&self.tokens().iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>())?;
        for layer in 0..self.shared().config.layers.len() {
            for part in self.kv().fetch(layer)? {
                put(&part)?;
            }
        }
        file.write_all(&hash.finalize()).map_err(&failed)?;
        Ok(bytes + HASH)
    }

    /// Becomes the session that was saved to `path`. Returns the bytes of the file.
    ///
    /// Errors (usage): no such file, a damaged one, one of another model or of other settings of the cache. The session is
    /// as it was, or empty where only the end shows that the file is damaged.
    pub fn restore(&mut self, path: &Path) -> Result<u64> {
        let name = path.display();
        let failed = |e: std::io::Error| Error::Usage(format!("{name} cannot be read: {e}"));
        let wrong = |what: &str| Error::Usage(format!("{name} is no saved session: {what}"));
        let mut file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let mut hash = Sha256::new();
        let mut get = |part: &mut [u8]| {
            file.read_exact(part).map_err(|_| wrong("it ends too early"))?;
            hash.update(part);
            Ok::<(), Error>(())
        };
        let (mut magic, mut length) = ([0; MAGIC.len()], [0; 8]);
        get(&mut magic)?;
        if magic != MAGIC {
            return Err(wrong("it does not begin like one of this version"));
        }
        get(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > MOST_HEADER.min(size) {
            return Err(wrong("its header is too long"));
        }
        let mut header = vec![0; length as usize];
        get(&mut header)?;
        let header: Value = serde_json::from_slice(&header).map_err(|e| wrong(&e.to_string()))?;
        let number = |key: &str| header[key].as_u64().ok_or_else(|| wrong(&format!("{key:?} is missing")));
        let (count, written) = (number("tokens")?, number("written")?);
        let model = self.shared().identity.digest()?;
        if header["model"] != *model {
            return Err(Error::Usage(format!(
                "{name} was saved with another model, or with this one in another form: expected {model}, found {}",
                header["model"]
            )));
        }
        let shape = self.shared().kv.words();
        if header["cache"] != *shape {
            return Err(Error::Usage(format!(
                "{name} was saved with other settings of the cache (-c, -ctk, -ctv, -ub, --rewind): expected {shape}, found {}",
                header["cache"]
            )));
        }
        if count > self.capacity() as u64 || written < count || written > (self.capacity() as u64).max(count) {
            return Err(wrong(&format!("{count} tokens of {written} in a context of {}", self.capacity())));
        }
        let (count, written) = (count as usize, written as usize);
        let whole = MAGIC.len() as u64 + 8 + length + 4 * count as u64 + self.kv().bytes_of(written) + HASH;
        if size != whole {
            return Err(wrong(&format!("it has {size} bytes instead of {whole}")));
        }
        let mut ids = vec![0; 4 * count];
        get(&mut ids)?;
        let tokens: Vec<u32> = ids.as_chunks::<4>().0.iter().map(|id| u32::from_le_bytes(*id)).collect();
        self.check(0, &tokens)?;
        self.truncate(0);
        for layer in 0..self.shared().config.layers.len() {
            self.kv_mut().fill(layer, written, &mut get)?;
        }
        let mut said = [0; HASH as usize];
        file.read_exact(&mut said).map_err(failed)?;
        if hash.finalize()[..] != said {
            return Err(wrong("it does not have the hash it was saved with"));
        }
        self.restored(tokens, written);
        Ok(whole)
    }
}
