//! The header of a GGUF file, versions 2 and 3: metadata and the list of tensors. Trusts nothing: every count is held
//! against the bytes that are there before anything is made from it.

use crate::config::family::Value;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

/// Why parsing stopped.
#[derive(Debug, PartialEq)]
pub(in crate::checkpoint) enum Halt {
    /// The bytes given end before the header does; it needs at least this many.
    More(u64),
    /// The header is damaged or of a kind not read: a sentence without the file's name.
    Bad(String),
}

/// Real files stay far below; with these limits a lying count stops at once.
const MOST_KEYS: u64 = 1 << 16;
const MOST_TENSORS: u64 = 1 << 20;
const MOST_NAME: u64 = 1 << 16;
const MOST_DIMENSIONS: u32 = 4;
/// Lists up to this long are kept as values: one entry per layer, or a few token ids.
const SHORT_LIST: u64 = 1024;

/// A parsed header. Long lists stay in the file; `lists` says where.
#[derive(Debug)]
pub(in crate::checkpoint) struct Parsed {
    pub version: u32,
    pub values: BTreeMap<String, Value>,
    pub lists: BTreeMap<String, List>,
    pub tensors: Vec<Tensor>,
    /// Where tensor data begins, in bytes from the start of the file.
    pub data: u64,
    pub alignment: u64,
}

/// A list inside the header, already walked to its end once.
#[derive(Clone, Debug)]
pub(in crate::checkpoint) struct List {
    pub kind: u32,
    pub len: u64,
    /// In bytes from the start of the file.
    pub range: Range<usize>,
}

#[derive(Debug)]
pub(in crate::checkpoint) struct Tensor {
    pub name: String,
    /// Dimensions as the file orders them, contiguous first; 1 where there are fewer than four.
    pub dims: [u64; 4],
    pub kind: u32,
    /// In bytes from `Parsed::data`.
    pub offset: u64,
}

const UINT8: u32 = 0;
const INT8: u32 = 1;
const UINT16: u32 = 2;
const INT16: u32 = 3;
pub(super) const UINT32: u32 = 4;
const INT32: u32 = 5;
pub(super) const FLOAT32: u32 = 6;
pub(super) const BOOL: u32 = 7;
pub(super) const STRING: u32 = 8;
pub(super) const ARRAY: u32 = 9;
pub(super) const UINT64: u32 = 10;
const INT64: u32 = 11;
pub(super) const FLOAT64: u32 = 12;

/// Parses the header of a file of `size` bytes from its first bytes. `Halt::More` asks for a longer beginning.
pub(in crate::checkpoint) fn parse(beginning: &[u8], size: u64) -> Result<Parsed, Halt> {
    let mut from = Cursor { bytes: beginning, at: 0, size, doing: "its first bytes".into() };
    let magic = from.take(4)?;
    if magic != b"GGUF" {
        return from.bad(format!("expected GGUF in its first 4 bytes, found {:?}", String::from_utf8_lossy(magic)));
    }
    let version = from.u32()?;
    match version {
        2 | 3 => {}
        _ if version.swap_bytes() <= 3 => return from.bad("it is a big-endian GGUF file, which is not read".into()),
        _ => return from.bad(format!("expected GGUF version 2 or 3, found {version}")),
    }
    // A tensor takes at least 32 bytes of header, a key at least 13: a count beyond that is a lie.
    let tensors = from.counted("tensors", MOST_TENSORS, 32)?;
    let keys = from.counted("keys", MOST_KEYS, 13)?;

    let (mut values, mut lists) = (BTreeMap::new(), BTreeMap::new());
    for i in 0..keys {
        from.doing = format!("key {i} of {keys}");
        let key = from.name()?;
        from.doing = format!("the value of {key}");
        let kind = from.u32()?;
        let value = if kind == ARRAY {
            let list = from.list()?;
            let value = from.short_list(&list)?;
            lists.insert(key.clone(), list);
            value
        } else {
            from.scalar(kind)?
        };
        if values.insert(key.clone(), value).is_some() {
            return from.bad(format!("the key {key} is given twice"));
        }
    }

    let (mut list, mut seen) = (vec![], HashSet::new());
    for i in 0..tensors {
        from.doing = format!("tensor {i} of {tensors}");
        let tensor = from.tensor()?;
        if !seen.insert(tensor.name.clone()) {
            return from.bad(format!("tensor {} is listed twice", tensor.name));
        }
        list.push(tensor);
    }
    let alignment = match values.get("general.alignment") {
        None => 32,
        Some(Value::Count(n)) if n.is_power_of_two() && *n <= 1 << 20 => *n,
        Some(_) => return from.bad("general.alignment: expected a power of two".into()),
    };
    let data = (from.at as u64).next_multiple_of(alignment);
    Ok(Parsed { version, values, lists, tensors: list, data, alignment })
}

impl Parsed {
    /// `general.architecture`.
    pub fn architecture(&self) -> Option<&str> {
        match self.values.get("general.architecture") {
            Some(Value::Text(name)) => Some(name),
            _ => None,
        }
    }
}

impl List {
    /// The strings of a list of strings. `file` begins with the bytes that were parsed.
    pub fn strings(&self, file: &[u8]) -> Result<Vec<String>, String> {
        if self.kind != STRING {
            return Err("expected a list of strings".into());
        }
        let mut from = Cursor {
            bytes: &file[..self.range.end],
            at: self.range.start,
            size: self.range.end as u64,
            doing: String::new(),
        };
        let text = |from: &mut Cursor<'_>| from.string(u64::MAX).map(str::to_string).map_err(|h| h.sentence());
        (0..self.len).map(|_| text(&mut from)).collect()
    }

    /// The numbers of a list of whole numbers.
    pub fn counts(&self, file: &[u8]) -> Result<Vec<u32>, String> {
        let mut from = Cursor {
            bytes: &file[..self.range.end],
            at: self.range.start,
            size: self.range.end as u64,
            doing: String::new(),
        };
        let number = |from: &mut Cursor<'_>| match from.scalar(self.kind) {
            Ok(Value::Count(n)) if u32::try_from(n).is_ok() => Ok(n as u32),
            _ => Err("expected a list of whole numbers".to_string()),
        };
        (0..self.len).map(|_| number(&mut from)).collect()
    }
}

impl Halt {
    fn sentence(self) -> String {
        match self {
            Halt::More(n) => format!("needs {n} bytes"),
            Halt::Bad(sentence) => sentence,
        }
    }
}

/// Walks the beginning of a file of `size` bytes.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    size: u64,
    /// What is being read, for sentences.
    doing: String,
}

impl<'a> Cursor<'a> {
    fn bad<T>(&self, sentence: String) -> Result<T, Halt> {
        Err(Halt::Bad(sentence))
    }

    /// The next `n` bytes.
    fn take(&mut self, n: u64) -> Result<&'a [u8], Halt> {
        let end = (self.at as u64).checked_add(n);
        let Some(end) = end.filter(|end| *end <= self.size) else {
            return self.bad(format!(
                "the header is truncated: {} would end beyond the {} bytes of the file",
                self.doing, self.size
            ));
        };
        let Some(piece) = self.bytes.get(self.at..end as usize) else { return Err(Halt::More(end)) };
        self.at = end as usize;
        Ok(piece)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Halt> {
        Ok(self.take(N as u64)?.try_into().expect("take gives as many bytes as asked"))
    }

    fn u32(&mut self) -> Result<u32, Halt> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Halt> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things that take at least `each` bytes of the file.
    fn counted(&mut self, what: &str, most: u64, each: u64) -> Result<u64, Halt> {
        let n = self.u64()?;
        if n > most || n > self.size / each {
            return self
                .bad(format!("the header announces {n} {what}, more than a file of {} bytes can hold", self.size));
        }
        Ok(n)
    }

    fn string(&mut self, most: u64) -> Result<&'a str, Halt> {
        let len = self.u64()?;
        if len > most {
            return self.bad(format!("{}: a name of {len} bytes is too long", self.doing));
        }
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).or_else(|_| self.bad(format!("{}: a string is not valid UTF-8", self.doing)))
    }

    fn name(&mut self) -> Result<String, Halt> {
        self.string(MOST_NAME).map(str::to_string)
    }

    fn scalar(&mut self, kind: u32) -> Result<Value, Halt> {
        let whole = |n: i64| u64::try_from(n).map_or(Value::Negative(n), Value::Count);
        Ok(match kind {
            UINT8 => Value::Count(self.array::<1>()?[0] as u64),
            INT8 => whole(i8::from_le_bytes(self.array()?) as i64),
            UINT16 => Value::Count(u16::from_le_bytes(self.array()?) as u64),
            INT16 => whole(i16::from_le_bytes(self.array()?) as i64),
            UINT32 => Value::Count(self.u32()? as u64),
            INT32 => whole(i32::from_le_bytes(self.array()?) as i64),
            FLOAT32 => Value::Real(f32::from_le_bytes(self.array()?) as f64),
            BOOL => match self.array::<1>()?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                n => return self.bad(format!("{}: expected a truth value of 0 or 1, found {n}", self.doing)),
            },
            STRING => Value::Text(self.string(u64::MAX)?.to_string()),
            UINT64 => Value::Count(self.u64()?),
            INT64 => whole(i64::from_le_bytes(self.array()?)),
            FLOAT64 => Value::Real(f64::from_le_bytes(self.array()?)),
            _ => return self.bad(format!("{}: unknown type {kind}", self.doing)),
        })
    }

    /// Steps over a list and remembers where it is.
    fn list(&mut self) -> Result<List, Halt> {
        let (kind, len) = (self.u32()?, self.u64()?);
        let start = self.at;
        match width(kind) {
            Some(each) => {
                // An overflow is as far beyond the file as anything.
                self.take(len.saturating_mul(each))?;
            }
            None if kind == STRING => {
                if len > self.size / 8 {
                    return self
                        .bad(format!("{}: a list of {len} strings cannot be in {} bytes", self.doing, self.size));
                }
                for _ in 0..len {
                    self.string(u64::MAX)?;
                }
            }
            None => return self.bad(format!("{}: a list of type {kind} is not read", self.doing)),
        }
        Ok(List { kind, len, range: start..self.at })
    }

    /// The value of a list just walked: its entries when they are few, else its length.
    fn short_list(&mut self, list: &List) -> Result<Value, Halt> {
        if list.len > SHORT_LIST || list.kind == STRING {
            return Ok(Value::Long(list.len));
        }
        self.at = list.range.start;
        let mut entries = Vec::with_capacity(list.len as usize);
        for _ in 0..list.len {
            entries.push(self.scalar(list.kind)?);
        }
        Ok(Value::List(entries))
    }

    fn tensor(&mut self) -> Result<Tensor, Halt> {
        let name = self.name()?;
        self.doing = format!("the description of tensor {name}");
        let count = self.u32()?;
        if count == 0 || count > MOST_DIMENSIONS {
            return self.bad(format!("tensor {name}: expected 1 to {MOST_DIMENSIONS} dimensions, found {count}"));
        }
        let mut dims = [1; 4];
        for dim in &mut dims[..count as usize] {
            *dim = self.u64()?;
        }
        Ok(Tensor { name, dims, kind: self.u32()?, offset: self.u64()? })
    }
}

/// Bytes of one entry of a list, where all entries take the same.
fn width(kind: u32) -> Option<u64> {
    match kind {
        UINT8 | INT8 | BOOL => Some(1),
        UINT16 | INT16 => Some(2),
        UINT32 | INT32 | FLOAT32 => Some(4),
        UINT64 | INT64 | FLOAT64 => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(file: &mut Vec<u8>, text: &str) {
        file.extend((text.len() as u64).to_le_bytes());
        file.extend(text.bytes());
    }

    /// Every kind of value once, and one tensor.
    fn header() -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        let scalars: [(u32, &[u8]); 11] = [
            (UINT8, &[200]),
            (INT8, &[0xff]),
            (UINT16, &[1, 1]),
            (INT16, &[0xfe, 0xff]),
            (UINT32, &[7, 0, 0, 0]),
            (INT32, &[7, 0, 0, 0]),
            (FLOAT32, &[0, 0, 0x80, 0x3f]),
            (BOOL, &[1]),
            (UINT64, &[9, 0, 0, 0, 0, 0, 0, 0]),
            (INT64, &[0xff; 8]),
            (FLOAT64, &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f]),
        ];
        file.extend(1u64.to_le_bytes());
        file.extend((scalars.len() as u64 + 3).to_le_bytes());
        for (kind, bytes) in scalars {
            string(&mut file, &format!("kind.{kind}"));
            file.extend(kind.to_le_bytes());
            file.extend(bytes);
        }
        string(&mut file, "text");
        file.extend(STRING.to_le_bytes());
        string(&mut file, "thermocline");
        string(&mut file, "flags");
        [ARRAY, BOOL, 3, 0].iter().for_each(|n| file.extend(n.to_le_bytes()));
        file.extend([0, 1, 1]);
        string(&mut file, "texts");
        [ARRAY, STRING, 2, 0].iter().for_each(|n| file.extend(n.to_le_bytes()));
        string(&mut file, "one");
        string(&mut file, "two");
        string(&mut file, "a tensor");
        file.extend(2u32.to_le_bytes());
        [32u64, 5].iter().for_each(|n| file.extend(n.to_le_bytes()));
        file.extend(2u32.to_le_bytes());
        file.extend(64u64.to_le_bytes());
        file
    }

    #[test]
    fn every_kind_of_value() {
        let file = header();
        let parsed = parse(&file, 10_000).unwrap();
        let number = |kind: u32| parsed.values[&format!("kind.{kind}")].clone();
        assert_eq!(number(UINT8), Value::Count(200));
        assert_eq!(number(INT8), Value::Negative(-1));
        assert_eq!(number(UINT16), Value::Count(257));
        assert_eq!(number(INT16), Value::Negative(-2));
        assert_eq!((number(UINT32), number(INT32)), (Value::Count(7), Value::Count(7)));
        assert_eq!((number(FLOAT32), number(FLOAT64)), (Value::Real(1.0), Value::Real(1.0)));
        assert_eq!((number(UINT64), number(INT64)), (Value::Count(9), Value::Negative(-1)));
        assert_eq!(parsed.values["text"], Value::Text("thermocline".into()));
        assert_eq!(parsed.values["flags"], Value::List([false, true, true].map(Value::Bool).to_vec()));
        assert_eq!(parsed.values["texts"], Value::Long(2));
        assert_eq!(parsed.lists["texts"].strings(&file).unwrap(), ["one", "two"]);
        assert!(parsed.lists["texts"].counts(&file).is_err() && parsed.lists["flags"].strings(&file).is_err());
        let tensor = &parsed.tensors[0];
        assert_eq!((tensor.name.as_str(), tensor.dims, tensor.kind, tensor.offset), ("a tensor", [32, 5, 1, 1], 2, 64));
        assert_eq!((parsed.version, parsed.alignment, parsed.data), (3, 32, (file.len() as u64).next_multiple_of(32)));
    }

    #[test]
    fn a_beginning_asks_for_more_and_a_short_file_is_truncated() {
        let file = header();
        let size = file.len() as u64 + 1000;
        for cut in 0..file.len() {
            match parse(&file[..cut], size) {
                Err(Halt::More(n)) => assert!(n > cut as u64 && n <= file.len() as u64, "{n} at {cut}"),
                other => panic!("{other:?} at {cut}"),
            }
            match parse(&file[..cut], cut as u64) {
                Err(Halt::Bad(sentence)) => assert!(!sentence.is_empty()),
                other => panic!("{other:?} at {cut}"),
            }
        }
    }
}
