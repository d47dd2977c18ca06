//! What answers with calls are held to: the arguments of each function to its schema, or, where nobody insists, to as much of
//! it as can be enforced. Clients send what others wrote for them.

use super::failure::{Failure, Outcome};
use super::{Served, form};
use crate::engine::grammar::calls::Calls;
use crate::engine::grammar::{Form, Grammar};
use serde_json::{Map, Value, json};

/// `strict` names functions whose schemas have to be kept to the letter.
///
/// Errors: 400 where that cannot be, by the name of the function.
pub fn calls(mut calls: Calls, strict: &[String], served: &Served) -> Outcome<Grammar> {
    let whole = |calls: &Calls| form::compile(&(Form::Calls(calls.clone()), "tools".into()), served);
    let Err(why) = whole(&calls) else { return whole(&calls) };
    let fits = |schema: &Value| form::compile(&(Form::Schema(schema.clone()), "its schema".into()), served);
    let insists = |name: &String| strict.contains(name);
    if let Some(schema) = &calls.otherwise {
        form::compile(&(Form::Schema(schema.clone()), "response_format".into()), served)?;
    }
    for function in &mut calls.functions {
        let mut schema = function.parameters.clone();
        if let Some(map) = schema.as_object_mut() {
            map.entry("type").or_insert(json!("object"));
        }
        let Err(why) = fits(&schema) else { continue };
        if insists(&function.name) {
            let problem = format!("holds {:?} with \"strict\": true: {}", function.name, why.message());
            return Err(Failure::field("tools", problem));
        }
        let less = [STRUCTURE, &[STRUCTURE, TEXTS].concat()].map(|keys| without(&schema, keys));
        function.parameters = less.into_iter().find(|less| fits(less).is_ok()).unwrap_or_else(any);
        tracing::debug!(function = function.name, "arguments are held to a part of their schema");
    }
    if let Ok(grammar) = whole(&calls) {
        return Ok(grammar);
    }
    // Each by itself, and too much together.
    calls.functions.iter_mut().filter(|function| !insists(&function.name)).for_each(|f| f.parameters = any());
    whole(&calls).map_err(|_| why)
}

fn any() -> Value {
    json!({ "type": "object" })
}

/// Words of JSON Schema that no grammar here can hold a text to, and those that some values of are too much.
const STRUCTURE: &[&str] = &[
    "uniqueItems",
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "unevaluatedProperties",
    "unevaluatedItems",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
];
const TEXTS: &[&str] = &["pattern", "format", "patternProperties", "multipleOf", "minProperties", "maxProperties"];

/// A schema less what these words say. Names of properties and values that look like such words are none.
fn without(schema: &Value, words: &[&str]) -> Value {
    let Value::Object(map) = schema else { return schema.clone() };
    let inner = |(key, value): (&String, &Value)| {
        let inside = match (key.as_str(), value) {
            ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(named)) => {
                named.iter().map(|(name, schema)| (name.clone(), without(schema, words))).collect::<Map<_, _>>().into()
            }
            ("items" | "additionalProperties", schema @ Value::Object(_)) => without(schema, words),
            ("prefixItems" | "allOf" | "anyOf" | "oneOf" | "items", Value::Array(all)) => {
                all.iter().map(|schema| without(schema, words)).collect()
            }
            _ => value.clone(),
        };
        (key.clone(), inside)
    };
    map.iter().filter(|(key, _)| !words.contains(&key.as_str())).map(inner).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_and_names_stay() {
        let schema = json!({
            "type": "object", "not": {}, "required": ["not"],
            "properties": { "not": { "type": "array", "uniqueItems": true, "items": { "if": {}, "type": "string", "format": "x" } } },
            "enum": [{ "if": 1 }],
        });
        let less = json!({
            "type": "object", "required": ["not"],
            "properties": { "not": { "type": "array", "items": { "type": "string", "format": "x" } } },
            "enum": [{ "if": 1 }],
        });
        assert_eq!(without(&schema, STRUCTURE), less);
    }
}
