//! Anthropic's messages API: its requests become chats, its responses are made of the same events.

use super::ask::{Ask, Translated};
use super::choice::{Choice, Reason};
use super::failure::{Failure, Names, Outcome};
use super::fields::Fields;
use super::look::{Sent, parsed};
use super::queue::Ended;
use super::shape::Head;
use super::talk::Part;
use super::{conversation, responses, tools};
use crate::engine::{Piece, Stats};
use serde_json::{Map, Value, json};

/// Kinds of tools, less their date, that Anthropic's servers run and agents offer whether they are to be had or not.
const NOT_OFFERED: &[&str] = &["web_search", "web_fetch", "tool_search_tool"];

const BILLING: &str = "x-anthropic-billing-header:";

/// A request as a chat. Every field is read here or goes on under OpenAI's name.
pub fn chat(mut fields: Fields) -> Outcome<Translated> {
    let mut chat = Map::new();
    let mut pass = |from: &str, to: &str, fields: &mut Fields| {
        if let Some(value) = fields.take(from) {
            chat.insert(to.into(), value);
        }
    };
    for name in ["model", "max_tokens", "stream", "temperature", "top_p", "top_k", "min_p", "seed"] {
        pass(name, name, &mut fields);
    }
    if !chat.contains_key("max_tokens") {
        return Err(Failure::field("max_tokens", "is missing: the most tokens the answer may have"));
    }
    if let Some(stop) = fields.list("stop_sequences")? {
        chat.insert("stop".into(), Value::Array(stop));
    }
    let (left_out, mut names) = conversation_of(&mut fields, &mut chat)?;
    names.push(("stop".into(), "stop_sequences".into()));
    // A model that does not think beforehand thinks as little as is allowed; beginnings are kept for whoever has the same; and a
    // conversation that is too long is refused, so that nothing of it has to be left out.
    fields.ignore(&["metadata", "service_tier", "thinking", "cache_control", "context_management", "betas"]);
    fields.ignore(&["speed", "inference_geo", "fallbacks", "diagnostics"]);
    let mut format = fields.object("output_format")?;
    if let Some(mut output) = fields.object("output_config")? {
        output.ignore(&["effort", "task_budget"]);
        format = output.object("format")?.or(format);
        output.end()?;
    }
    if let Some(format) = format {
        chat.insert("response_format".into(), responses::response_format(format, &mut names)?);
    }
    if fields.take("thread").is_some() {
        return Err(Failure::no_threads());
    }
    fields.refuse(&[("mcp_servers", "there are none"), ("container", "there are none")])?;
    fields.end()?;
    Ok(Translated { fields: Fields::from(chat), names, left_out, renamed: Vec::new() })
}

/// A request that asks for its count of tokens only: what is needed for the prompt.
pub fn counted(mut fields: Fields) -> Outcome<Translated> {
    let mut chat = Map::new();
    if let Some(model) = fields.take("model") {
        chat.insert("model".into(), model);
    }
    let (left_out, names) = conversation_of(&mut fields, &mut chat)?;
    fields.ignore(&[
        "thinking",
        "cache_control",
        "context_management",
        "betas",
        "output_config",
        "output_format",
        "speed",
    ]);
    fields.end()?;
    Ok(Translated { fields: Fields::from(chat), names, left_out, renamed: Vec::new() })
}

/// `system`, `messages`, `tools` and `tool_choice`; the tools that were left out, and what the others are called.
fn conversation_of(fields: &mut Fields, chat: &mut Map<String, Value>) -> Outcome<(Vec<&'static str>, Names)> {
    let mut messages = Vec::new();
    if let Some(mut system) = fields.take("system") {
        // Claude Code begins with a line for Anthropic's accounts, other for each conversation, that would keep beginnings apart.
        for block in system.as_array_mut().into_iter().flatten() {
            let line = block["text"].as_str().filter(|text| text.starts_with(BILLING));
            if let Some(rest) = line.map(|text| text.split_once('\n').map_or("", |(_, rest)| rest).to_string()) {
                block["text"] = rest.into();
            }
        }
        messages.push(json!({ "role": "system", "content": conversation::text(system, "system")? }));
    }
    let Some(list) = fields.list("messages")? else { return Err(Failure::field("messages", "is missing")) };
    if list.is_empty() {
        return Err(Failure::field("messages", "is empty: at least one message is needed"));
    }
    for (at, message) in list.into_iter().enumerate() {
        said(message, &format!("messages[{at}]"), &mut messages)?;
    }
    chat.insert("messages".into(), Value::Array(messages));
    let list = fields.list("tools")?.unwrap_or_default();
    let (mut functions, mut left_out, mut names) = (Vec::new(), Vec::new(), Names::new());
    for (at, tool) in list.into_iter().enumerate() {
        let kind = tool["type"].as_str().unwrap_or_default();
        match NOT_OFFERED.iter().find(|name| kind.starts_with(**name)) {
            Some(kind) if left_out.contains(kind) => {}
            Some(kind) => left_out.push(*kind),
            None => {
                let (here, there) = (format!("tools[{}].function", functions.len()), format!("tools[{at}]"));
                functions.push(function(tool, &there)?);
                names.push((format!("{here}.parameters"), format!("{there}.input_schema")));
                names.push((here, there));
            }
        }
    }
    chat.insert("tools".into(), Value::Array(functions));
    if let Some(mut choice) = fields.object("tool_choice")? {
        let kind = choice.text("type")?;
        let name = choice.text("name")?;
        let chosen = match (kind.as_deref(), name) {
            (Some("auto"), None) => json!("auto"),
            (Some("none"), None) => json!("none"),
            (Some("any"), None) => json!("required"),
            (Some("tool"), Some(name)) => json!({ "type": "function", "function": { "name": name } }),
            _ => {
                return Err(Failure::field(
                    "tool_choice.type",
                    "is none of \"auto\", \"any\", \"none\" and \"tool\" with a name",
                ));
            }
        };
        chat.insert("tool_choice".into(), chosen);
        if choice.flag("disable_parallel_tool_use")?.unwrap_or(false) {
            chat.insert("parallel_tool_calls".into(), json!(false));
        }
        choice.end()?;
    }
    Ok((left_out, names))
}

fn function(tool: Value, place: &str) -> Outcome<Value> {
    let mut fields = Fields::of(tool, place)?;
    if fields.text("type")?.is_some_and(|kind| kind != "custom") {
        return Err(Failure::field(fields.name("type"), "is not \"custom\": there are no other tools"));
    }
    let mut function = Map::new();
    function.insert("name".into(), tools::name(&mut fields)?.into());
    for (from, to) in [("description", "description"), ("input_schema", "parameters"), ("strict", "strict")] {
        if let Some(value) = fields.take(from) {
            function.insert(to.into(), value);
        }
    }
    fields.ignore(&["cache_control", "eager_input_streaming", "input_examples", "defer_loading", "allowed_callers"]);
    if !function.contains_key("parameters") {
        return Err(Failure::field(fields.name("input_schema"), "is missing"));
    }
    fields.end()?;
    Ok(json!({ "type": "function", "function": function }))
}

/// One message as one of OpenAI's, or several: results of functions are messages of their own there.
fn said(message: Value, place: &str, messages: &mut Vec<Value>) -> Outcome<()> {
    let mut fields = Fields::of(message, place)?;
    let role = fields.text("role")?.unwrap_or_default();
    if role != "user" && role != "assistant" && role != "system" {
        return Err(Failure::field(fields.name("role"), "is none of \"user\", \"assistant\" and \"system\""));
    }
    let place = fields.name("content");
    let content = fields.take("content");
    fields.ignore(&["cache_control"]);
    fields.end()?;
    let blocks = match content {
        Some(Value::Array(blocks)) => blocks,
        Some(Value::String(text)) => vec![json!({ "type": "text", "text": text })],
        _ => return Err(Failure::field(place, "is neither a string nor a list of blocks")),
    };
    // An answer without words or calls comes back like this.
    let nothing = blocks.is_empty();
    let (mut text, mut calls) = (Vec::new(), Vec::new());
    for (at, block) in blocks.into_iter().enumerate() {
        let place = format!("{place}[{at}]");
        let kind = block["type"].as_str().unwrap_or_default().to_string();
        match kind.as_str() {
            "tool_use" if role == "assistant" => calls.push(used(block, &place)?),
            "tool_result" if role == "user" => messages.push(result(block, &place)?),
            // What another model thought is no part of the text.
            "thinking" | "redacted_thinking" if role == "assistant" => {}
            _ => text.push(conversation::text_part(block, &place)?),
        }
    }
    if nothing || !text.is_empty() || !calls.is_empty() {
        let mut message = json!({ "role": role, "content": text.concat() });
        if !calls.is_empty() {
            message["tool_calls"] = Value::Array(calls);
        }
        messages.push(message);
    }
    Ok(())
}

fn used(block: Value, place: &str) -> Outcome<Value> {
    let mut fields = Fields::of(block, place)?;
    let (id, name) = (fields.text("id")?, fields.needed("name")?);
    let input = fields.take("input").unwrap_or_else(|| json!({}));
    fields.ignore(&["type", "cache_control", "caller"]);
    fields.end()?;
    Ok(json!({ "id": id, "function": { "name": name, "arguments": input.to_string() } }))
}

fn result(block: Value, place: &str) -> Outcome<Value> {
    let mut fields = Fields::of(block, place)?;
    let id = fields.needed("tool_use_id")?;
    let place = fields.name("content");
    let mut content =
        fields.take("content").map_or(Ok(String::new()), |content| conversation::text(content, &place))?;
    // Templates have no other place for it.
    if fields.flag("is_error")?.unwrap_or(false) {
        content.insert_str(0, "Error: ");
    }
    fields.ignore(&["type", "cache_control"]);
    fields.end()?;
    Ok(json!({ "role": "tool", "tool_call_id": id, "content": content }))
}

/// The messages and functions of a chat, for counting.
pub fn prompt(mut fields: Fields, served: &super::Served) -> Outcome<usize> {
    super::ask::model(&mut fields, served)?;
    let tools = tools::read(&mut fields)?;
    let messages = conversation::messages(&mut fields)?;
    fields.end()?;
    Ok(conversation::rendered(served, &messages, &tools.shown)?.len())
}

/// A response as it is made.
pub struct Shape {
    id: String,
    model: String,
    choice: Choice,
    /// Tokens of the prompt.
    prompt: usize,
    stops: Vec<String>,
    /// The block that is open in the stream: its number, and whether it is text.
    open: Option<bool>,
    blocks: usize,
}

impl Shape {
    pub fn new(head: Head, ask: &Ask) -> Shape {
        Shape {
            id: format!("msg_{}", super::unique()),
            model: head.model,
            choice: Choice::new(ask.calls),
            prompt: ask.batch.prompts.iter().map(|prompt| prompt.len()).sum(),
            stops: ask.batch.limits.stop.clone(),
            open: None,
            blocks: 0,
        }
    }

    pub fn opening(&mut self) -> Vec<Sent> {
        let usage = json!({ "input_tokens": self.prompt, "output_tokens": 0 });
        let message = self.message(Vec::new(), Value::Null, Value::Null, usage);
        vec![event("message_start", json!({ "message": message }))]
    }

    fn message(&self, content: Vec<Value>, reason: Value, stop: Value, usage: Value) -> Value {
        json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": content,
            "stop_reason": reason, "stop_sequence": stop, "usage": usage,
        })
    }

    pub fn piece(&mut self, piece: &Piece) -> Vec<Sent> {
        let parts = self.choice.take(&piece.text);
        self.sent(parts)
    }

    fn sent(&mut self, parts: Vec<Part>) -> Vec<Sent> {
        let begun = parts.iter().filter(|part| matches!(part, Part::Call(_))).count();
        let mut next = self.choice.calls.len() - begun;
        let mut out = Vec::new();
        for part in parts {
            match part {
                Part::Text(text) => {
                    if self.open != Some(true) {
                        self.begin(&mut out, json!({ "type": "text", "text": "" }), true);
                    }
                    self.delta(&mut out, json!({ "type": "text_delta", "text": text }));
                }
                Part::Call(name) => {
                    let block =
                        json!({ "type": "tool_use", "id": self.choice.calls[next].id, "name": name, "input": {} });
                    next += 1;
                    self.begin(&mut out, block, false);
                }
                Part::Arguments(more) => {
                    self.delta(&mut out, json!({ "type": "input_json_delta", "partial_json": more }))
                }
                Part::Called => self.end_block(&mut out),
            }
        }
        out
    }

    fn begin(&mut self, out: &mut Vec<Sent>, block: Value, text: bool) {
        self.end_block(out);
        out.push(event("content_block_start", json!({ "index": self.blocks, "content_block": block })));
        self.open = Some(text);
    }

    fn delta(&self, out: &mut Vec<Sent>, delta: Value) {
        out.push(event("content_block_delta", json!({ "index": self.blocks, "delta": delta })));
    }

    fn end_block(&mut self, out: &mut Vec<Sent>) {
        if self.open.take().is_some() {
            out.push(event("content_block_stop", json!({ "index": self.blocks })));
            self.blocks += 1;
        }
    }

    pub fn ended(&mut self, ended: Ended) -> Vec<Sent> {
        let parts = self.choice.end(ended);
        let mut out = self.sent(parts);
        self.end_block(&mut out);
        let (reason, stop) = self.reason();
        let delta = json!({ "stop_reason": reason, "stop_sequence": stop });
        out.push(event("message_delta", json!({ "delta": delta, "usage": self.usage() })));
        out.push(event("message_stop", json!({})));
        out
    }

    pub fn keep(&mut self, piece: &Piece) {
        self.choice.take(&piece.text);
    }

    pub fn keep_end(&mut self, ended: Ended) {
        self.choice.end(ended);
    }

    pub fn whole(&mut self) -> Value {
        let mut content = Vec::new();
        if !self.choice.text.is_empty() {
            content.push(json!({ "type": "text", "text": self.choice.text }));
        }
        content.extend(self.choice.calls.iter().map(
            |call| json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": parsed(&call.arguments) }),
        ));
        let (reason, stop) = self.reason();
        self.message(content, reason, stop, self.usage())
    }

    fn reason(&self) -> (Value, Value) {
        match self.choice.reason() {
            Reason::End => (json!("end_turn"), Value::Null),
            Reason::Stop(at) => (json!("stop_sequence"), json!(self.stops.get(at))),
            Reason::Calls => (json!("tool_use"), Value::Null),
            Reason::Length => (json!("max_tokens"), Value::Null),
        }
    }

    fn usage(&self) -> Value {
        let Stats { prompt_tokens, reused_tokens, decode_tokens, .. } = self.choice.stats();
        json!({
            "input_tokens": prompt_tokens,
            "cache_read_input_tokens": reused_tokens,
            "cache_creation_input_tokens": 0,
            "output_tokens": decode_tokens,
        })
    }
}

/// Events name their type twice: in the event's name and in its data.
fn event(name: &'static str, data: Value) -> Sent {
    let mut all = json!({ "type": name });
    if let (Some(all), Value::Object(data)) = (all.as_object_mut(), data) {
        all.extend(data);
    }
    Sent { name: Some(name), data: all }
}
