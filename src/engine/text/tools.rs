//! Functions a model may call, for templates that know nothing of them.
//!
//! A template that does writes them in the format its model was trained on, and is left to it. For any other the same
//! format (calls between `<tool_call>` and `</tool_call>`, results between `<tool_response>` and `</tool_response>`) is
//! written into messages of the three roles every template has.

use super::Message;
use serde_json::{Value, json};

/// What calls begin and end with.
pub const CALL: (&str, &str) = ("<tool_call>", "</tool_call>");
const RESPONSE: (&str, &str) = ("<tool_response>", "</tool_response>");

/// Whether a template writes tools itself.
pub fn knows(template: &str) -> bool {
    template.contains("tools") && template.contains(CALL.0)
}

/// The conversation without tools, calls and results of its own: all of them are text.
pub fn fold(messages: &[Message], tools: &[Value]) -> Vec<Message> {
    let mut out: Vec<Message> = Vec::with_capacity(messages.len() + 1);
    let mut rest = messages.iter().peekable();
    if !tools.is_empty() {
        let system = rest.next_if(|message| message.role == "system").map(|message| message.content.as_str());
        out.push(Message::system([system.unwrap_or_default(), &offer(tools)].join(if system.is_some() {
            "\n\n"
        } else {
            ""
        })));
    }
    let mut after_tool = false;
    for message in rest {
        let is_tool = message.role == "tool";
        match out.last_mut().filter(|_| is_tool && after_tool) {
            Some(before) => before.content.extend(["\n", &result(message)]),
            None if is_tool => out.push(Message::user(result(message))),
            None => out.push(Message::new(message.role.clone(), with_calls(message))),
        }
        after_tool = is_tool;
    }
    out
}

/// What there is to call, and how.
fn offer(tools: &[Value]) -> String {
    let list: Vec<String> = tools.iter().map(Value::to_string).collect();
    let (open, close) = CALL;
    format!(
        "Functions you may call:\n<tools>\n{}\n</tools>\nTo call one, write:\n{open}\n{{\"name\": NAME, \"arguments\": OBJECT}}\n{close}",
        list.join("\n")
    )
}

fn result(message: &Message) -> String {
    format!("{}\n{}\n{}", RESPONSE.0, message.content, RESPONSE.1)
}

fn with_calls(message: &Message) -> String {
    let calls = message.calls.iter().map(|call| {
        let function = &call["function"];
        let call = json!({ "name": function["name"], "arguments": function["arguments"] });
        format!("{}\n{call}\n{}", CALL.0, CALL.1)
    });
    let text = Some(message.content.clone()).filter(|text| !text.is_empty());
    text.into_iter().chain(calls).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_results_become_text() {
        let call = json!({ "type": "function", "id": "1", "function": { "name": "f", "arguments": { "a": 1 } } });
        let messages = [
            Message::system("Be kind."),
            Message::user("Hi"),
            Message { calls: vec![call.clone(), call], ..Message::assistant("") },
            Message::new("tool", "one"),
            Message::new("tool", "two"),
        ];
        let folded = fold(&messages, &[json!({ "type": "function" })]);
        let roles: Vec<&str> = folded.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user"]);
        assert!(
            folded[0].content.starts_with("Be kind.\n\nFunctions you may call:\n<tools>\n{\"type\":\"function\"}\n")
        );
        let one = "<tool_call>\n{\"name\":\"f\",\"arguments\":{\"a\":1}}\n</tool_call>";
        assert_eq!(folded[2].content, format!("{one}\n{one}"));
        assert_eq!(folded[3].content, "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>");
        assert_eq!(fold(&messages[..2], &[]), &messages[..2]);
    }
}
