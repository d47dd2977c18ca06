//! Functions a request offers, and which of them the answer may call.

use super::failure::{Failure, Outcome};
use super::fields::Fields;
use super::offers::{self, Renamed};
use crate::engine::grammar::calls::{Calls, Function};
use serde_json::{Value, json};

/// Functions of one request, and characters of a name.
pub const MOST_TOOLS: usize = 128;
pub const LONGEST_NAME: usize = 128;

/// What a request says about tools.
#[derive(Default)]
pub struct Tools {
    /// As templates show them: OpenAI's objects.
    pub shown: Vec<Value>,
    /// `None`: the answer calls nothing.
    pub calls: Option<Calls>,
    /// Functions whose schemas have to be kept to the letter.
    pub strict: Vec<String>,
    /// Those of them that whoever asks knows as something else.
    pub renamed: Vec<Renamed>,
}

/// `tools`, `tool_choice` and `parallel_tool_calls` of a chat.
pub fn read(fields: &mut Fields) -> Outcome<Tools> {
    let place = fields.name("tools");
    let list = fields.list("tools")?.unwrap_or_default();
    let choice = fields.take("tool_choice");
    let parallel = fields.flag("parallel_tool_calls")?.unwrap_or(true);
    if list.len() > MOST_TOOLS {
        return Err(Failure::field(place, format!("has {} functions; at most {MOST_TOOLS} are read", list.len())));
    }
    let mut shown = Vec::with_capacity(list.len());
    let mut functions: Vec<Function> = Vec::with_capacity(list.len());
    let (mut strict, mut renamed) = (Vec::new(), Vec::new());
    for (at, tool) in list.into_iter().enumerate() {
        let place = format!("{place}[{at}]");
        let (tool, text) = offers::of_chat(tool, &place)?;
        let (mut function, mut value, insisted) = one(tool, &place)?;
        let taken = |name: &str| functions.iter().any(|function| function.name == name);
        let name = offers::free(function.name.clone(), &renamed, text, taken);
        if text || name != function.name {
            renamed.push(Renamed::new(name.clone(), None, function.name, text));
        }
        value["function"]["name"] = name.clone().into();
        function.name = name;
        strict.extend(insisted.then(|| function.name.clone()));
        functions.push(function);
        shown.push(value);
    }
    let required = match choose(choice, &functions, &renamed)? {
        Choice::None => return Ok(Tools::default()),
        Choice::Auto => false,
        Choice::Required => true,
        Choice::Allowed(names, required) => {
            functions.retain(|function| names.contains(&function.name));
            required
        }
        Choice::Named(at) => {
            let name = functions[at].name.clone();
            functions.retain(|function| function.name == name);
            let calls = Some(Calls { functions, required: true, parallel: false, otherwise: None });
            return Ok(Tools { shown, calls, strict, renamed });
        }
    };
    let calls = (!functions.is_empty()).then_some(Calls { functions, required, parallel, otherwise: None });
    Ok(Tools { shown, calls, strict, renamed })
}

enum Choice {
    None,
    Auto,
    Required,
    /// Which of the functions.
    Named(usize),
    /// Some of them, and whether one must be called.
    Allowed(Vec<String>, bool),
}

fn choose(choice: Option<Value>, functions: &[Function], renamed: &[Renamed]) -> Outcome<Choice> {
    let wrong = "is none of \"none\", \"auto\", \"required\" and a tool by its type and name";
    let chosen = match choice {
        None => return Ok(Choice::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "none" => return Ok(Choice::None),
            "auto" => return Ok(Choice::Auto),
            "required" => Choice::Required,
            _ => return Err(Failure::field("tool_choice", wrong)),
        },
        Some(Value::Object(mut map)) if map.get("type").is_some_and(|kind| kind == "allowed_tools") => {
            let nested = map.remove("allowed_tools").filter(Value::is_object);
            return allowed(Fields::of(nested.unwrap_or(Value::Object(map)), "tool_choice")?, functions, renamed);
        }
        Some(value) => {
            let mut fields = Fields::of(value, "tool_choice")?;
            let kind = fields.text("type")?.unwrap_or_default();
            if kind != "function" && kind != "custom" {
                return Err(Failure::field("tool_choice", wrong));
            }
            let Some(mut function) = fields.object(&kind)? else {
                return Err(Failure::field("tool_choice", wrong));
            };
            let name = function.text("name")?.unwrap_or_default();
            let name = offers::known(renamed, None, &name, kind == "custom");
            function.end()?;
            fields.end()?;
            match functions.iter().position(|function| function.name == name) {
                Some(at) => Choice::Named(at),
                None => return Err(Failure::field("tool_choice", "names a function that is not among the tools")),
            }
        }
    };
    match functions.is_empty() {
        true => Err(Failure::field("tool_choice", "asks for a call, and there are no tools")),
        false => Ok(chosen),
    }
}

/// `{"mode", "tools"}`: the functions that may be called, and whether one must be.
fn allowed(mut fields: Fields, functions: &[Function], renamed: &[Renamed]) -> Outcome<Choice> {
    let required = match fields.text("mode")?.as_deref() {
        Some("required") => true,
        Some("auto") | None => false,
        Some(_) => return Err(Failure::field(fields.name("mode"), "is neither \"auto\" nor \"required\"")),
    };
    fields.ignore(&["type"]);
    let place = fields.name("tools");
    let mut names = Vec::new();
    for tool in fields.list("tools")?.unwrap_or_default() {
        let name = [&tool["function"], &tool["custom"], &tool].into_iter().find_map(|tool| tool["name"].as_str());
        let name = offers::known(renamed, None, name.unwrap_or_default(), tool["type"] == "custom");
        match functions.iter().any(|function| function.name == name) {
            true => names.push(name),
            false => return Err(Failure::field(place, "names a function that is not among the tools")),
        }
    }
    fields.end()?;
    match names.is_empty() {
        true => Err(Failure::field(place, "is empty: at least one function is needed")),
        false => Ok(Choice::Allowed(names, required)),
    }
}

/// The name of a function.
pub fn name(fields: &mut Fields) -> Outcome<String> {
    let name = fields.text("name")?.unwrap_or_default();
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !name.is_empty() && name.len() <= LONGEST_NAME && name.chars().all(fits) {
        true => Ok(name),
        false => {
            let problem = format!("is not 1 to {LONGEST_NAME} letters, digits, `_` and `-`");
            Err(Failure::field(fields.name("name"), problem))
        }
    }
}

/// A function, how templates show it, and whether its schema is insisted on.
fn one(tool: Value, place: &str) -> Outcome<(Function, Value, bool)> {
    let mut fields = Fields::of(tool, place)?;
    if fields.text("type")?.as_deref() != Some("function") {
        return Err(Failure::field(
            fields.name("type"),
            "is neither \"function\" nor \"custom\": there are no other tools",
        ));
    }
    let Some(mut function) = fields.object("function")? else {
        return Err(Failure::field(fields.name("function"), "is missing"));
    };
    fields.end()?;
    let name = name(&mut function)?;
    let mut shown = json!({ "name": name });
    if let Some(description) = function.text("description")? {
        shown["description"] = description.into();
    }
    let place = function.name("parameters");
    let parameters = match function.take("parameters") {
        None => json!({ "type": "object", "properties": {} }),
        Some(Value::Object(map)) if map.get("type").is_some_and(|kind| kind != "object") => {
            return Err(Failure::field(place, "is a schema of something else than an object"));
        }
        Some(value @ Value::Object(_)) => value,
        Some(_) => return Err(Failure::field(place, "is no object")),
    };
    shown["parameters"] = parameters.clone();
    let strict = function.flag("strict")?.unwrap_or(false);
    function.end()?;
    Ok((Function { name, parameters }, json!({ "type": "function", "function": shown }), strict))
}
