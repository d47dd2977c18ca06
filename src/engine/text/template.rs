//! From a conversation to the text a model was trained to continue: the checkpoint's own Jinja template,
//! with the few functions and filters that `transformers` gives its templates.

use super::guards::{self, Page};
use super::{clock, tools};
use crate::error::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// What is used when a checkpoint has no template of its own, and for `chatml` by name. No system prompt
/// is invented: it is a message like any other.
pub const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] \
                          + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Instructions one rendering may take; a template loops over messages, so this is far beyond any chat.
const MOST_STEPS: u64 = 5_000_000;

/// One turn of a conversation. Roles are `system`, `user`, `assistant` and, for what a function gave back, `tool`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
    /// Calls of functions the assistant made, as OpenAI's objects, their arguments parsed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<serde_json::Value>,
}

impl Message {
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into(), calls: Vec::new() }
    }
    pub fn system(content: impl Into<String>) -> Message {
        Message::new("system", content)
    }
    pub fn user(content: impl Into<String>) -> Message {
        Message::new("user", content)
    }
    pub fn assistant(content: impl Into<String>) -> Message {
        Message::new("assistant", content)
    }
}

/// Which template to use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TemplateOverride {
    /// The checkpoint's own, or ChatML when it has none.
    #[default]
    Checkpoint,
    /// `chatml`, or Jinja text.
    Given(String),
    File(PathBuf),
}

/// A template that parsed.
pub struct Template {
    environment: Environment<'static>,
    source: String,
    place: String,
    /// `bos_token` and its like, as the template may name them.
    tokens: Vec<(String, String)>,
}

impl Template {
    /// `own`: the checkpoint's template and where it stands. `tokens`: names and texts of special tokens.
    ///
    /// Errors: usage for an unknown name or an unreadable file, model for a template that does not parse or has tags without end.
    pub fn new(
        own: Option<(String, String)>,
        chosen: &TemplateOverride,
        tokens: Vec<(String, String)>,
    ) -> Result<Template> {
        let (source, place) = match chosen {
            TemplateOverride::Checkpoint => own.unwrap_or((CHATML.to_string(), "built-in ChatML".to_string())),
            TemplateOverride::Given(text) => given(text)?,
            TemplateOverride::File(path) => (read(path)?, path.display().to_string()),
        };
        guards::check(&source).map_err(|e| Error::Model(format!("the chat template in {place} is not read: {e}")))?;
        let mut environment = environment();
        environment.add_template_owned(NAME, source.clone()).map_err(|e| {
            let line = e.line().map(|n| format!(" at line {n}")).unwrap_or_default();
            let detail = e.detail().map(str::to_string).unwrap_or_else(|| e.kind().to_string());
            Error::Model(format!("the chat template in {place} does not parse{line}: {detail}"))
        })?;
        Ok(Template { environment, source, place, tokens })
    }

    /// Where the template came from, for people.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation in which `tools` (OpenAI's objects) may be called; `add_generation_prompt` opens the
    /// assistant's turn.
    ///
    /// Errors: usage when the template itself refuses the conversation, model when it fails.
    pub fn render(
        &self,
        messages: &[Message],
        tools: &[serde_json::Value],
        add_generation_prompt: bool,
    ) -> Result<String> {
        let folded;
        let messages = match tools::knows(&self.source) {
            true => messages,
            false => {
                folded = tools::fold(messages, tools);
                &folded
            }
        };
        let turn = |m: &Message| {
            let mut turn = vec![("role", Value::from(m.role.as_str())), ("content", Value::from(m.content.as_str()))];
            if !m.calls.is_empty() {
                turn.push(("tool_calls", m.calls.iter().map(jinja).collect()));
            }
            Value::from_pairs(turn)
        };
        let mut names: Vec<(&str, Value)> =
            self.tokens.iter().map(|(name, text)| (name.as_str(), Value::from(text.as_str()))).collect();
        names.push(("messages", messages.iter().map(turn).collect()));
        names.push(("add_generation_prompt", Value::from(add_generation_prompt)));
        let offered = if tools.is_empty() { Value::from(()) } else { tools.iter().map(jinja).collect() };
        names.push(("tools", offered));
        names.push(("documents", Value::from(())));
        let template = self.environment.get_template(NAME).expect("added when it was made");
        let mut page = Page::default();
        // The engine has places where it panics over a value it does not expect (the end of no text), as it should not.
        let rendering = AssertUnwindSafe(|| template.render_captured_to(Value::from_pairs(names), &mut page).map(drop));
        match catch_unwind(rendering) {
            Ok(rendered) => rendered.map_err(|e| self.sentence(&e))?,
            Err(_) => {
                let what = "fails: it is more than the template engine can work with";
                return Err(Error::Model(format!("the chat template in {} {what}", self.place)));
            }
        }
        Ok(String::from_utf8(page.0).expect("a template is text, and so is what it is rendered with"))
    }

    fn sentence(&self, e: &minijinja::Error) -> Error {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(e);
        while let Some(error) = cause {
            if let Some(Refused(why)) = error.downcast_ref() {
                return Error::Usage(format!("the chat template in {} refuses this conversation: {why}", self.place));
            }
            cause = error.source();
        }
        let line = e.line().map(|n| format!(" at line {n}")).unwrap_or_default();
        let detail = e.detail().map(|d| format!(": {d}")).unwrap_or_default();
        Error::Model(format!("the chat template in {} fails{line}: {}{detail}", self.place, e.kind()))
    }
}

const NAME: &str = "chat";

/// A template by name or by its text.
fn given(text: &str) -> Result<(String, String)> {
    if text == "chatml" {
        return Ok((CHATML.to_string(), "built-in ChatML".to_string()));
    }
    if text.contains("{%") || text.contains("{{") {
        return Ok((text.to_string(), "--chat-template".to_string()));
    }
    Err(Error::Usage(format!(
        "no chat template is called {text:?}; expected `chatml`, Jinja text, or --chat-template-file with a file"
    )))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|e| Error::Usage(format!("the chat template {} cannot be read: {e}", path.display())))
}

/// JSON as a template sees it.
fn jinja(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(flag) => Value::from(*flag),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Value::from(whole),
            (None, Some(whole)) => Value::from(whole),
            _ => Value::from(number.as_f64().unwrap_or_default()),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(list) => list.iter().map(jinja).collect(),
        serde_json::Value::Object(map) => {
            Value::from_pairs(map.iter().map(|(name, value)| (name.as_str(), jinja(value))))
        }
    }
}

/// Jinja as `transformers` sets it up.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("standard delimiters do not clash"));
    environment.set_fuel(Some(MOST_STEPS));
    guards::guard(&mut environment);
    environment.add_function("raise_exception", |why: String| -> std::result::Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Refused(why)))
    });
    environment.add_function("strftime_now", |format: &str| clock::format(format, clock::now()));
    environment.add_filter("tojson", tojson);
    environment
}

/// What a template said through `raise_exception`.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// `tojson` as Python's `json.dumps` with `ensure_ascii=False` writes it: the built-in filter also escapes
/// `<`, `>`, `&` and `'` for web pages, which a model never saw.
fn tojson(value: &Value, indent: Option<Value>, options: Kwargs) -> std::result::Result<Value, minijinja::Error> {
    let _ascii: Option<bool> = options.get("ensure_ascii")?;
    let width: Option<Value> = options.peek("indent")?;
    guards::numbers(&[Value::UNDEFINED, width.or(indent.clone()).unwrap_or_default()])?;
    let escaped = minijinja::filters::tojson(value, indent, options)?;
    let escaped = escaped.as_str().unwrap_or_default();
    let mut out = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        // A backslash is always followed by the character it escapes, and \u by four digits, all ASCII.
        let length = if rest[at + 1..].starts_with('u') { 6 } else { 2 };
        let (escape, after) = rest[at..].split_at(length);
        out.push_str(match escape {
            r"\u003c" => "<",
            r"\u003e" => ">",
            r"\u0026" => "&",
            r"\u0027" => "'",
            other => other,
        });
        rest = after;
    }
    out.push_str(rest);
    Ok(Value::from(out))
}
