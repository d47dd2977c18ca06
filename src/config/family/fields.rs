//! A table of named values, from a JSON object or from GGUF metadata, and questions to it that answer in sentences.

use crate::config::MOST_LAYERS;
use std::collections::BTreeMap;

/// One value of a `config.json` or of GGUF metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Count(u64),
    Negative(i64),
    Real(f64),
    Text(String),
    List(Vec<Value>),
    /// A list too long, or of entries no shape is read from: its length.
    Long(u64),
    /// Something no shape is read from (an object): how it looks.
    Other(String),
}

impl Value {
    fn show(&self) -> String {
        match self {
            Value::Null => "null".into(),
            Value::Bool(b) => b.to_string(),
            Value::Count(n) => n.to_string(),
            Value::Negative(n) => n.to_string(),
            Value::Real(x) => x.to_string(),
            Value::Text(t) => format!("{:?}", short(t)),
            Value::List(l) => format!("a list of {}", l.len()),
            Value::Long(n) => format!("a list of {n}"),
            Value::Other(t) => short(t),
        }
    }
}

/// At most 60 characters of `text`: sentences quote files, and files can hold anything.
fn short(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_string(),
    }
}

impl From<&serde_json::Value> for Value {
    fn from(json: &serde_json::Value) -> Value {
        match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(b) => Value::Bool(*b),
            serde_json::Value::Number(n) => match (n.as_u64(), n.as_i64()) {
                (Some(n), _) => Value::Count(n),
                (_, Some(n)) => Value::Negative(n),
                _ => Value::Real(n.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(s) => Value::Text(s.clone()),
            serde_json::Value::Array(list) => Value::List(list.iter().map(Value::from).collect()),
            serde_json::Value::Object(_) => Value::Other(json.to_string()),
        }
    }
}

/// The table, and the assumptions made where it was silent.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    values: BTreeMap<String, Value>,
    pub notes: Vec<String>,
}

impl Fields {
    pub fn new(values: BTreeMap<String, Value>) -> Fields {
        Fields { values, notes: vec![] }
    }

    /// The members of a JSON object; anything else is refused.
    pub fn from_json(text: &str) -> Result<Fields, String> {
        let json: serde_json::Value = serde_json::from_str(text).map_err(|e| format!("is not valid JSON: {e}"))?;
        let object = json.as_object().ok_or("expected a JSON object")?;
        Ok(Fields::new(object.iter().map(|(key, value)| (key.clone(), Value::from(value))).collect()))
    }

    /// `None` where the key is absent or null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|v| **v != Value::Null)
    }

    pub fn note(&mut self, sentence: impl Into<String>) {
        self.notes.push(sentence.into());
    }

    /// A whole number. GGUF may give one per layer: accepted when all agree.
    pub fn count_opt(&self, key: &str) -> Result<Option<usize>, String> {
        let found = match self.get(key) {
            None => return Ok(None),
            Some(Value::List(list)) => match list.split_first() {
                Some((first, rest)) if rest.iter().all(|v| v == first) => first,
                Some(_) => return Err(format!("{key} differs from layer to layer, which is not implemented")),
                None => return Err(format!("{key}: expected a whole number, found an empty list")),
            },
            Some(value) => value,
        };
        match found {
            Value::Count(n) => Ok(Some(usize::try_from(*n).map_err(|_| format!("{key}: {n} is too large"))?)),
            other => Err(format!("{key}: expected a whole number, found {}", other.show())),
        }
    }

    pub fn count(&self, key: &str) -> Result<usize, String> {
        self.count_opt(key)?.ok_or_else(|| format!("the key {key} is missing"))
    }

    /// How long a list is.
    pub fn length(&self, key: &str) -> Result<usize, String> {
        match self.get(key) {
            None => Err(format!("the key {key} is missing")),
            Some(Value::List(list)) => Ok(list.len()),
            Some(Value::Long(n)) => usize::try_from(*n).map_err(|_| format!("{key}: a list of {n} is too long")),
            Some(other) => Err(format!("{key}: expected a list, found {}", other.show())),
        }
    }

    /// A whole number, or `assumed`, which is noted.
    pub fn count_or(&mut self, key: &str, assumed: usize) -> Result<usize, String> {
        Ok(match self.count_opt(key)? {
            Some(n) => n,
            None => {
                self.note(format!("{key} is absent: assumed {assumed}"));
                assumed
            }
        })
    }

    pub fn real_opt(&self, key: &str) -> Result<Option<f64>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Real(x)) => Ok(Some(*x)),
            Some(Value::Count(n)) => Ok(Some(*n as f64)),
            Some(Value::Negative(n)) => Ok(Some(*n as f64)),
            Some(other) => Err(format!("{key}: expected a number, found {}", other.show())),
        }
    }

    /// A number, or `assumed`, which is noted.
    pub fn real_or(&mut self, key: &str, assumed: f64) -> Result<f64, String> {
        Ok(match self.real_opt(key)? {
            Some(x) => x,
            None => {
                self.note(format!("{key} is absent: assumed {assumed}"));
                assumed
            }
        })
    }

    pub fn bool_opt(&self, key: &str) -> Result<Option<bool>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(other) => Err(format!("{key}: expected true or false, found {}", other.show())),
        }
    }

    pub fn text_opt(&self, key: &str) -> Result<Option<&str>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(t)) => Ok(Some(t)),
            Some(other) => Err(format!("{key}: expected text, found {}", other.show())),
        }
    }

    /// The number of layers. Limited here already, since lists of that length are made from it.
    pub fn layers(&self, key: &str) -> Result<usize, String> {
        match self.count(key)? {
            n @ 1..=MOST_LAYERS => Ok(n),
            n => Err(format!("{key}: expected 1 to {MOST_LAYERS} layers, found {n}")),
        }
    }

    /// A list of 0 and 1 (or false and true), one for each of `layers` layers.
    pub fn flags_opt(&self, key: &str, layers: usize) -> Result<Option<Vec<bool>>, String> {
        let list = match self.get(key) {
            None => return Ok(None),
            Some(Value::List(list)) => list,
            Some(other) => return Err(format!("{key}: expected a list of 0 and 1, found {}", other.show())),
        };
        if list.len() != layers {
            return Err(format!("{key} has {} entries, but there are {layers} layers", list.len()));
        }
        let flag = |(i, value): (usize, &Value)| match value {
            Value::Count(0) | Value::Bool(false) => Ok(false),
            Value::Count(1) | Value::Bool(true) => Ok(true),
            other => Err(format!("{key}[{i}]: expected 0 or 1, found {}", other.show())),
        };
        list.iter().enumerate().map(flag).collect::<Result<_, _>>().map(Some)
    }

    /// Token ids: one, a list, or none at all.
    pub fn ids(&self, key: &str) -> Result<Vec<u32>, String> {
        let id = |value: &Value| match value {
            Value::Count(n) if u32::try_from(*n).is_ok() => Ok(*n as u32),
            other => Err(format!("{key}: expected a token id, found {}", other.show())),
        };
        match self.get(key) {
            None => Ok(vec![]),
            Some(Value::List(list)) => list.iter().map(id).collect(),
            Some(value) => Ok(vec![id(value)?]),
        }
    }

    /// Refuses a feature by the name of its key, unless the key is absent or `fine` says so of its value.
    pub fn refuse_unless(&self, key: &str, fine: impl Fn(&Value) -> bool, feature: &str) -> Result<(), String> {
        match self.get(key) {
            Some(value) if !fine(value) => Err(format!("{key} is {}: {feature} is not implemented", value.show())),
            _ => Ok(()),
        }
    }
}

/// What a flag looks like when the feature behind it is off.
pub fn off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) | Value::Count(0) => true,
        Value::Real(x) => *x == 0.0,
        Value::List(list) => list.iter().all(off),
        Value::Text(t) => t.is_empty() || t == "none",
        Value::Bool(true) | Value::Count(_) | Value::Negative(_) | Value::Long(_) | Value::Other(_) => false,
    }
}

/// What a flag looks like when it is on, for every layer where it is a list.
pub fn on(value: &Value) -> bool {
    match value {
        Value::Bool(true) | Value::Count(1) => true,
        Value::List(list) => list.iter().all(on),
        _ => false,
    }
}

/// The number is `expected`, whichever way it is written.
pub fn is_number(value: &Value, expected: f64) -> bool {
    match value {
        Value::Count(n) => *n as f64 == expected,
        Value::Real(x) => *x == expected,
        _ => false,
    }
}
