//! Bounds of a JSON schema before the library sees it, which follows references down the stack and tells names and patterns
//! apart by trying each against each.

use super::{Error, MOST_MET, Result, check_size};
use llguidance::JsonCompileOptions;
use llguidance::api::TopLevelGrammar;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// Steps from a schema's root to its innermost part, references followed, and references that are no plain paths.
const MOST_STEPS: usize = 400;
const MOST_NAMED: usize = 64;
/// Patterns for names, each held against every other and against every name.
const MOST_PATTERNS: usize = 4_000;
/// Names of properties: the library looks each up among those before it.
const MOST_NAMES: usize = 5_000;

/// As `json.dumps` writes it, which is what models have seen most: one blank after a comma or a colon and no other.
pub fn grammar(value: Value) -> Result<TopLevelGrammar> {
    checked(value).map(TopLevelGrammar::from_json_schema)
}

/// A schema within limits, with what the library is to make of it.
pub fn checked(mut value: Value) -> Result<Value> {
    if !value.is_object() {
        return Err(Error::Usage("the schema is no object".into()));
    }
    follow(&value, &mut Named::default())?;
    let options = JsonCompileOptions {
        item_separator: ", ".into(),
        key_separator: ": ".into(),
        whitespace_flexible: false,
        ..JsonCompileOptions::default()
    };
    options.apply_to(&mut value);
    Ok(value)
}

/// A schema is neither too large nor too deep, nor has it, with `named` of others beside it, too many patterns.
pub fn follow(value: &Value, named: &mut Named) -> Result<()> {
    check_size("schema", &value.to_string())?;
    Steps { root: value, seen: HashSet::new(), elsewhere: 0, named }.follow(value, 0)
}

/// Follows a schema the way the library does, which goes down the stack with it.
struct Steps<'a> {
    root: &'a Value,
    seen: HashSet<&'a str>,
    /// References that are no paths.
    elsewhere: usize,
    named: &'a mut Named,
}

/// Properties by name and by pattern, so far.
#[derive(Default)]
pub struct Named {
    names: usize,
    patterns: usize,
}

/// Patterns for one text.
#[derive(Clone, Copy, Default)]
struct Met {
    /// For what the part of the schema is of, if that is a text.
    here: usize,
    /// For a text somewhere inside it.
    below: usize,
}

impl Met {
    /// Another part holds for the same.
    fn join(&mut self, other: Met) {
        self.here = self.here.saturating_add(other.here);
        self.below = self.below.saturating_add(other.below);
    }

    fn inside(most: Option<usize>) -> Met {
        Met { here: 0, below: most.unwrap_or(0) }
    }

    fn most(self) -> usize {
        self.here.max(self.below)
    }
}

impl<'a> Steps<'a> {
    fn follow(&mut self, value: &'a Value, depth: usize) -> Result<()> {
        if depth > MOST_STEPS {
            return Err(Error::Usage(format!("the schema is more than {MOST_STEPS} steps deep, references followed")));
        }
        match value {
            Value::Array(list) => list.iter().try_for_each(|inner| self.follow(inner, depth + 1)),
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    self.refer(reference, depth)?;
                }
                map.values().try_for_each(|inner| self.follow(inner, depth + 1))?;
                self.count(map)
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, map: &'a Map<String, Value>) -> Result<()> {
        let members = |key: &str| map.get(key).and_then(Value::as_object).map_or(0, Map::len);
        // Names that are open may come twice, and then there are fewer properties than were counted.
        let required = map.get("required").and_then(Value::as_array).into_iter().flatten();
        let required = required.filter_map(Value::as_str).collect::<HashSet<_>>().len();
        if let Some(least) = map.get("minProperties").and_then(Value::as_f64)
            && least > required as f64 + 1.0
        {
            return Err(Error::Usage(format!(
                "minProperties is {least} and required names {required} properties: that more than one other differs cannot be held to"
            )));
        }
        let Named { names, patterns } = self.named;
        *names += members("properties") + map.get("required").and_then(Value::as_array).map_or(0, Vec::len);
        *patterns += members("patternProperties");
        if *names > MOST_NAMES {
            return Err(Error::Usage(format!("the schema names more than {MOST_NAMES} properties")));
        }
        if *patterns * (*names + *patterns) > MOST_PATTERNS {
            return Err(Error::Usage(format!(
                "the schema has {patterns} patterns in patternProperties and {names} names of properties, too many to tell apart"
            )));
        }
        let met = map.contains_key("allOf") || (map.contains_key("$ref") && map.len() > 1);
        if met && self.met(map, &mut HashMap::new(), 0).most() > MOST_MET {
            return Err(Error::Usage(format!(
                "the schema holds texts to more than {MOST_MET} patterns by allOf or $ref"
            )));
        }
        Ok(())
    }

    /// Patterns that one text must satisfy for this part of the schema, references followed; at most, and beyond the limit
    /// where that goes too deep. `known`: of the references met so far; one that leads back to itself adds nothing there.
    fn met(&self, map: &'a Map<String, Value>, known: &mut HashMap<&'a str, Met>, depth: usize) -> Met {
        let mut met = Met::default();
        if depth > MOST_STEPS {
            return Met { here: MOST_MET + 1, below: 0 };
        }
        for (key, value) in map {
            if let ("$ref", Value::String(path)) = (key.as_str(), value) {
                met.join(self.met_there(path, known, depth));
                continue;
            }
            let parts = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice).iter();
            let mut of = |value: &'a Value| match value {
                Value::Object(map) => self.met(map, known, depth + 1),
                _ => Met::default(),
            };
            let within = match (key.as_str(), value) {
                ("pattern" | "format", Value::String(_)) => Met { here: 1, below: 0 },
                // Only what refers to them holds a text to them.
                ("$defs" | "definitions", _) => Met::default(),
                // A property has one of these names, an item one of these places; there may be names by pattern, and a
                // rule for all, on top.
                ("properties", Value::Object(all)) => Met::inside(all.values().map(|v| of(v).most()).max()),
                ("prefixItems", _) => Met::inside(parts.map(|part| of(part).most()).max()),
                ("patternProperties", Value::Object(all)) => {
                    Met::inside(all.values().map(|v| of(v).most()).reduce(usize::saturating_add))
                }
                ("allOf" | "anyOf" | "oneOf", _) => parts.map(of).fold(Met::default(), |mut all, part| {
                    all.join(part);
                    all
                }),
                _ => Met::inside(parts.map(|part| of(part).most()).reduce(usize::saturating_add)),
            };
            met.join(within);
        }
        met
    }

    fn met_there(&self, path: &'a str, known: &mut HashMap<&'a str, Met>, depth: usize) -> Met {
        if let Some(&met) = known.get(path) {
            return met;
        }
        known.insert(path, Met::default());
        let there = path.strip_prefix('#').and_then(|path| self.root.pointer(path)).and_then(Value::as_object);
        let met = there.map_or_else(Met::default, |map| self.met(map, known, depth + 1));
        known.insert(path, met);
        met
    }

    fn refer(&mut self, reference: &'a str, depth: usize) -> Result<()> {
        if !self.seen.insert(reference) {
            return Ok(());
        }
        match reference.strip_prefix('#').map(|path| self.root.pointer(path)) {
            Some(Some(inner)) => self.follow(inner, depth + 1),
            _ if self.elsewhere == MOST_NAMED => {
                Err(Error::Usage(format!("the schema has more than {MOST_NAMED} references that are no paths in it")))
            }
            _ => {
                self.elsewhere += 1;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn properties_are_not_counted_where_names_may_come_twice() {
        let object = |least: usize, required: &[&str]| json!({ "minProperties": least, "required": required, "additionalProperties": { "type": "integer" } });
        for fits in [
            object(1, &[]),
            object(2, &["a"]),
            object(2, &["a", "b"]),
            json!({ "properties": { "minProperties": object(0, &[]) } }),
        ] {
            assert!(checked(fits.clone()).is_ok(), "{fits}");
        }
        for open in [object(2, &[]), object(3, &["a"]), object(3, &["a", "a"]), json!({ "items": object(9, &["a"]) })] {
            let why = checked(open.clone()).unwrap_err().to_string();
            assert!(why.contains("minProperties"), "{open}: {why}");
        }
    }

    #[test]
    fn patterns_are_counted_for_the_text_that_must_meet_them() {
        let patterns = |n: usize| (0..n).map(|i| json!({ "pattern": format!(".*{i}.*") })).collect::<Vec<_>>();
        let properties = |n: usize| {
            let named = patterns(n).into_iter().enumerate().map(|(i, of)| (format!("p{i}"), of));
            json!({ "properties": named.collect::<Map<_, _>>() })
        };
        let defs = |of: Value| json!({ "a": { "pattern": "a.*" }, "of": of });
        let at = "#/$defs/a";
        let fits = [
            json!({ "allOf": patterns(MOST_MET) }),
            json!({ "allOf": [properties(50), { "type": "object" }] }),
            json!({ "$ref": "#/$defs/of", "title": "fifty", "$defs": defs(properties(50)) }),
            json!({ "allOf": [{ "prefixItems": patterns(50) }] }),
            json!({ "allOf": [{ "prefixItems": vec![json!({ "$ref": at }); 50] }], "$defs": defs(json!(true)) }),
            // It leads back to itself.
            json!({ "allOf": [{ "$ref": "#/$defs/of" }], "$defs": defs(json!({ "allOf": [{ "$ref": "#/$defs/of" }] })) }),
        ];
        for schema in fits {
            assert!(checked(schema.clone()).is_ok(), "{schema}");
        }
        let refused = [
            json!({ "allOf": patterns(MOST_MET + 1) }),
            json!({ "allOf": [{ "items": { "allOf": patterns(5) } }, { "prefixItems": patterns(1), "items": { "allOf": patterns(4) } }] }),
            // Met once as a property, it still counts each time for one text.
            json!({ "properties": { "a": { "$ref": at } }, "allOf": vec![json!({ "$ref": at }); MOST_MET + 1], "$defs": defs(json!(true)) }),
            json!({ "$ref": "#/$defs/of", "$defs": defs(json!({ "$ref": at, "allOf": vec![json!({ "$ref": at }); MOST_MET] })) }),
        ];
        for schema in refused {
            assert!(checked(schema.clone()).is_err(), "{schema}");
        }
    }
}
