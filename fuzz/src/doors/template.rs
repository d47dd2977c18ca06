//! Chat templates out of somebody's model file: parsed, and rendered with conversations.

use crate::watch::measured;
use serde_json::json;
use std::sync::LazyLock;
use thermocline::Error;
use thermocline::engine::text::{Message, Template, TemplateOverride};

/// What a template and its text may take.
const MOST: usize = 1 << 30;

static CONVERSATIONS: LazyLock<Vec<Vec<Message>>> = LazyLock::new(|| {
    let call =
        json!({ "id": "1", "type": "function", "function": { "name": "f", "arguments": { "a": [1, 2.5, null] } } });
    vec![
        vec![Message::user("Hi")],
        vec![
            Message::system("Be <kind>."),
            Message::user("Who?\n{{ you }}"),
            Message { calls: vec![call], ..Message::assistant("") },
            Message::new("tool", "{\"x\": \"\u{1f600}\"}"),
        ],
    ]
});

pub fn template(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    let ((), took) = measured(|| render(source));
    assert!(took.at_once <= MOST, "{} bytes for a template of {}", took.at_once, bytes.len());
}

fn render(source: &str) {
    let own = Some((source.to_string(), "model.gguf".to_string()));
    let tokens = vec![("bos_token".to_string(), "<s>".to_string()), ("eos_token".to_string(), "</s>".to_string())];
    let template = match Template::new(own, &TemplateOverride::Checkpoint, tokens) {
        Ok(template) => template,
        Err(e) => return assert!(matches!(e, Error::Model(_)), "{e:?}"),
    };
    let tools = [json!({ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } })];
    for (conversation, tools) in CONVERSATIONS.iter().zip([&[][..], &tools]) {
        if let Err(e) = template.render(conversation, tools, true) {
            assert!(matches!(e, Error::Model(_) | Error::Usage(_)), "{e:?}");
        }
    }
}
