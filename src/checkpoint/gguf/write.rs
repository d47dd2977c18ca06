//! The header of a GGUF file, version 3: what `parse` reads.

use super::parse::{ARRAY, BOOL, FLOAT32, FLOAT64, STRING, UINT32, UINT64};

/// A metadata value.
#[derive(Clone, Debug)]
pub(in crate::checkpoint) enum Key {
    Count(u32),
    Size(u64),
    Single(f32),
    Double(f64),
    Bool(bool),
    Text(String),
    Counts(Vec<u32>),
    Sizes(Vec<u64>),
    Bools(Vec<bool>),
    Texts(Vec<String>),
}

/// A tensor of one dimension.
#[derive(Clone, Debug)]
pub(in crate::checkpoint) struct Vector<'a> {
    pub name: &'a str,
    /// GGUF's number of its type.
    pub kind: u32,
    pub len: u64,
    /// From the start of the data.
    pub offset: u64,
}

/// The whole header, padded to where data begins.
pub(in crate::checkpoint) fn write(keys: &[(String, Key)], tensors: &[Vector<'_>], alignment: usize) -> Vec<u8> {
    let mut to = b"GGUF".to_vec();
    to.extend(3u32.to_le_bytes());
    to.extend((tensors.len() as u64).to_le_bytes());
    to.extend((keys.len() as u64).to_le_bytes());
    for (name, value) in keys {
        string(&mut to, name);
        key(&mut to, value);
    }
    for tensor in tensors {
        string(&mut to, tensor.name);
        to.extend(1u32.to_le_bytes());
        to.extend(tensor.len.to_le_bytes());
        to.extend(tensor.kind.to_le_bytes());
        to.extend(tensor.offset.to_le_bytes());
    }
    to.resize(to.len().next_multiple_of(alignment), 0);
    to
}

fn string(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text.bytes());
}

fn key(to: &mut Vec<u8>, value: &Key) {
    fn list<T>(to: &mut Vec<u8>, kind: u32, list: &[T], mut each: impl FnMut(&mut Vec<u8>, &T)) {
        to.extend(ARRAY.to_le_bytes());
        to.extend(kind.to_le_bytes());
        to.extend((list.len() as u64).to_le_bytes());
        list.iter().for_each(|entry| each(to, entry));
    }
    fn one(to: &mut Vec<u8>, kind: u32, bytes: &[u8]) {
        to.extend(kind.to_le_bytes());
        to.extend(bytes);
    }
    match value {
        Key::Count(n) => one(to, UINT32, &n.to_le_bytes()),
        Key::Size(n) => one(to, UINT64, &n.to_le_bytes()),
        Key::Single(x) => one(to, FLOAT32, &x.to_le_bytes()),
        Key::Double(x) => one(to, FLOAT64, &x.to_le_bytes()),
        Key::Bool(b) => one(to, BOOL, &[*b as u8]),
        Key::Text(text) => {
            to.extend(STRING.to_le_bytes());
            string(to, text);
        }
        Key::Counts(l) => list(to, UINT32, l, |to, n| to.extend(n.to_le_bytes())),
        Key::Sizes(l) => list(to, UINT64, l, |to, n| to.extend(n.to_le_bytes())),
        Key::Bools(l) => list(to, BOOL, l, |to, b| to.push(*b as u8)),
        Key::Texts(l) => list(to, STRING, l, |to, text| string(to, text)),
    }
}
