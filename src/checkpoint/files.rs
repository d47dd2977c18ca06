//! Where the headers of a model are read from: a folder on disk, or a repository far away, by ranges.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Reads `len` bytes of the named file from `offset`; the reader of headers never asks beyond the listed size.
pub type ReadAt<'a> = dyn Fn(&str, u64, usize) -> Result<Vec<u8>> + 'a;

/// The files of one model, by name and size, and a way to read pieces of them.
pub struct Files<'a> {
    /// What sentences call the place: a path, or `owner/repository`.
    pub label: String,
    /// Name (no folders) and size in bytes.
    pub list: Vec<(String, u64)>,
    pub read_at: Box<ReadAt<'a>>,
}

impl Files<'_> {
    /// Files on disk: everything in a folder, or one file.
    pub(super) fn local(path: &Path) -> Result<(PathBuf, Files<'static>)> {
        let sad = |e: std::io::Error| Error::Model(format!("{}: cannot be opened: {e}", path.display()));
        let meta = std::fs::metadata(path).map_err(sad)?;
        let mut list = vec![];
        let folder = if meta.is_dir() {
            for entry in std::fs::read_dir(path).map_err(sad)? {
                let entry = entry.map_err(sad)?;
                // Through links: the hub's cache is a folder of them. A dangling link is no file.
                if let (Ok(name), Ok(meta)) = (entry.file_name().into_string(), std::fs::metadata(entry.path()))
                    && meta.is_file()
                {
                    list.push((name, meta.len()));
                }
            }
            path.to_path_buf()
        } else {
            let name = path.file_name().and_then(|n| n.to_str());
            let name = name.ok_or_else(|| Error::Model(format!("{}: not a file name", path.display())))?;
            list.push((name.to_string(), meta.len()));
            path.parent().unwrap_or(Path::new("")).to_path_buf()
        };
        list.sort();
        let within = folder.clone();
        let read_at = Box::new(move |name: &str, offset: u64, len: usize| read_local(&within.join(name), offset, len));
        Ok((folder, Files { label: path.display().to_string(), list, read_at }))
    }

    /// Size of a file, when it is there.
    pub fn size(&self, name: &str) -> Option<u64> {
        self.list.iter().find(|(n, _)| n == name).map(|(_, size)| *size)
    }

    /// How sentences name a file of this place.
    pub(super) fn name_of(&self, name: &str) -> String {
        if self.label.ends_with(name) {
            self.label.clone()
        } else {
            format!("{}/{name}", self.label.trim_end_matches('/'))
        }
    }

    /// A whole small text file.
    pub(super) fn text(&self, name: &str, most: u64) -> Result<String> {
        let size = self.size(name).unwrap_or(0);
        let refuse = |what: String| Error::Model(format!("{}: {what}", self.name_of(name)));
        if size > most {
            return Err(refuse(format!("expected at most {most} bytes, found {size}")));
        }
        let bytes = (self.read_at)(name, 0, size as usize)?;
        String::from_utf8(bytes).map_err(|_| refuse("is not valid UTF-8".into()))
    }
}

fn read_local(path: &Path, offset: u64, len: usize) -> Result<Vec<u8>> {
    let read = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = vec![0; len];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|e: std::io::Error| Error::Model(format!("{}: cannot be read: {e}", path.display())))
}
