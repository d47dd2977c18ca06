//! Calls of functions as a grammar: `<tool_call>`, a JSON object of name and arguments, `</tool_call>`.

use super::schema::checked;
use super::{Error, Result};
use crate::engine::text::CALL;
use serde_json::{Value, json};
use std::fmt::Write;

/// A function that may be called: its name (letters, digits, `_` and `-`) and the schema of its arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    pub name: String,
    pub parameters: Value,
}

impl Function {
    /// Arguments are an object, where their schema does not say so too.
    pub fn schema(&self) -> Value {
        let mut schema = self.parameters.clone();
        if let Some(map) = schema.as_object_mut() {
            map.entry("type").or_insert(json!("object"));
        }
        schema
    }
}

/// What calls an answer may hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Calls {
    pub functions: Vec<Function>,
    /// The answer is calls and nothing else, one at least; otherwise text, in which calls may begin.
    pub required: bool,
    /// More than one.
    pub parallel: bool,
    /// Where the answer need not call: a schema of the JSON that it is instead, rather than text in which calls may begin.
    pub otherwise: Option<Value>,
}

/// What stands between the beginning of a call and the name, and between that and the arguments. Whoever reads calls back
/// relies on exactly this.
pub const HEAD: (&str, &str) = ("\n{\"name\": \"", "\", \"arguments\": ");
/// After the arguments.
pub const TAIL: &str = "}\n";

/// Errors (usage): arguments that cannot be held to their schema, by the name of the function.
pub fn to_lark(calls: &Calls) -> Result<String> {
    let (open, close) = CALL;
    let more = if calls.parallel { "*" } else { "" };
    let otherwise = calls.otherwise.as_ref().filter(|_| !calls.required);
    let only = calls.required || otherwise.is_some();
    let or = if otherwise.is_some() { " | otherwise" } else { "" };
    let mut out = match (only, calls.parallel) {
        (true, true) => format!("start: one (\"\\n\" one)*{or}\none: {} body\n", json!(open)),
        (true, false) => format!("start: {} body{or}\n", json!(open)),
        // A lazy terminal ends where it first can: what follows the beginning of a call is a call.
        (false, true) => format!("start: (opened body){more} rest\nopened[lazy]: /(.|\\n)*{open}/\nrest: /(.|\\n)*/\n"),
        (false, false) => format!("start: opened body | rest\nopened[lazy]: /(.|\\n)*{open}/\nrest: /(.|\\n)*/\n"),
    };
    if let Some(schema) = otherwise {
        let _ = writeln!(out, "otherwise: %json {}", checked(schema.clone())?);
    }
    let names: Vec<String> = (0..calls.functions.len()).map(|at| format!("call_{at}")).collect();
    let _ = writeln!(out, "body: ({}) {}", names.join(" | "), json!(format!("{TAIL}{close}")));
    for (at, function) in calls.functions.iter().enumerate() {
        let head = format!("{}{}{}", HEAD.0, function.name, HEAD.1);
        let schema = checked(function.schema())
            .map_err(|e| Error::Usage(format!("the parameters of the function {:?}: {e}", function.name)))?;
        let _ = writeln!(out, "call_{at}: {} arguments_{at}\narguments_{at}: %json {schema}", json!(head));
    }
    Ok(out)
}
