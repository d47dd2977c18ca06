//! The header of a GGUF file, version 3.

use super::weights::Weights;
use std::io::Write;

/// Where data and each tensor begin: at multiples of so many bytes.
const ALIGNMENT: usize = 32;

pub enum Key {
    Count(u32),
    Single(f32),
    Bool(bool),
    Text(String),
    Kinds(Vec<i32>),
    Texts(Vec<String>),
}

pub struct Tensor {
    name: String,
    dims: Vec<u64>,
    pub rows: usize,
    pub width: usize,
    pub weights: Weights,
}

impl Tensor {
    /// `dims`: the width of a row first.
    pub fn new(name: &str, dims: &[usize], weights: Weights) -> Tensor {
        let (width, rows) = (dims[0], dims[1..].iter().product());
        Tensor { name: name.into(), dims: dims.iter().map(|d| *d as u64).collect(), rows, width, weights }
    }

    fn bytes(&self) -> usize {
        self.rows * self.weights.row_bytes(self.width)
    }
}

/// All that comes before the data.
pub fn header(keys: &[(String, Key)], tensors: &[Tensor]) -> Vec<u8> {
    let mut to = b"GGUF".to_vec();
    to.extend(3u32.to_le_bytes());
    to.extend((tensors.len() as u64).to_le_bytes());
    to.extend((keys.len() as u64).to_le_bytes());
    for (name, key) in keys {
        text(&mut to, name);
        write_key(&mut to, key);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        text(&mut to, &tensor.name);
        to.extend((tensor.dims.len() as u32).to_le_bytes());
        tensor.dims.iter().for_each(|d| to.extend(d.to_le_bytes()));
        to.extend(tensor.weights.kind().to_le_bytes());
        to.extend(offset.to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT) as u64;
    }
    to.resize(to.len().next_multiple_of(ALIGNMENT), 0);
    to
}

/// Fills up after a tensor of `written` bytes.
pub fn pad(to: &mut impl Write, written: usize) -> std::io::Result<()> {
    to.write_all(&[0; ALIGNMENT][..written.next_multiple_of(ALIGNMENT) - written])
}

fn text(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text.bytes());
}

fn write_key(to: &mut Vec<u8>, key: &Key) {
    // GGUF's numbers of types.
    const UINT32: u32 = 4;
    const INT32: u32 = 5;
    const FLOAT32: u32 = 6;
    const BOOL: u32 = 7;
    const STRING: u32 = 8;
    const ARRAY: u32 = 9;
    let list = |to: &mut Vec<u8>, kind: u32, len: usize| {
        to.extend(ARRAY.to_le_bytes());
        to.extend(kind.to_le_bytes());
        to.extend((len as u64).to_le_bytes());
    };
    match key {
        Key::Count(n) => {
            to.extend(UINT32.to_le_bytes());
            to.extend(n.to_le_bytes());
        }
        Key::Single(x) => {
            to.extend(FLOAT32.to_le_bytes());
            to.extend(x.to_le_bytes());
        }
        Key::Bool(b) => {
            to.extend(BOOL.to_le_bytes());
            to.push(*b as u8);
        }
        Key::Text(string) => {
            to.extend(STRING.to_le_bytes());
            text(to, string);
        }
        Key::Kinds(kinds) => {
            list(to, INT32, kinds.len());
            kinds.iter().for_each(|n| to.extend(n.to_le_bytes()));
        }
        Key::Texts(texts) => {
            list(to, STRING, texts.len());
            texts.iter().for_each(|string| text(to, string));
        }
    }
}
