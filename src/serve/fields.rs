//! Reading a JSON object so that nothing in it is overlooked: what was not taken at the end is refused by name.

use super::failure::{Failure, Outcome};
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// Whole numbers up to here are the same to every reader of JSON (RFC 8259, section 6).
const MOST_WHOLE: usize = (1 << 53) - 1;

/// The fields of one object that nobody has taken yet. A field that is `null` counts as absent.
pub struct Fields {
    map: Map<String, Value>,
    /// What stands before names in sentences: `messages[2].`, or nothing.
    place: String,
}

impl Fields {
    pub fn body(bytes: &[u8]) -> Outcome<Fields> {
        let value = serde_json::from_slice(bytes).map_err(|e| {
            Failure::request(format!("the body is not JSON: line {}, column {}: {}", e.line(), e.column(), kind(&e)))
        })?;
        match value {
            Value::Object(map) => Ok(Fields { map, place: String::new() }),
            other => Err(Failure::request(format!("the body is {}, expected an object", name(&other)))),
        }
    }

    /// What another request was made into; its fields have names of their own.
    pub fn from(map: Map<String, Value>) -> Fields {
        Fields { map, place: String::new() }
    }

    /// `place` names the object in sentences.
    pub fn of(value: Value, place: &str) -> Outcome<Fields> {
        match value {
            Value::Object(map) => Ok(Fields { map, place: format!("{place}.") }),
            other => Err(Failure::field(place, format!("is {}, expected an object", name(&other)))),
        }
    }

    /// The full name of a field.
    pub fn name(&self, field: &str) -> String {
        format!("{}{field}", self.place)
    }

    /// The full name of the object itself.
    pub fn own_name(&self) -> &str {
        self.place.trim_end_matches('.')
    }

    fn wrong(&self, field: &str, found: &Value, expected: &str) -> Failure {
        Failure::field(self.name(field), format!("is {}, expected {expected}", name(found)))
    }

    pub fn take(&mut self, field: &str) -> Option<Value> {
        self.map.remove(field).filter(|value| !value.is_null())
    }

    /// What a field says, without taking it.
    pub fn peek(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    pub fn flag(&mut self, field: &str) -> Outcome<Option<bool>> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(self.wrong(field, &other, "true or false")),
        }
    }

    pub fn text(&mut self, field: &str) -> Outcome<Option<String>> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(field, &other, "a string")),
        }
    }

    /// A string that has to be there.
    pub fn needed(&mut self, field: &str) -> Outcome<String> {
        self.text(field)?.ok_or_else(|| Failure::field(self.name(field), "is missing"))
    }

    pub fn list(&mut self, field: &str) -> Outcome<Option<Vec<Value>>> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(self.wrong(field, &other, "a list")),
        }
    }

    pub fn object(&mut self, field: &str) -> Outcome<Option<Fields>> {
        let place = self.name(field);
        self.take(field).map(|value| Fields::of(value, &place)).transpose()
    }

    /// A number in `range`.
    pub fn number(&mut self, field: &str, range: RangeInclusive<f64>) -> Outcome<Option<f32>> {
        let Some(value) = self.take(field) else { return Ok(None) };
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let Some(number) = value.as_f64() else { return Err(self.wrong(field, &value, &expected)) };
        if !range.contains(&number) {
            return Err(Failure::field(self.name(field), format!("is {value}, expected {expected}")));
        }
        Ok(Some(number as f32))
    }

    /// A whole number in `range`; `5.0` is one too, since some clients know no other numbers.
    pub fn whole(&mut self, field: &str, range: RangeInclusive<usize>) -> Outcome<Option<usize>> {
        let Some(value) = self.take(field) else { return Ok(None) };
        let expected = match *range.end() {
            usize::MAX => format!("a whole number from {} to {MOST_WHOLE}", range.start()),
            end => format!("a whole number from {} to {end}", range.start()),
        };
        let exact = value.as_f64().filter(|x| x.fract() == 0.0 && (0.0..9.1e15).contains(x)).map(|x| x as usize);
        let found = value.as_u64().and_then(|n| usize::try_from(n).ok()).or(exact);
        match found {
            Some(n) if range.contains(&n) && n <= MOST_WHOLE => Ok(Some(n)),
            _ if value.is_number() => Err(Failure::field(self.name(field), format!("is {value}, expected {expected}"))),
            _ => Err(self.wrong(field, &value, &expected)),
        }
    }

    /// The same, where -1 stands for `none`, as in llama.cpp.
    pub fn whole_or(&mut self, field: &str, range: RangeInclusive<usize>, none: usize) -> Outcome<Option<usize>> {
        match self.map.get(field).and_then(Value::as_f64) {
            Some(-1.0) => {
                self.map.remove(field);
                Ok(Some(none))
            }
            _ => self.whole(field, range),
        }
    }

    /// A wish that this model can neither follow nor break, one of these words.
    pub fn wish(&mut self, field: &str, words: &[&str]) -> Outcome<()> {
        match self.text(field)? {
            Some(word) if !words.contains(&word.as_str()) => {
                Err(Failure::field(self.name(field), format!("is none of {}", words.join(", "))))
            }
            _ => Ok(()),
        }
    }

    /// Drops fields that cannot change an answer here.
    pub fn ignore(&mut self, fields: &[&str]) {
        for field in fields {
            self.map.remove(*field);
        }
    }

    /// 400 for a field of a feature that is not there, unless its value asks for nothing (`null`, `false`, empty).
    pub fn refuse(&mut self, fields: &[(&str, &str)]) -> Outcome<()> {
        for (field, why) in fields {
            let asks = match self.take(field) {
                None | Some(Value::Bool(false)) => false,
                Some(Value::Array(list)) => !list.is_empty(),
                Some(Value::Object(map)) => !map.is_empty(),
                Some(Value::String(text)) => !text.is_empty(),
                Some(_) => true,
            };
            if asks {
                return Err(Failure::field(self.name(field), format!("is not supported: {why}")));
            }
        }
        Ok(())
    }

    /// 400 for a field of a feature that is not there, unless its value is the one given, in JSON, that turns it off.
    pub fn off(&mut self, fields: &[(&str, &str)]) -> Outcome<()> {
        for (field, off) in fields {
            let Some(value) = self.take(field) else { continue };
            let same = |off: &Value| match (off.as_f64(), value.as_f64()) {
                (Some(off), Some(value)) => off == value,
                _ => *off == value,
            };
            if !serde_json::from_str(off).is_ok_and(|off: Value| same(&off)) {
                return Err(Failure::field(
                    self.name(field),
                    format!("is not supported: only {off} is, which asks for nothing"),
                ));
            }
        }
        Ok(())
    }

    /// Errors naming the first field nobody took.
    pub fn end(self) -> Outcome<()> {
        match self.map.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((field, _)) => {
                let shown: String = field.chars().take(64).collect();
                let problem = "is no field this server knows; it refuses what it would have to ignore";
                Err(Failure::field(self.name(&shown), problem))
            }
        }
    }
}

/// What a JSON value is, for sentences; never what it says, for it may be someone's words.
pub fn name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn kind(e: &serde_json::Error) -> &'static str {
    match e.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        _ if e.to_string().starts_with("recursion limit") => "it goes too deep", // its parser has no other way to say so
        _ => "something else was expected there",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        Fields::body(value.to_string().as_bytes()).expect("an object")
    }

    #[test]
    fn what_nobody_takes_is_refused_by_name() {
        let mut some = fields(json!({ "a": 1, "b": null, "typo_p": 0.5 }));
        assert_eq!(some.whole("a", 0..=9).expect("in range"), Some(1));
        assert!(some.end().unwrap_err().message().starts_with("typo_p "));
        let mut some = fields(json!({ "b": null, "user": "me" }));
        some.ignore(&["user"]);
        assert!(some.end().is_ok());
    }

    #[test]
    fn numbers_have_ranges() {
        let mut some =
            fields(json!({ "a": 2.5, "b": 5.0, "c": -1, "d": "x", "e": 1e300, "f": 18446744073709551615u64 }));
        assert!(some.number("a", 0.0..=2.0).unwrap_err().message().contains("from 0 to 2"));
        assert_eq!(some.whole("b", 1..=9).expect("a whole number"), Some(5));
        assert!(some.whole("c", 0..=usize::MAX).is_err() && some.whole("d", 0..=9).is_err());
        assert!(some.whole("e", 0..=9).is_err() && some.whole("f", 0..=9).is_err());
        assert_eq!(some.number("none", 0.0..=1.0).expect("absent"), None);
    }

    #[test]
    fn features_that_ask_for_nothing_pass() {
        let empty = json!({ "tools": [], "echo": false, "suffix": "", "kwargs": {}, "x": null });
        let names = [("tools", ""), ("echo", ""), ("suffix", ""), ("kwargs", ""), ("x", "")];
        let mut some = fields(empty);
        assert!(some.refuse(&names).is_ok() && some.end().is_ok());
        let asked = fields(json!({ "tools": [1] })).refuse(&[("tools", "not yet")]).unwrap_err();
        assert!(asked.message().contains("not yet"));
    }

    #[test]
    fn what_is_turned_off_passes_and_minus_one_is_none() {
        let mut some = fields(json!({ "mirostat": 0.0, "xtc": 0, "k": -1, "n": -1.0, "m": 3 }));
        assert!(some.off(&[("mirostat", "0"), ("xtc", "0"), ("absent", "1")]).is_ok());
        assert_eq!(some.whole_or("k", 0..=9, 0).expect("none"), Some(0));
        assert_eq!(some.whole_or("n", 1..=9, 7).expect("none"), Some(7));
        assert_eq!(some.whole_or("m", 1..=9, 7).expect("a number"), Some(3));
        let said = fields(json!({ "mirostat": 2 })).off(&[("mirostat", "0")]).unwrap_err();
        assert!(said.message().starts_with("mirostat is not supported: only 0"), "{}", said.message());
    }

    #[test]
    fn bodies_that_are_none_are_refused_without_repeating_them() {
        for (body, words) in
            [("", "ends too early"), ("{\"secret", "ends too early"), ("secret", "line 1"), ("[1]", "a list")]
        {
            let message = Fields::body(body.as_bytes()).err().expect("no object").message().to_string();
            assert!(message.contains(words) && !message.contains("secret"), "{message}");
        }
        assert!(Fields::body("[".repeat(100_000).as_bytes()).is_err(), "depth has a limit");
    }
}
