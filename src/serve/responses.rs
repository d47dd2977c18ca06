//! OpenAI's responses API: its requests become chats, its responses are made of the same events. Nothing is stored, so a
//! conversation is sent whole each time.

use super::ask::{Ask, EFFORTS, Translated, VERBOSITIES};
use super::choice::{Call, Choice, Reason};
use super::failure::{Failure, Names, Outcome};
use super::fields::Fields;
use super::look::Sent;
use super::offers::{Offers, Renamed};
use super::queue::Ended;
use super::shape::Head;
use super::talk::Part;
use super::{conversation, offers, shape};
use crate::engine::sampler::Sampling;
use crate::engine::{Engine, Piece, Stats};
use serde_json::{Map, Value, json};

const NOT_STORED: &str = "responses are not stored: send the conversation in `input`";

/// Features of the API that are not there.
const MISSING: &[(&str, &str)] = &[
    ("previous_response_id", NOT_STORED),
    ("conversation", NOT_STORED),
    ("prompt", "there are no stored prompts"),
    ("background", "there is no work in the background"),
    ("max_tool_calls", "tools are called by whoever asks"),
];

/// A request as a chat. Every field is read here or goes on under the name it has there.
pub fn chat(mut fields: Fields) -> Outcome<Translated> {
    let mut chat = Map::new();
    let here = [("max_tokens", "max_output_tokens"), ("tool_choice.function", "tool_choice")];
    let mut names: Names = here.map(|(here, there)| (here.into(), there.into())).into();
    for (from, to) in [
        ("model", "model"),
        ("max_output_tokens", "max_tokens"),
        ("stream", "stream"),
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("top_k", "top_k"),
        ("min_p", "min_p"),
        ("seed", "seed"),
        ("parallel_tool_calls", "parallel_tool_calls"),
    ] {
        if let Some(value) = fields.take(from) {
            chat.insert(to.into(), value);
        }
    }
    fields.refuse(MISSING)?;
    fields.ignore(&["store", "metadata", "user", "service_tier", "safety_identifier", "prompt_cache_key"]);
    fields.ignore(&["stream_options", "prompt_cache_retention", "client_metadata"]);
    let top = fields.take("top_logprobs");
    let mut logprobs = top.as_ref().is_some_and(|top| top.as_f64() != Some(0.0));
    for what in fields.list("include")?.unwrap_or_default() {
        match what.as_str() {
            Some("message.output_text.logprobs") => logprobs = true,
            // What nobody thought or searched for is in every answer already.
            Some("reasoning.encrypted_content" | "web_search_call.action.sources") => {}
            _ => {
                let known = "\"message.output_text.logprobs\" and \"reasoning.encrypted_content\"";
                return Err(Failure::field("include", format!("asks for more than {known}")));
            }
        }
    }
    if logprobs {
        chat.insert("logprobs".into(), json!(true));
        chat.extend(top.map(|top| ("top_logprobs".into(), top)));
    }
    // Either way a conversation that is too long is a 400: nothing is left out in silence.
    if fields.text("truncation")?.is_some_and(|how| how != "disabled" && how != "auto") {
        return Err(Failure::field("truncation", "is neither \"disabled\" nor \"auto\""));
    }
    if let Some(mut reasoning) = fields.object("reasoning")? {
        reasoning.wish("effort", EFFORTS)?;
        reasoning.ignore(&["summary", "generate_summary", "context"]);
        reasoning.end()?;
    }
    if let Some(mut text) = fields.object("text")? {
        text.wish("verbosity", VERBOSITIES)?;
        if let Some(format) = text.object("format")? {
            chat.insert("response_format".into(), response_format(format, &mut names)?);
        }
        text.end()?;
    }
    chat.insert("messages".into(), Value::Array(messages(&mut fields)?));
    let Offers { functions, names: offered, renamed, left_out } =
        offers::read(fields.list("tools")?.unwrap_or_default())?;
    chat.insert("tools".into(), Value::Array(functions));
    names.extend(offered);
    if let Some(choice) = fields.take("tool_choice") {
        chat.insert("tool_choice".into(), offers::choice(choice, &renamed));
    }
    fields.end()?;
    Ok(Translated { fields: Fields::from(chat), names, left_out, renamed })
}

/// The form of an answer, as chats ask for it; `names` learns what it is called where it was.
pub fn response_format(mut format: Fields, names: &mut Names) -> Outcome<Value> {
    names.push(("response_format.json_schema".into(), format.own_name().into()));
    names.push(("response_format".into(), format.own_name().into()));
    let kind = format.text("type")?;
    let form = match kind.as_deref() {
        Some("json_schema") => {
            let schema = format.take("schema");
            format.ignore(&["name", "description", "strict"]);
            match schema {
                Some(schema) => json!({ "type": kind, "json_schema": { "schema": schema } }),
                None => return Err(Failure::field(format.name("schema"), "is missing")),
            }
        }
        _ => json!({ "type": kind }),
    };
    format.end().map(|()| form)
}

/// `instructions` and `input`.
fn messages(fields: &mut Fields) -> Outcome<Vec<Value>> {
    let mut messages = Vec::new();
    if let Some(instructions) = fields.text("instructions")? {
        messages.push(json!({ "role": "system", "content": instructions }));
    }
    let items = match fields.take("input") {
        Some(Value::String(text)) => vec![json!({ "role": "user", "content": text })],
        Some(Value::Array(items)) if !items.is_empty() => items,
        Some(Value::Array(_)) => return Err(Failure::field("input", "is empty: at least one item is needed")),
        Some(_) => return Err(Failure::field("input", "is neither a string nor a list of items")),
        None => return Err(Failure::field("input", "is missing")),
    };
    for (at, item) in items.into_iter().enumerate() {
        item_of(item, &format!("input[{at}]"), &mut messages)?;
    }
    match messages.is_empty() {
        true => Err(Failure::field("input", "holds nothing to answer: at least one message is needed")),
        false => Ok(messages),
    }
}

fn item_of(item: Value, place: &str, messages: &mut Vec<Value>) -> Outcome<()> {
    let mut fields = Fields::of(item, place)?;
    let kind = fields.text("type")?.unwrap_or("message".into());
    fields.ignore(&["id", "status"]);
    match kind.as_str() {
        "message" => {
            let role = conversation::role(&mut fields)?;
            if role == "tool" {
                return Err(Failure::field(
                    fields.name("role"),
                    "is \"tool\": results are items of type function_call_output",
                ));
            }
            let place = fields.name("content");
            let Some(content) = fields.take("content") else { return Err(Failure::field(place, "is missing")) };
            messages.push(json!({ "role": role, "content": conversation::text(content, &place)? }));
        }
        "function_call" | "custom_tool_call" => {
            let (id, name, namespace) = (fields.text("call_id")?, fields.needed("name")?, fields.text("namespace")?);
            let name = offers::shown(namespace.as_deref(), &name);
            let arguments = match kind.as_str() {
                "function_call" => fields.text("arguments")?,
                _ => fields.text("input")?.map(|input| offers::arguments(&input)),
            };
            conversation::arguments(arguments.as_deref(), fields.name("arguments"))?;
            let call = json!({ "id": id, "function": { "name": name, "arguments": arguments } });
            // Calls made together are one message of the assistant.
            match messages.last_mut().filter(|last| last["tool_calls"].is_array()) {
                Some(last) => last["tool_calls"].as_array_mut().expect("looked at above").push(call),
                None => messages.push(json!({ "role": "assistant", "tool_calls": [call] })),
            }
        }
        "function_call_output" | "custom_tool_call_output" => {
            let id = fields.needed("call_id")?;
            let place = fields.name("output");
            let Some(output) = fields.take("output") else { return Err(Failure::field(place, "is missing")) };
            let content = conversation::text(output, &place)?;
            messages.push(json!({ "role": "tool", "tool_call_id": id, "content": content }));
        }
        // What a model thought is no part of the text.
        "reasoning" => fields.ignore(&["summary", "content", "encrypted_content"]),
        "item_reference" => {
            let problem =
                "is \"item_reference\", but nothing is stored: send the items themselves (AI SDK: store: false)";
            return Err(Failure::field(fields.name("type"), problem));
        }
        _ => {
            let problem =
                "is none of \"message\", \"reasoning\", \"function_call\", \"custom_tool_call\" and their outputs";
            return Err(Failure::field(fields.name("type"), problem));
        }
    }
    fields.end()
}

/// What a response repeats of its request.
pub fn echo(fields: &Fields) -> Value {
    let said = |name: &str, usual: Value| fields.peek(name).cloned().unwrap_or(usual);
    json!({
        "instructions": said("instructions", Value::Null),
        "metadata": said("metadata", json!({})),
        "tools": said("tools", json!([])),
        "tool_choice": said("tool_choice", json!("auto")),
        "parallel_tool_calls": said("parallel_tool_calls", json!(true)),
        "max_output_tokens": said("max_output_tokens", Value::Null),
        "text": said("text", json!({ "format": { "type": "text" } })),
        "truncation": said("truncation", json!("disabled")),
        "reasoning": said("reasoning", json!({ "effort": null, "summary": null })),
        "temperature": said("temperature", Value::Null),
        "top_p": said("top_p", Value::Null),
        "previous_response_id": null,
    })
}

/// A response as it is made: a message where there is text, then a call for each function.
pub struct Shape {
    engine: Engine,
    id: String,
    head: Head,
    choice: Choice,
    /// What the model thought of tokens whose text is still to come.
    logprobs: Vec<Value>,
    /// The number of the next event.
    sequence: usize,
    /// Items that are whole.
    items: Vec<Value>,
    open: Option<Open>,
    /// What it repeats of the request.
    echo: Value,
    /// Tools the model knows by another name.
    renamed: Vec<Renamed>,
}

/// The item that is being written, and what of it is in the stream.
struct Open {
    id: String,
    /// `None`: a message.
    call: Option<usize>,
    /// Of a tool that takes free text: `text` is JSON that holds it.
    custom: bool,
    text: String,
    logprobs: Vec<Value>,
}

impl Shape {
    pub fn new(engine: Engine, head: Head, ask: &Ask) -> Shape {
        let id = format!("resp_{}", super::unique());
        let mut echo = ask.echo.clone();
        // What was not said is as the server was started.
        let Sampling { temperature, top_p, .. } = ask.batch.sampling;
        for (name, used) in [("temperature", temperature), ("top_p", top_p)] {
            if echo[name].is_null() {
                echo[name] = json!(used.to_string().parse::<f64>().ok()); // as it was written, not as it is kept
            }
        }
        let (choice, renamed) = (Choice::new(ask.calls), ask.renamed.clone());
        Shape { engine, id, head, choice, logprobs: vec![], sequence: 0, items: vec![], open: None, echo, renamed }
    }

    fn event(&mut self, name: &'static str, data: Value) -> Sent {
        let mut all = json!({ "type": name, "sequence_number": self.sequence });
        self.sequence += 1;
        if let (Some(all), Value::Object(data)) = (all.as_object_mut(), data) {
            all.extend(data);
        }
        Sent { name: Some(name), data: all }
    }

    pub fn opening(&mut self) -> Vec<Sent> {
        let response = self.response("in_progress");
        let created = self.event("response.created", json!({ "response": response }));
        vec![created, self.event("response.in_progress", json!({ "response": response }))]
    }

    pub fn piece(&mut self, piece: &Piece) -> Vec<Sent> {
        let parts = self.choice.take(&piece.text);
        let said = piece.tokens.iter().filter(|token| token.logprobs.is_some());
        self.logprobs.extend(said.map(|token| shape::logprob(&self.engine, token)));
        let mut out = Vec::new();
        self.sent(parts, &mut out);
        out
    }

    fn sent(&mut self, parts: Vec<Part>, out: &mut Vec<Sent>) {
        let begun = parts.iter().filter(|part| matches!(part, Part::Call(_))).count();
        let mut next = self.choice.calls.len() - begun;
        for part in parts {
            match part {
                Part::Text(text) => {
                    if self.open.as_ref().is_none_or(|open| open.call.is_some()) {
                        self.begin(None, out);
                    }
                    self.delta("response.output_text.delta", &text, out);
                }
                Part::Call(_) => {
                    self.begin(Some(next), out);
                    next += 1;
                }
                Part::Arguments(more) => match self.open.as_mut().filter(|open| open.custom) {
                    Some(open) => open.text.push_str(&more), // told when it is whole: it is JSON, and the text is not
                    None => self.delta("response.function_call_arguments.delta", &more, out),
                },
                Part::Called => self.finish_item(out),
            }
        }
    }

    fn begin(&mut self, call: Option<usize>, out: &mut Vec<Sent>) {
        if call.is_some() {
            self.logprobs.clear(); // what was thought of a call's beginning is no part of the text before it
        }
        self.finish_item(out);
        let custom = call.is_some_and(|at| self.behind(at).is_some_and(|tool| tool.custom));
        let kind = if custom { "ctc" } else { call.map_or("msg", |_| "fc") };
        let id = format!("{kind}_{}", super::unique());
        let open = Open { id: id.clone(), call, custom, text: String::new(), logprobs: Vec::new() };
        let item = self.item(&open, "in_progress");
        self.open = Some(open);
        let index = self.items.len();
        out.push(self.event("response.output_item.added", json!({ "output_index": index, "item": item })));
        if call.is_none() {
            let part = json!({ "item_id": id, "output_index": index, "content_index": 0, "part": text_part("", &[]) });
            out.push(self.event("response.content_part.added", part));
        }
    }

    /// The tool behind a call, where the model knows it by another name.
    fn behind(&self, call: usize) -> Option<&Renamed> {
        offers::behind(&self.renamed, &self.choice.calls[call].name)
    }

    fn delta(&mut self, name: &'static str, more: &str, out: &mut Vec<Sent>) {
        let Some(open) = &mut self.open else { return };
        open.text.push_str(more);
        let said = std::mem::take(&mut self.logprobs); // of calls nobody is told
        let mut data = json!({ "item_id": open.id, "output_index": self.items.len(), "delta": more });
        if open.call.is_none() {
            data["content_index"] = json!(0);
            data["logprobs"] = json!(said);
            open.logprobs.extend(said);
        }
        out.push(self.event(name, data));
    }

    fn finish_item(&mut self, out: &mut Vec<Sent>) {
        let Some(mut open) = self.open.take() else { return };
        open.logprobs.append(&mut self.logprobs); // of tokens without text
        let index = self.items.len();
        let place = json!({ "item_id": open.id, "output_index": index });
        let with = |more: Value| {
            let mut data = place.clone();
            if let (Some(data), Value::Object(more)) = (data.as_object_mut(), more) {
                data.extend(more);
            }
            data
        };
        match open.call {
            None => {
                let text = json!({ "content_index": 0, "text": open.text, "logprobs": open.logprobs });
                out.push(self.event("response.output_text.done", with(text)));
                let part = json!({ "content_index": 0, "part": text_part(&open.text, &open.logprobs) });
                out.push(self.event("response.content_part.done", with(part)));
            }
            Some(_) if open.custom => {
                let input = offers::input(&open.text);
                let delta = with(json!({ "delta": input }));
                out.push(self.event("response.custom_tool_call_input.delta", delta));
                out.push(self.event("response.custom_tool_call_input.done", with(json!({ "input": input }))));
            }
            Some(at) => {
                let name = self.behind(at).map_or(&self.choice.calls[at].name, |tool| &tool.name);
                let call = json!({ "name": name, "arguments": open.text });
                out.push(self.event("response.function_call_arguments.done", with(call)));
            }
        }
        // What was cut off is said to be.
        let cut = self.choice.ended.is_some() && self.choice.reason() == Reason::Length;
        let item = self.item(&open, if cut { "incomplete" } else { "completed" });
        out.push(self.event("response.output_item.done", json!({ "output_index": index, "item": item })));
        self.items.push(item);
    }

    fn item(&self, open: &Open, status: &str) -> Value {
        match open.call.map(|at| (&self.choice.calls[at], self.behind(at))) {
            Some((Call { id, name, .. }, behind)) => {
                let name = behind.map_or(name, |tool| &tool.name);
                let mut item = json!({ "id": open.id, "status": status, "call_id": id, "name": name });
                if let Some(namespace) = behind.and_then(|tool| tool.namespace.as_ref()) {
                    item["namespace"] = json!(namespace);
                }
                match open.custom {
                    true => {
                        (item["type"], item["input"]) = (json!("custom_tool_call"), json!(offers::input(&open.text)))
                    }
                    false => (item["type"], item["arguments"]) = (json!("function_call"), json!(open.text)),
                }
                item
            }
            None => {
                let content =
                    if status == "in_progress" { json!([]) } else { json!([text_part(&open.text, &open.logprobs)]) };
                json!({ "id": open.id, "type": "message", "status": status, "role": "assistant", "content": content })
            }
        }
    }

    pub fn ended(&mut self, ended: Ended) -> Vec<Sent> {
        let parts = self.choice.end(ended);
        let mut out = Vec::new();
        self.sent(parts, &mut out);
        if self.items.is_empty() && self.open.is_none() {
            self.begin(None, &mut out); // an answer of no words is a message too
        }
        self.finish_item(&mut out);
        let (name, status) = match self.choice.reason() {
            Reason::Length => ("response.incomplete", "incomplete"),
            _ => ("response.completed", "completed"),
        };
        let response = self.response(status);
        out.push(self.event(name, json!({ "response": response })));
        out
    }

    pub fn failed(&mut self, failure: &Failure) -> Sent {
        let error = failure.body()["error"].take();
        self.event("error", json!({ "code": error["code"], "message": error["message"], "param": error["param"] }))
    }

    /// What a stream would say goes nowhere; what comes of it is the same.
    pub fn keep(&mut self, piece: &Piece) {
        self.piece(piece);
    }

    pub fn keep_end(&mut self, ended: Ended) {
        self.ended(ended);
    }

    pub fn whole(&mut self) -> Value {
        let status = if self.choice.reason() == Reason::Length { "incomplete" } else { "completed" };
        self.response(status)
    }

    fn response(&self, status: &str) -> Value {
        let Stats { prompt_tokens, reused_tokens, decode_tokens, .. } = self.choice.stats();
        let input = prompt_tokens + reused_tokens;
        let usage = json!({
            "input_tokens": input, "input_tokens_details": { "cached_tokens": reused_tokens },
            "output_tokens": decode_tokens, "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": input + decode_tokens,
        });
        let mut response = json!({
            "id": self.id, "object": "response", "created_at": self.head.created, "model": self.head.model,
            "status": status, "error": null, "output": self.items, "store": false,
            "incomplete_details": if status == "incomplete" { json!({ "reason": "max_output_tokens" }) } else { Value::Null },
            "usage": if self.choice.ended.is_some() { usage } else { Value::Null },
        });
        if let (Some(response), Value::Object(echo)) = (response.as_object_mut(), &self.echo) {
            response.extend(echo.clone());
        }
        response
    }
}

fn text_part(text: &str, logprobs: &[Value]) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": logprobs })
}
