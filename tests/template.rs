//! Chat templates: the checkpoint's own in each place it may stand, ChatML, the user's, and broken ones.

mod vocab;

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use tempfile::TempDir;
use thermocline::Error;
use thermocline::checkpoint::{GgufText, TextSource};
use thermocline::engine::text::{Message, TemplateOverride, Text};
use vocab::{config, qwen2};

/// In the manner of Qwen2's: a default system turn, and tools nobody passes.
const WITH_DEFAULT_SYSTEM: &str = r#"{%- if tools %}
    {{- '<|im_start|>system\n# Tools\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- elif messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou are a kind machine.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) or message.role == "assistant" %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"#;

/// One that knows tools, as the models it is made for do.
const WITH_TOOLS: &str = include_str!("template/tools.jinja");

const ALTERNATING: &str = "{{ bos_token }}{% for m in messages %}
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate user/assistant/' + m['role']) }}
{% endif %}
[{{ m['role'] }}] {{ m['content'] | trim }}
{% endfor %}";

/// Single bytes and the first token of the chat format are enough here.
static BYTES: LazyLock<GgufText> = LazyLock::new(|| {
    let mut keys = qwen2();
    keys.merges.clear();
    keys.tokens.truncate(256);
    keys.tokens.push("<|endoftext|>".into());
    keys.token_types.truncate(257);
    GgufText { bos: Some(256), eos: Some(256), padding: None, ..keys }
});

fn open(template: Option<&str>, chosen: TemplateOverride) -> thermocline::Result<Text> {
    let keys = GgufText { chat_template: template.map(str::to_string), ..BYTES.clone() };
    Text::open(&TextSource::Gguf(keys), &config(300, &[]), chosen)
}

fn own(template: &str) -> thermocline::Result<Text> {
    open(Some(template), TemplateOverride::Checkpoint)
}

fn given(template: &str) -> thermocline::Result<Text> {
    open(Some(WITH_DEFAULT_SYSTEM), TemplateOverride::Given(template.into()))
}

/// A folder like one on the hub, with a vocabulary of single bytes.
fn folder(config: Option<Value>, jinja: Option<&str>) -> TempDir {
    let vocab: serde_json::Map<String, Value> = (0..256).map(|id| (BYTES.tokens[id].clone(), json!(id))).collect();
    let pre = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true});
    let tokenizer = json!({"version": "1.0", "added_tokens": [], "pre_tokenizer": pre, "decoder": pre,
                           "model": {"type": "BPE", "vocab": vocab, "merges": []}});
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    if let Some(config) = config {
        fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    }
    if let Some(jinja) = jinja {
        fs::write(folder.path().join("chat_template.jinja"), jinja).unwrap();
    }
    folder
}

fn open_folder(path: &Path) -> thermocline::Result<Text> {
    Text::open(&TextSource::Folder(path.into()), &config(300, &[]), TemplateOverride::Checkpoint)
}

fn hello() -> [Message; 1] {
    [Message::user("Hello")]
}

fn fails(result: thermocline::Result<impl Sized>) -> Error {
    result.err().expect("an error")
}

#[test]
fn chatml_invents_no_system_prompt() {
    let text = open(None, TemplateOverride::Checkpoint).unwrap();
    let turns =
        [Message::system("Be brief."), Message::user("Hi"), Message::assistant("Yes?"), Message::user("{{ 1 }}")];
    assert_eq!(
        text.render(&turns, true).unwrap(),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n\
         <|im_start|>user\n{{ 1 }}<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(text.render(&hello(), false).unwrap(), "<|im_start|>user\nHello<|im_end|>\n");
    assert!(text.notes().iter().any(|n| n.contains("ChatML")));
    assert_eq!(text.template().0, "built-in ChatML");
}

#[test]
fn the_checkpoints_own_template_is_used_as_it_is() {
    let text = own(WITH_DEFAULT_SYSTEM).unwrap();
    assert_eq!(
        text.render(&hello(), true).unwrap(),
        "<|im_start|>system\nYou are a kind machine.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    );
    let turns = [Message::system("Short."), Message::user("a"), Message::assistant("b")];
    assert_eq!(
        text.render(&turns, false).unwrap(),
        "<|im_start|>system\nShort.<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    );
    assert!(text.notes().is_empty());
}

#[test]
fn the_template_of_the_qwen2_vocabulary_renders() {
    let text = own(&qwen2().chat_template.unwrap()).unwrap();
    assert_eq!(
        text.render(&hello(), true).unwrap(),
        "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    );
}

fn function(name: &str) -> Value {
    let parameters = json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] });
    json!({ "type": "function", "function": { "name": name, "description": "<Ask> it", "parameters": parameters } })
}

fn call(name: &str, arguments: Value) -> Value {
    json!({ "id": "call_1", "type": "function", "function": { "name": name, "arguments": arguments } })
}

/// A template that knows tools offers them itself and writes calls and results its own way; nothing is folded into text.
#[test]
fn a_template_that_knows_tools_writes_them_itself() {
    let text = own(WITH_TOOLS).unwrap();
    let turns = [
        Message::system("Be brief."),
        Message::user("Rain?"),
        Message {
            calls: vec![call("rain", json!({ "city": "Tromsø", "days": [1, 2] })), call("wind", json!({}))],
            ..Message::assistant("I look.")
        },
        Message::new("tool", "none"),
        Message::new("tool", "{\"knots\": 3}"),
        Message::assistant("No rain."),
        Message::user("And now?"),
        Message { calls: vec![call("rain", json!({ "city": "Rome" }))], ..Message::assistant("") },
        Message::new("tool", "a little"),
    ];
    let expected = r#"<|im_start|>system
Be brief.

At hand are:
<tools>
{"type": "function", "function": {"name": "rain", "description": "<Ask> it", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
{"type": "function", "function": {"name": "wind", "description": "<Ask> it", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
</tools>
A call is written so:
<tool_call>
{"name": ..., "arguments": {...}}
</tool_call><|im_end|>
<|im_start|>user
Rain?<|im_end|>
<|im_start|>assistant
I look.
<tool_call>
{"name": "rain", "arguments": {"city": "Tromsø", "days": [1, 2]}}
</tool_call>
<tool_call>
{"name": "wind", "arguments": {}}
</tool_call><|im_end|>
<|im_start|>user
<tool_response>
none
</tool_response>
<tool_response>
{"knots": 3}
</tool_response><|im_end|>
<|im_start|>assistant
No rain.<|im_end|>
<|im_start|>user
And now?<|im_end|>
<|im_start|>assistant
<tool_call>
{"name": "rain", "arguments": {"city": "Rome"}}
</tool_call><|im_end|>
<|im_start|>user
<tool_response>
a little
</tool_response><|im_end|>
<|im_start|>assistant
"#;
    assert_eq!(text.render_with_tools(&turns, &[function("rain"), function("wind")], true).unwrap(), expected);
    // Without tools it offers none, and calls of before are still its own to write.
    let rest = expected.split_once("<|im_start|>user\n").unwrap().1;
    assert_eq!(
        text.render_with_tools(&turns, &[], true).unwrap(),
        format!("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{rest}")
    );
    assert_eq!(
        text.render_with_tools(&hello(), &[], false).unwrap(),
        "<|im_start|>user\nHello<|im_end|>\n",
        "none are invented"
    );
}

#[test]
fn a_template_may_refuse_a_conversation() {
    let text = own(ALTERNATING).unwrap();
    let turns = [Message::user(" a "), Message::assistant("b")];
    assert_eq!(text.render(&turns, false).unwrap(), "<|endoftext|>[user] a\n[assistant] b\n");
    let turns = [Message::user("a"), Message::user("b")];
    match fails(text.render(&turns, false)) {
        Error::Usage(s) => {
            assert!(s.contains("refuses") && s.ends_with("roles must alternate user/assistant/user"), "{s}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_template_that_does_not_parse_is_named_with_its_line() {
    match fails(own("{% for m in messages %}\n{{ m.content }\n{% endfor %}")) {
        Error::Model(s) => assert!(s.contains("tokenizer.chat_template") && s.contains("at line 2"), "{s}"),
        other => panic!("{other:?}"),
    }
    match fails(own("{% for m in messages %}")) {
        Error::Model(s) => assert!(s.contains("does not parse"), "{s}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_template_that_fails_is_a_sentence() {
    for bad in ["{{ messages[0].content.no_such_method() }}", "{{ nothing.at_all }}", "{{ 'a' | no_such_filter }}"] {
        // Unknown filters are found on parsing or on rendering: either is fine, a panic is not.
        match fails(own(bad).and_then(|t| t.render(&hello(), true))) {
            Error::Model(s) => assert!(s.contains("tokenizer.chat_template"), "{s}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_template_that_does_not_end_is_stopped() {
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = a * b %}{% endfor %}{% endfor %}";
    let error = fails(own(endless).unwrap().render(&hello(), true));
    assert!(matches!(error, Error::Model(_)), "{error:?}");
}

#[test]
fn the_user_may_choose_another() {
    assert_eq!(given("chatml").unwrap().render(&hello(), false).unwrap(), "<|im_start|>user\nHello<|im_end|>\n");
    assert_eq!(given("Q: {{ messages[0].content }}\nA:").unwrap().render(&hello(), true).unwrap(), "Q: Hello\nA:");
    match fails(given("llama2")) {
        Error::Usage(s) => assert!(s.contains("llama2") && s.contains("chatml"), "{s}"),
        other => panic!("{other:?}"),
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.jinja");
    let from_file = || open(None, TemplateOverride::File(path.clone()));
    assert!(matches!(fails(from_file()), Error::Usage(s) if s.contains("mine.jinja")));
    fs::write(&path, "{{ messages | length }}\n").unwrap();
    let text = from_file().unwrap();
    assert_eq!(text.render(&hello(), true).unwrap(), "1");
    assert!(text.notes().is_empty());
    fs::write(&path, "{% if %}").unwrap();
    assert!(matches!(fails(from_file()), Error::Model(s) if s.contains("mine.jinja")));
}

#[test]
fn a_folder_keeps_its_template_in_either_file() {
    let config = json!({"chat_template": "config", "eos_token": "<e>", "bos_token": {"content": "<b>"}});
    let render = |folder: &TempDir| open_folder(folder.path()).unwrap().render(&hello(), true).unwrap();
    assert_eq!(render(&folder(Some(config.clone()), None)), "config");
    assert_eq!(
        render(&folder(Some(config), Some("file {{ bos_token }}{{ eos_token }}{{ pad_token }}"))),
        "file <b><e>"
    );
    assert!(render(&folder(None, None)).starts_with("<|im_start|>user"));
    assert!(render(&folder(Some(json!({"chat_template": null})), None)).starts_with("<|im_start|>user"));
}

#[test]
fn of_a_list_of_templates_the_default_is_taken() {
    let list = json!({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]});
    let text = open_folder(folder(Some(list), None).path()).unwrap();
    assert_eq!(text.render(&hello(), true).unwrap(), "d");
    let only = json!({"chat_template": [{"name": "other", "template": "o"}]});
    assert_eq!(open_folder(folder(Some(only), None).path()).unwrap().render(&hello(), true).unwrap(), "o");
    for (bad, word) in [
        (json!({"chat_template": [{"name": "a", "template": "t"}, {"name": "b", "template": "t"}]}), "\"b\""),
        (json!({"chat_template": [{"name": "default"}]}), "no \"template\""),
        (json!({"chat_template": []}), "default"),
        (json!({"chat_template": 7}), "expected text"),
    ] {
        match fails(open_folder(folder(Some(bad), None).path())) {
            Error::Model(s) => assert!(s.contains(word) && s.contains("tokenizer_config.json"), "{s}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn python_habits_work() {
    let render =
        |template: &str| own(template).unwrap().render(&[Message::user(" <a> & 'b' \\u003c\n\"é\" ")], true).unwrap();
    assert_eq!(render("{{ messages[0].content | tojson }}"), r#"" <a> & 'b' \\u003c\n\"é\" ""#);
    assert_eq!(render("{{ {'a': [1, 2], 'b': none} | tojson }}"), r#"{"a": [1, 2], "b": null}"#);
    assert_eq!(render("{{ [1] | tojson(indent=2) }}"), "[\n  1\n]");
    assert_eq!(render("{{ messages[0].content.strip().split('&')[0] }}|"), "<a> |");
    assert_eq!(render("{% if messages[0]['content'].startswith(' <') %}yes{% endif %}"), "yes");
    assert_eq!(
        render("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"),
        "1"
    );
    assert_eq!(render("{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}"), "1");
    assert_eq!(render("{{ messages[::-1][0].role }}{{ tools is none }}{{ x is defined }}"), "userTrueFalse");
    assert_eq!(render("{{ strftime_now('%Y') | int > 2020 }}"), "True");
    assert_eq!(render("  {% if true %}\nline\n  {% endif %}\nnext"), "line\nnext");
}

/// A template comes with a model file of anybody's, and fuel does not see what one instruction takes.
#[test]
fn a_template_cannot_ask_for_any_amount_of_memory() {
    let render = |template: &str| own(template).unwrap().render(&hello(), true);
    for template in [
        "{{ 'a\nb' | indent(99999999999) }}",
        "{{ 'a\nb' | indent(first=true, width=18446744073709551616) }}",
        "{{ [1] | batch(9999999999, 'x') | list }}",
        "{{ [1] | slice(9999999999) | list }}",
        "{{ '%99999999999d' | format(1) }}",
        "{{ '%-+ 0999999d' | format(1) }}",
        "{{ '%.999999999f' | format(1.5) }}",
        "{{ '{:>9999999999}'.format(1) }}",
        "{{ [1] | tojson(indent=99999999999) }}",
        "{{ [1] | tojson(99999999999) }}",
        "{{ ('a' * 99999) | replace('a', 'b' * 99999) }}",
        "{{ ('a' * 99999).replace('', 'b' * 99999) }}",
        "{% for i in range(10000) %}{{ 'a' * 99999 }}{% endfor %}",
        "{{ ('a' * 9999) | join('b' * 9999) }}",
        "{{ ('b' * 9999).join(['a'] * 9999) }}",
    ] {
        assert!(matches!(fails(render(template)), Error::Model(_)), "{template}");
    }
    for (template, text) in [
        ("{{ 'a\nb' | indent(2) }}{{ 'a' | indent(width=1, first=true) }}", "a\n  b a"),
        ("{{ [1, 2, 3] | batch(2, 0) | list }}{{ [1] | slice(2) | list }}", "[[1, 2], [3, 0]][[1], []]"),
        ("{{ '%05d %-4s| 20240101' | format(7, 'x') }}{{ '{:>4}'.format(1) }}", "00007 x   | 20240101   1"),
        (
            "{{ 'ab' | join('-') }}{{ [1, 'b'] | join(', ') }}{{ '+'.join(['a', 'b']) }}{{ [1, 2] | join }}",
            "a-b1, ba+b12",
        ),
        ("{{ 'aa' | replace('a', 'bc') }}{{ 'aa'.replace('a', 'bc', 1) }}", "bcbcbca"),
    ] {
        assert_eq!(render(template).unwrap(), text, "{template}");
    }
}

/// `''[::-1]` makes the engine panic.
#[test]
fn a_template_the_engine_falls_over_is_a_sentence() {
    let text = own("{{ messages[0].content[::-1] }}").unwrap();
    assert_eq!(text.render(&hello(), true).unwrap(), "olleH");
    assert!(matches!(fails(text.render(&[Message::user("")], true)), Error::Model(_)));
}

/// The parser goes down the stack with a tag; this is a thread of 2 MiB.
#[test]
fn a_template_cannot_go_deeper_than_the_stack() {
    let chain = |before: &str, step: &str, count: usize, after: &str| format!("{before}{}{after}", step.repeat(count));
    for (before, step, after) in [
        ("{{ a", "|e", " }}"),
        ("{{ a", "+a", " }}"),
        ("{{ a", ".a", " }}"),
        ("{{ a", "()", " }}"),
        ("{{ a", "[0]", " }}"),
        ("{{ ", "-", "1 }}"),
        ("{{ ", "not ", "a }}"),
        ("{{ a", " is defined", " }}"),
        ("{{ a", " if a else a", " }}"),
        ("{{ a", "**a", " }}"),
        ("{{- [{}, ''", "~'}}'", "] }}"),
        ("{% if a %}", "{% elif a %}", "{% endif %}"),
        ("{% raw %}{{ ' {% endraw %}{# {{ ' #}{{ a", "|e", " }}"),
    ] {
        let deep = fails(own(&chain(before, step, 100_000, after)));
        assert!(matches!(&deep, Error::Model(why) if why.contains("more than")), "{step}: {deep}");
        // As deep as it may be, it fails in words or not at all.
        if let Ok(text) = own(&chain(before, step, 190, after)) {
            let _ = text.render(&hello(), true);
        }
        if let Ok(text) = own(&chain(before, step, 990, after)) {
            let _ = text.render(&hello(), true);
        }
    }
    let long =
        format!("{{{{ '{}' }}}}{{# {} #}}{}", "a ".repeat(5_000), "|e".repeat(5_000), "{{ bos_token }}".repeat(5_000));
    assert!(own(&long).is_ok());
}
