//! Tools that are no functions as functions, and the way back: those of a namespace under a longer name, and tools that take
//! free text as functions of one string.

use super::failure::{Failure, Names, Outcome};
use super::fields::Fields;
use super::tools::{self, LONGEST_NAME, MOST_TOOLS};
use serde_json::{Map, Value, json};

/// Kinds of tools that agents offer with their functions, whether they are to be had or not: nobody here could run them.
const NOT_OFFERED: &[&str] = &["web_search", "web_search_preview", "image_generation", "tool_search", "local_shell"];

/// The one argument of a tool that takes free text.
const INPUT: &str = "input";

/// A tool that the model knows as another than who asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Renamed {
    shown: String,
    pub namespace: Option<String>,
    pub name: String,
    /// It takes text, not JSON.
    pub custom: bool,
}

impl Renamed {
    pub fn new(shown: String, namespace: Option<&str>, name: String, custom: bool) -> Renamed {
        Renamed { shown, namespace: namespace.map(Into::into), name, custom }
    }
}

/// What a request offers.
#[derive(Default)]
pub struct Offers {
    pub functions: Vec<Value>,
    /// What they are called in the request.
    pub names: Names,
    pub renamed: Vec<Renamed>,
    /// Kinds of tools the model is not told of.
    pub left_out: Vec<&'static str>,
}

/// The tools of a request.
pub fn read(tools: Vec<Value>) -> Outcome<Offers> {
    let mut offers = Offers::default();
    for (at, tool) in tools.into_iter().enumerate() {
        offers.add(tool, &format!("tools[{at}]"), None)?;
    }
    Ok(offers)
}

/// A tool of a chat as a function, and whether it takes free text there.
pub fn of_chat(tool: Value, place: &str) -> Outcome<(Value, bool)> {
    if tool["type"] != "custom" {
        return Ok((tool, false));
    }
    let mut fields = Fields::of(tool, place)?;
    fields.ignore(&["type"]);
    let Some(mut custom) = fields.object("custom")? else {
        return Err(Failure::field(fields.name("custom"), "is missing"));
    };
    fields.end()?;
    let (name, mut function) = free_text(&mut custom)?;
    custom.end()?;
    function.insert("name".into(), name.into());
    Ok((json!({ "type": "function", "function": function }), true))
}

/// A name that none of these has, where one of them or this is known by another: a call must say whose it is.
pub fn free(mut shown: String, renamed: &[Renamed], other: bool, taken: impl Fn(&str) -> bool) -> String {
    while taken(&shown) && (other || behind(renamed, &shown).is_some()) {
        shown.push('_');
    }
    shown
}

/// What the model knows a tool as.
pub fn known(renamed: &[Renamed], namespace: Option<&str>, name: &str, custom: bool) -> String {
    let same = |tool: &&Renamed| tool.namespace.as_deref() == namespace && tool.name == name && tool.custom == custom;
    renamed.iter().find(same).map_or_else(|| shown(namespace, name), |tool| tool.shown.clone())
}

/// The renamed tool behind what the model calls.
pub fn behind<'a>(renamed: &'a [Renamed], shown: &str) -> Option<&'a Renamed> {
    renamed.iter().find(|tool| tool.shown == shown)
}

/// What the model knows a function of a namespace as.
pub fn shown(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        None => name.to_string(),
        Some(space) if space.ends_with("__") => format!("{space}{name}"),
        Some(space) => format!("{space}__{name}"),
    }
}

/// The arguments that stand for a free text, and the text in them, or as much of it as there is.
pub fn arguments(input: &str) -> String {
    json!({ INPUT: input }).to_string()
}

pub fn input(arguments: &str) -> String {
    let text = |json: &str| Some(serde_json::from_str::<Value>(json).ok()?[INPUT].as_str()?.to_string());
    // Where they were cut off, perhaps within the escape of a character, which may have two of six letters.
    let cut = |by: usize| text(&format!("{}\"}}", arguments.get(..arguments.len().checked_sub(by)?)?));
    text(arguments).or_else(|| (0..=12).find_map(cut)).unwrap_or_default()
}

/// A choice among the tools, by the names the model knows.
pub fn choice(mut choice: Value, renamed: &[Renamed]) -> Value {
    let named = |tool: &Value| {
        let name = tool["name"].as_str()?;
        Some(known(renamed, tool["namespace"].as_str(), name, tool["type"] == "custom"))
    };
    if let (Some("function" | "custom"), Some(name)) = (choice["type"].as_str(), named(&choice)) {
        let mut function = choice;
        function["name"] = name.into();
        if let Some(function) = function.as_object_mut() {
            function.retain(|field, _| field != "type" && field != "namespace"); // of others somebody will complain
        }
        return json!({ "type": "function", "function": function });
    }
    for tool in choice.get_mut("tools").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(name) = named(tool) {
            *tool = json!({ "type": "function", "name": name });
        }
    }
    choice
}

impl Offers {
    fn add(&mut self, tool: Value, place: &str, namespace: Option<&str>) -> Outcome<()> {
        let kind = tool["type"].as_str().unwrap_or_default();
        if let Some(kind) = NOT_OFFERED.iter().find(|other| **other == kind) {
            if !self.left_out.contains(kind) {
                self.left_out.push(kind);
            }
            return Ok(());
        }
        match (kind, namespace) {
            ("namespace", None) => {
                let mut fields = Fields::of(tool, place)?;
                let name = tools::name(&mut fields)?;
                fields.ignore(&["type", "description"]);
                let within = fields.name("tools");
                for (at, tool) in fields.list("tools")?.unwrap_or_default().into_iter().enumerate() {
                    self.add(tool, &format!("{within}[{at}]"), Some(&name))?;
                }
                fields.end()
            }
            ("custom", _) => self.text(Fields::of(tool, place)?, namespace),
            _ => self.function(Fields::of(tool, place)?, namespace),
        }
    }

    fn function(&mut self, mut fields: Fields, namespace: Option<&str>) -> Outcome<()> {
        if fields.text("type")?.as_deref() != Some("function") {
            return Err(Failure::field(fields.name("type"), "is not \"function\": there are no other tools"));
        }
        let mut function = Map::new();
        for name in ["description", "parameters", "strict"] {
            if let Some(value) = fields.take(name) {
                function.insert(name.into(), value);
            }
        }
        let name = tools::name(&mut fields)?;
        fields.ignore(&["defer_loading"]);
        self.offer(Renamed::new(shown(namespace, &name), namespace, name, false), function, fields)
    }

    fn text(&mut self, mut fields: Fields, namespace: Option<&str>) -> Outcome<()> {
        fields.ignore(&["type", "defer_loading"]);
        let (name, function) = free_text(&mut fields)?;
        self.offer(Renamed::new(shown(namespace, &name), namespace, name, true), function, fields)
    }

    /// `fields` are those of the tool, all taken.
    fn offer(&mut self, mut tool: Renamed, mut function: Map<String, Value>, fields: Fields) -> Outcome<()> {
        if self.functions.len() == MOST_TOOLS {
            return Err(Failure::field("tools", format!("has more than {MOST_TOOLS} functions")));
        }
        let other = tool.namespace.is_some() || tool.custom;
        let taken = |name: &str| self.functions.iter().any(|function| function["function"]["name"] == name);
        tool.shown = free(tool.shown, &self.renamed, other, taken);
        if tool.shown.len() > LONGEST_NAME {
            let length = tool.shown.len();
            let problem = format!("makes {length} letters with its namespace, expected at most {LONGEST_NAME}");
            return Err(Failure::field(fields.name("name"), problem));
        }
        let here = format!("tools[{}].function", self.functions.len());
        self.names.push((here, fields.own_name().into()));
        fields.end()?;
        function.insert("name".into(), tool.shown.clone().into());
        self.functions.push(json!({ "type": "function", "function": function }));
        if other || tool.shown != tool.name {
            self.renamed.push(tool);
        }
        Ok(())
    }
}

/// The name of a tool that takes free text, and the function it is shown as. What form the text has the model is told; it is
/// held to that of a string.
fn free_text(fields: &mut Fields) -> Outcome<(String, Map<String, Value>)> {
    let name = tools::name(fields)?;
    let mut description = fields.text("description")?.unwrap_or_default();
    if let Some(mut format) = fields.object("format")? {
        match format.text("type")?.as_deref() {
            Some("text") => {}
            Some("grammar") => {
                // Chats have it in an object of its own.
                let mut grammar = format.object("grammar")?;
                let mut said = |field| grammar.as_mut().unwrap_or(&mut format).text(field);
                let (syntax, definition) =
                    (said("syntax")?.unwrap_or_default(), said("definition")?.unwrap_or_default());
                description.push_str(&format!("\n\nThe form of `{INPUT}` ({syntax}):\n{definition}"));
                grammar.map_or(Ok(()), Fields::end)?;
            }
            _ => return Err(Failure::field(format.name("type"), "is neither \"text\" nor \"grammar\"")),
        }
        format.end()?;
    }
    let parameters = json!({
        "type": "object", "properties": { INPUT: { "type": "string" } }, "required": [INPUT], "additionalProperties": false,
    });
    // Strict, for a text that could not be found in its arguments would be lost.
    let function = [("description", json!(description)), ("parameters", parameters), ("strict", json!(true))];
    Ok((name, function.map(|(key, value)| (key.to_string(), value)).into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_known_by_another_name_and_found_again() {
        let function =
            json!({ "type": "function", "name": "look", "parameters": { "type": "object" }, "strict": true });
        let custom = json!({ "type": "custom", "name": "patch", "description": "Edits.", "format": { "type": "grammar", "syntax": "lark", "definition": "start: A" } });
        let offers = read(vec![
            function.clone(),
            json!({ "type": "namespace", "name": "mcp__sea__", "description": "The sea.", "tools": [function] }),
            json!({ "type": "namespace", "name": "land", "tools": [custom] }),
            json!({ "type": "web_search" }),
        ])
        .unwrap_or_else(|e| panic!("{}", e.message()));
        let names: Vec<&Value> = offers.functions.iter().map(|tool| &tool["function"]["name"]).collect();
        assert_eq!(names, ["look", "mcp__sea__look", "land__patch"]);
        assert_eq!(offers.left_out, ["web_search"]);
        assert!(behind(&offers.renamed, "look").is_none());
        let sea = behind(&offers.renamed, "mcp__sea__look").expect("renamed");
        assert_eq!((sea.namespace.as_deref(), sea.name.as_str(), sea.custom), (Some("mcp__sea__"), "look", false));
        let land = behind(&offers.renamed, "land__patch").expect("renamed");
        assert_eq!((land.name.as_str(), land.custom), ("patch", true));
        let told = offers.functions[2]["function"]["description"].as_str().expect("a text");
        assert!(told.starts_with("Edits.") && told.ends_with("(lark):\nstart: A"), "{told}");
        assert_eq!(input(&arguments("a \"b\"\n\u{1F98A}")), "a \"b\"\n\u{1F98A}");
        for cut in ["cut", "cut\\", "cut\\u00", "cut\\ud83e", "cut\\ud83e\\udd"] {
            assert_eq!(input(&format!("{{\"input\": \"{cut}")), "cut", "{cut}");
        }
        assert_eq!((input("{\"inp"), input("{\"input\": \"é"), input("")), (String::new(), "é".into(), String::new()));
        for (tool, field) in [
            (json!({ "type": "custom", "name": "x", "format": { "type": "picture" } }), "tools[0].format.type"),
            (json!({ "type": "namespace", "tools": [] }), "tools[0].name"),
            (json!({ "type": "namespace", "name": "x", "tools": [{ "type": "namespace" }] }), "tools[0].tools[0].type"),
            (json!({ "type": "mcp" }), "tools[0].type"),
            (
                json!({ "type": "namespace", "name": "sea", "tools": [{ "type": "function" }] }),
                "tools[0].tools[0].name",
            ),
            (json!({ "type": "custom", "name": "a b" }), "tools[0].name"),
        ] {
            let refused = read(vec![tool]).err().expect("refused");
            assert!(refused.message().starts_with(field), "{}", refused.message());
        }
        let long = json!({ "type": "namespace", "name": "x".repeat(120), "tools": [{ "type": "custom", "name": "long_name" }] });
        assert!(
            read(vec![long]).err().expect("refused").message().starts_with("tools[0].tools[0].name makes 131 letters")
        );
        let twice = read(vec![json!({ "type": "web_search" }); 3]).unwrap_or_else(|e| panic!("{}", e.message()));
        assert_eq!(twice.left_out, ["web_search"]);
    }

    #[test]
    fn tools_of_one_name_are_told_apart() {
        let (function, custom) =
            (json!({ "type": "function", "name": "code" }), json!({ "type": "custom", "name": "code" }));
        let space = |name: &str, tool: &Value| json!({ "type": "namespace", "name": name, "tools": [tool] });
        for (tools, names, by) in [
            ([function.clone(), custom.clone()], ["code", "code_"], [("code", false), ("code_", true)]),
            ([custom.clone(), function.clone()], ["code", "code_"], [("code_", false), ("code", true)]),
        ] {
            let offers = read(tools.to_vec()).unwrap_or_else(|e| panic!("{}", e.message()));
            assert_eq!(offers.functions.iter().map(|f| &f["function"]["name"]).collect::<Vec<_>>(), names);
            for (shown, custom) in by {
                assert_eq!(known(&offers.renamed, None, "code", custom), shown);
                assert_eq!(behind(&offers.renamed, shown).is_some_and(|tool| tool.custom), custom);
            }
            let named = choice(json!({ "type": "custom", "name": "code" }), &offers.renamed);
            assert_eq!(named["function"]["name"], by[1].0);
        }
        let plain = json!({ "type": "function", "name": "a__code" });
        let offers = read(vec![plain, space("a", &function)]).unwrap_or_else(|e| panic!("{}", e.message()));
        assert!(behind(&offers.renamed, "a__code").is_none());
        assert_eq!(behind(&offers.renamed, "a__code_").and_then(|tool| tool.namespace.as_deref()), Some("a"));
    }

    #[test]
    fn choices_name_what_the_model_knows() {
        let choice = |value| choice(value, &[]);
        let named = choice(json!({ "type": "custom", "name": "patch" }));
        assert_eq!(named, json!({ "type": "function", "function": { "name": "patch" } }));
        let more = choice(json!({ "type": "function", "namespace": "sea", "name": "look", "typo": 1 }));
        assert_eq!(more, json!({ "type": "function", "function": { "name": "sea__look", "typo": 1 } }));
        let some = choice(json!({ "type": "allowed_tools", "mode": "auto", "tools": [
            { "type": "function", "namespace": "sea", "name": "look" }, { "type": "custom", "name": "patch" }] }));
        let names: Vec<&Value> = some["tools"].as_array().expect("a list").iter().map(|tool| &tool["name"]).collect();
        assert_eq!((names, some["mode"].as_str()), (vec![&json!("sea__look"), &json!("patch")], Some("auto")));
        assert_eq!(choice(json!("required")), json!("required"));
    }
}
