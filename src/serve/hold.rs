//! What answers with calls are held to: the arguments of each function to its schema, or, where nobody insists, to as much of
//! it as can be enforced. Clients send what others wrote for them.

use super::failure::{Failure, Outcome};
use super::{Served, form};
use crate::engine::grammar::calls::{Calls, Function};
use crate::engine::grammar::{Form, Grammar};
use serde_json::{Map, Value, json};

/// Functions that are looked at one by one: each may take as long to compile as all of them together.
const FEW: usize = 4;
/// The same of those without what makes compiling slow.
const SOME: usize = 64;

/// `strict` names functions whose schemas have to be kept to the letter.
///
/// Errors: 400 where that cannot be, by the name of the function.
pub fn calls(mut calls: Calls, strict: &[String], served: &Served) -> Outcome<Grammar> {
    calls.functions.iter_mut().for_each(|function| function.parameters = closed(&function.parameters));
    let whole = |calls: &Calls| form::compile(&(Form::Calls(calls.clone()), "tools".into()), served);
    let alone = |schema: &Value| form::compile(&(Form::Schema(schema.clone()), "its schema".into()), served);
    let why = match whole(&calls) {
        Ok(grammar) => return Ok(grammar),
        Err(why) => why,
    };
    if let Some(schema) = &calls.otherwise {
        form::compile(&(Form::Schema(schema.clone()), "response_format".into()), served)?;
    }
    let (mut kept, mut loose): (Vec<_>, Vec<_>) = calls.functions.iter_mut().partition(|f| strict.contains(&f.name));
    // First those that may be at fault by the look of them.
    kept.sort_by_key(|f| without(&without(&f.parameters, STRUCTURE), TEXTS) == f.parameters);
    for function in kept.iter().take(FEW) {
        if let Err(why) = alone(&function.schema()) {
            let problem = format!("holds {:?} with \"strict\": true: {}", function.name, why.message());
            return Err(Failure::field("tools", problem));
        }
    }
    // Those that can be kept lose nothing by the first step; by the second those that cannot, if there are not too many to ask.
    loose.iter_mut().for_each(|function| function.parameters = without(&function.parameters, STRUCTURE));
    tracing::debug!(functions = loose.len(), "arguments are held to a part of their schemas");
    if let Ok(grammar) = whole(&calls) {
        return Ok(grammar);
    }
    let has_texts = |f: &Function| without(&f.parameters, TEXTS) != f.parameters;
    let mut loose: Vec<_> = calls.functions.iter_mut().filter(|f| !strict.contains(&f.name)).collect();
    let few = loose.iter().filter(|f| has_texts(f)).count() <= FEW;
    for (at, function) in loose.iter_mut().enumerate() {
        if few && has_texts(function) && alone(&function.schema()).is_ok() {
            continue;
        }
        function.parameters = without(&function.parameters, TEXTS);
        if at >= SOME || alone(&function.schema()).is_err() {
            function.parameters = any();
        }
    }
    if let Ok(grammar) = whole(&calls) {
        return Ok(grammar);
    }
    calls.functions.iter_mut().filter(|f| !strict.contains(&f.name)).for_each(|f| f.parameters = any());
    // What the library says goes on with a grammar of ours that nobody asked for.
    let first = why.message().lines().next().unwrap_or_default().trim_start_matches("tools ").to_string();
    whole(&calls).map_err(|_| Failure::field("tools", first))
}

/// A schema whose objects have no properties but those it names, where it says nothing of others: what a function does not know
/// it cannot be called with. As it is where parts are laid over each other, for each would shut out the others' properties.
fn closed(schema: &Value) -> Value {
    if lays_over(schema) { schema.clone() } else { closed_within(schema) }
}

/// Whether an object's properties may be said in more than one place.
fn lays_over(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => {
            let beside = ["$ref", "anyOf", "oneOf"].iter().any(|word| map.contains_key(*word));
            map.contains_key("allOf") || map.contains_key("properties") && beside || map.values().any(lays_over)
        }
        Value::Array(all) => all.iter().any(lays_over),
        _ => false,
    }
}

fn closed_within(schema: &Value) -> Value {
    let Value::Object(map) = schema else { return schema.clone() };
    let properties = map.get("properties").and_then(Value::as_object);
    let required = map.get("required").and_then(Value::as_array).into_iter().flatten();
    let named = properties.is_some_and(|all| {
        required.filter_map(Value::as_str).all(|name| all.contains_key(name)) // others must be had from somewhere
    });
    let each = |all: &Map<String, Value>| all.iter().map(|(name, one)| (name.clone(), closed_within(one))).collect();
    let inner = |(key, value): (&String, &Value)| {
        let inside = match (key.as_str(), value) {
            ("properties" | "$defs" | "definitions", Value::Object(all)) => Value::Object(each(all)),
            ("items", one @ Value::Object(_)) => closed_within(one),
            ("prefixItems", Value::Array(all)) => all.iter().map(closed_within).collect(),
            ("anyOf" | "oneOf", Value::Array(all)) => all.iter().map(closed_within).collect(),
            _ => value.clone(),
        };
        (key.clone(), inside)
    };
    let mut closed: Map<String, Value> = map.iter().map(inner).collect();
    let says = ["additionalProperties", "patternProperties", "unevaluatedProperties", "minProperties"];
    if named && !says.iter().any(|word| map.contains_key(*word)) {
        closed.insert("additionalProperties".into(), false.into());
    }
    closed.into()
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
    "minProperties",
];
const TEXTS: &[&str] = &["pattern", "format", "patternProperties", "multipleOf", "maxProperties"];

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
    fn objects_are_closed_where_nothing_is_said() {
        let point = json!({ "type": "object", "properties": { "x": { "type": "number" } } });
        let mut shut = point.clone();
        shut["additionalProperties"] = json!(false);
        assert_eq!(closed(&point), shut);
        let within = |point: &Value| {
            json!({ "type": "object", "additionalProperties": true, "properties": {
            "a": { "type": "array", "items": point }, "b": { "anyOf": [point, { "type": "null" }] } } })
        };
        assert_eq!(closed(&within(&point)), within(&shut));
        for open in [
            json!({ "type": "object" }),
            json!({ "allOf": [point, { "properties": { "y": {} } }] }),
            json!({ "properties": { "x": {} }, "anyOf": [point] }),
            json!({ "properties": { "x": {} }, "patternProperties": { "^x-": {} } }),
            json!({ "properties": { "x": {} }, "required": ["x", "y"] }),
            json!({ "$defs": { "base": point }, "$ref": "#/$defs/base", "properties": { "z": {} } }),
        ] {
            assert_eq!(closed(&open), open);
        }
    }

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
