//! The messages of a chat, as OpenAI writes them, and what the model reads of them.

use super::Served;
use super::ask::WORDS_ONLY;
use super::failure::{Failure, Outcome};
use super::fields::Fields;
use super::offers;
use crate::engine::text::Message;
use serde_json::{Value, json};

/// Messages in a conversation; each costs a turn of the template.
const MOST_MESSAGES: usize = 4096;

pub fn messages(fields: &mut Fields) -> Outcome<Vec<Message>> {
    let Some(list) = fields.list("messages")? else {
        return Err(Failure::field("messages", "is missing: a list of {\"role\", \"content\"}"));
    };
    if list.is_empty() {
        return Err(Failure::field("messages", "is empty: at least one message is needed"));
    }
    if list.len() > MOST_MESSAGES {
        return Err(Failure::field(
            "messages",
            format!("has {} messages; at most {MOST_MESSAGES} are read", list.len()),
        ));
    }
    list.into_iter().enumerate().map(|(i, value)| message(value, &format!("messages[{i}]"))).collect()
}

/// The conversation as the model reads it.
pub fn rendered(served: &Served, messages: &[Message], tools: &[Value]) -> Outcome<Vec<u32>> {
    Ok(served.engine.text().encode(&written(served, messages, tools)?, true)?)
}

/// The conversation as text. An assistant's words at its end are the beginning of the answer.
pub fn written(served: &Served, messages: &[Message], tools: &[Value]) -> Outcome<String> {
    let text = served.engine.text();
    Ok(match messages.split_last() {
        Some((last, before)) if goes_on(messages) => text.render_with_tools(before, tools, true)? + &last.content,
        _ => text.render_with_tools(messages, tools, true)?,
    })
}

/// Whether the answer goes on with what the assistant has said last, as in Anthropic's API and llama.cpp's.
pub fn goes_on(messages: &[Message]) -> bool {
    matches!(messages, [_, .., last] if last.role == "assistant" && last.calls.is_empty())
}

fn message(value: Value, place: &str) -> Outcome<Message> {
    let mut fields = Fields::of(value, place)?;
    let role = role(&mut fields)?;
    let calls = match role {
        "assistant" => calls(&mut fields)?,
        _ => Vec::new(),
    };
    if role == "tool" {
        fields.needed("tool_call_id")?;
    }
    let newer = "is called tool_calls now";
    fields.refuse(&[("function_call", newer), ("audio", WORDS_ONLY), ("images", WORDS_ONLY)])?;
    // A name is shown to no model of this family; what another model thought is no part of the text, and how it refused is where
    // it said nothing else.
    let refusal = match fields.take("refusal") {
        Some(Value::String(refusal)) if role == "assistant" => Some(refusal),
        _ => None,
    };
    fields.ignore(&["name", "reasoning_content", "annotations", "cache_control", "provider_specific_fields"]);
    let place = fields.name("content");
    let content = match fields.take("content") {
        Some(content) => text(content, &place)?,
        None if refusal.is_some() || !calls.is_empty() => refusal.unwrap_or_default(),
        None => return Err(Failure::field(place, "is missing")),
    };
    fields.end()?;
    Ok(Message { calls, ..Message::new(role, content) })
}

/// Whose message it is.
pub fn role(fields: &mut Fields) -> Outcome<&'static str> {
    Ok(match fields.text("role")?.as_deref() {
        // What newer clients call it.
        Some("developer") => "system",
        Some("system") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        Some("tool") => "tool",
        Some(_) => {
            let problem = "is none of \"system\", \"developer\", \"user\", \"assistant\" and \"tool\"";
            return Err(Failure::field(fields.name("role"), problem));
        }
        None => return Err(Failure::field(fields.name("role"), "is missing")),
    })
}

/// A string, or a list of parts that are text.
pub fn text(content: Value, place: &str) -> Outcome<String> {
    match content {
        Value::String(text) => Ok(text),
        Value::Array(parts) => {
            let part = |(i, part)| text_part(part, &format!("{place}[{i}]"));
            parts.into_iter().enumerate().map(part).collect()
        }
        _ => Err(Failure::field(place, "is neither a string nor a list of parts")),
    }
}

/// One part of a content.
pub fn text_part(value: Value, place: &str) -> Outcome<String> {
    let mut fields = Fields::of(value, place)?;
    match fields.text("type")?.as_deref() {
        // The last two are what the responses API calls them.
        Some("text" | "input_text" | "output_text") => {}
        Some("refusal") => {
            let refusal = fields.text("refusal")?.unwrap_or_default();
            return fields.end().map(|()| refusal);
        }
        Some(_) => return Err(Failure::field(fields.name("type"), format!("is not \"text\": {WORDS_ONLY}"))),
        None => return Err(Failure::field(fields.name("type"), "is missing")),
    }
    let text = fields.needed("text")?;
    fields.ignore(&["cache_control", "annotations", "logprobs", "citations"]);
    fields.end().map(|()| text)
}

/// `tool_calls` of a message, their arguments parsed: templates write them out themselves.
fn calls(fields: &mut Fields) -> Outcome<Vec<Value>> {
    let place = fields.name("tool_calls");
    let list = fields.list("tool_calls")?.unwrap_or_default();
    list.into_iter().enumerate().map(|(i, call)| one_call(call, &format!("{place}[{i}]"))).collect()
}

fn one_call(value: Value, place: &str) -> Outcome<Value> {
    let mut fields = Fields::of(value, place)?;
    let id = fields.text("id")?;
    let kind = fields.text("type")?.unwrap_or("function".into());
    if kind != "function" && kind != "custom" {
        let problem = "is neither \"function\" nor \"custom\": there are no other tools";
        return Err(Failure::field(fields.name("type"), problem));
    }
    fields.ignore(&["index"]);
    let Some(mut called) = fields.object(&kind)? else {
        return Err(Failure::field(fields.name(&kind), "is missing"));
    };
    let name = called.needed("name")?;
    let text = match kind.as_str() {
        "custom" => called.text("input")?.map(|input| offers::arguments(&input)),
        _ => called.text("arguments")?,
    };
    let arguments = arguments(text.as_deref(), called.name("arguments"))?;
    called.end()?;
    fields.end()?;
    Ok(json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } }))
}

/// What a function was called with.
pub fn arguments(text: Option<&str>, place: String) -> Outcome<Value> {
    let text = text.filter(|text| !text.trim().is_empty()).unwrap_or("{}");
    serde_json::from_str(text).map_err(|_| Failure::field(place, "is no JSON, as it should be in a string"))
}
