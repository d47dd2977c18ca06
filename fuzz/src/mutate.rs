//! Changes of JSON that leave it JSON: most random bytes of a body fall at its first comma.

use libfuzzer_sys::fuzzer_mutate;
use serde_json::{Map, Value, json};

/// Changes `data[..size]` in place and returns its new size, at most `max_size`.
pub fn json(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut dice = Dice(u64::from(seed) << 1 | 1);
    let parsed = match dice.below(4) {
        0 => None,
        _ => serde_json::from_slice::<Value>(&data[..size]).ok(),
    };
    let Some(mut value) = parsed else { return fuzzer_mutate(data, size, max_size) };
    for _ in 0..=dice.below(3) {
        change(&mut value, &mut dice);
    }
    let text = value.to_string();
    if text.len() > max_size {
        return fuzzer_mutate(data, size, max_size);
    }
    data[..text.len()].copy_from_slice(text.as_bytes());
    text.len()
}

/// The same behind a first byte that is no JSON.
pub fn json_behind_a_byte(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    behind(1, data, size, max_size, seed)
}

/// The same behind four.
pub fn json_behind_a_number(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    behind(4, data, size, max_size, seed)
}

fn behind(first: usize, data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    if size <= first || max_size <= first || seed.is_multiple_of(8) {
        return fuzzer_mutate(data, size, max_size);
    }
    first + json(&mut data[first..], size - first, max_size - first, seed)
}

/// Numbers enough for choices.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) as usize % most.max(1)
    }
}

/// Changes one place: goes down from the root, by chance.
fn change(value: &mut Value, dice: &mut Dice) {
    let deeper = dice.below(4) > 0;
    match value {
        Value::Array(list) if deeper && !list.is_empty() => {
            let at = dice.below(list.len());
            change(&mut list[at], dice);
        }
        Value::Object(map) if deeper && !map.is_empty() => {
            let at = dice.below(map.len());
            change(map.values_mut().nth(at).expect("below its length"), dice);
        }
        Value::Array(list) => change_list(list, dice),
        Value::Object(map) => change_map(map, dice),
        Value::String(text) => change_text(text, dice),
        other => *other = any(dice),
    }
}

fn change_list(list: &mut Vec<Value>, dice: &mut Dice) {
    let at = dice.below(list.len());
    match dice.below(4) {
        0 if !list.is_empty() => drop(list.remove(at)),
        1 if !list.is_empty() => list.insert(at, list[at].clone()),
        2 if !list.is_empty() => {
            let other = dice.below(list.len());
            list.swap(at, other);
        }
        _ => list.push(any(dice)),
    }
}

fn change_map(map: &mut Map<String, Value>, dice: &mut Dice) {
    let name = map.keys().nth(dice.below(map.len())).cloned();
    match (dice.below(5), name) {
        (0, Some(name)) => drop(map.remove(&name)),
        (1, Some(name)) => {
            // A value under another name.
            let value = map.remove(&name).expect("it has that name");
            map.insert(word(dice), value);
        }
        (2, Some(name)) => {
            // And under its own, one deeper.
            let value = map[&name].clone();
            map.insert(name, if dice.below(2) == 0 { json!([value]) } else { json!({ word(dice): value }) });
        }
        _ => drop(map.insert(word(dice), any(dice))),
    }
}

fn change_text(text: &mut String, dice: &mut Dice) {
    let mut bytes = text.as_bytes().to_vec();
    let size = bytes.len();
    if dice.below(3) == 0 {
        *text = word(dice);
        return;
    }
    bytes.resize(size + 32, 0);
    let max = bytes.len();
    let size = fuzzer_mutate(&mut bytes, size, max);
    *text = String::from_utf8_lossy(&bytes[..size]).into_owned();
}

fn word(dice: &mut Dice) -> String {
    WORDS[dice.below(WORDS.len())].to_string()
}

fn any(dice: &mut Dice) -> Value {
    match dice.below(12) {
        0 => Value::Null,
        1 => json!(dice.below(2) == 0),
        2 => json!(dice.below(300)),
        3 => json!(-1),
        4 => json!([0, 1, 255, 4096, 65_536, i64::MAX][dice.below(6)]),
        5 => json!(u64::MAX),
        6 => json!([0.5, -0.0, 1e300, 1e-300, 5.0][dice.below(5)]),
        7 => json!([]),
        8 => json!({}),
        9 => json!({ word(dice): word(dice) }),
        10 => json!([word(dice), dice.below(9)]),
        _ => json!(word(dice)),
    }
}

/// Names and words of all the JSON that is read, so that a change can mean something.
const WORDS: &[&str] = &[
    "",
    "model",
    "bundled",
    "messages",
    "role",
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
    "content",
    "type",
    "text",
    "input_text",
    "output_text",
    "tool_calls",
    "tool_call_id",
    "id",
    "function",
    "name",
    "arguments",
    "{}",
    "parameters",
    "description",
    "strict",
    "tools",
    "tool_choice",
    "auto",
    "none",
    "required",
    "any",
    "parallel_tool_calls",
    "stream",
    "stream_options",
    "include_usage",
    "n",
    "best_of",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "logprobs",
    "top_logprobs",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "repeat_last_n",
    "seed",
    "logit_bias",
    "3",
    "modalities",
    "prompt",
    "suffix",
    "echo",
    "grammar",
    "root ::= \"a\"",
    "start: /a/",
    "json_schema",
    "response_format",
    "json_object",
    "schema",
    "max_output_tokens",
    "input",
    "instructions",
    "call_id",
    "output",
    "function_call",
    "function_call_output",
    "reasoning",
    "message",
    "format",
    "truncation",
    "disabled",
    "tool_use",
    "tool_result",
    "tool_use_id",
    "input_schema",
    "stop_sequences",
    "thinking",
    "cache_control",
    "disable_parallel_tool_use",
    "add_special",
    "parse_special",
    "with_pieces",
    "tokens",
    "add_generation_prompt",
    "filename",
    "object",
    "array",
    "string",
    "integer",
    "number",
    "boolean",
    "null",
    "enum",
    "const",
    "properties",
    "additionalProperties",
    "patternProperties",
    "^a+$",
    "minProperties",
    "maxProperties",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "pattern",
    "[a-z]{1,9}",
    "date-time",
    "uuid",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "anyOf",
    "allOf",
    "oneOf",
    "$ref",
    "#",
    "#/$defs/a",
    "$defs",
    "a",
    "architectures",
    "SmallThinkerForCausalLM",
    "num_hidden_layers",
    "hidden_size",
    "vocab_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "moe_num_primary_experts",
    "moe_num_active_primary_experts",
    "moe_ffn_hidden_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_layout",
    "sliding_window_layout",
    "sliding_window_size",
    "moe_primary_router_apply_softmax",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "weight_map",
    "a.safetensors",
    "b.safetensors",
    "../x",
    "dtype",
    "F32",
    "BF16",
    "F16",
    "I8",
    "F4",
    "shape",
    "data_offsets",
    "__metadata__",
    "lm_head.weight",
    "profile",
    "thermocline",
    "version",
    "experts",
    "active",
    "layers",
    "chosen",
    "fired",
    "again",
    "together",
    "next",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "</tool_call>",
    "\u{0}",
    "\u{1f600}",
    "e\u{301}",
];
