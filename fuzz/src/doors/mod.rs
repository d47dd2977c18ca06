//! The doors of the product, each as a function of bytes that panics where a rule is broken: whatever the bytes, an error in
//! words or a sensible result, within bounded memory. libFuzzer watches over time.

mod bodies;
mod files;
mod grammar;
mod house;
mod template;

pub use bodies::{chat, completions, messages, responses, words};
pub use files::{config, gguf, index, packed, profile, safetensors, session};
pub use grammar::{gbnf, lark, schema};
pub use template::template;

/// A door.
pub type Door = fn(&[u8]);

/// Every door by its name: the target of the same name, and the folder of its seeds.
pub const ALL: &[(&str, Door)] = &[
    ("chat", chat),
    ("completions", completions),
    ("messages", messages),
    ("responses", responses),
    ("words", words),
    ("template", template),
    ("schema", schema),
    ("gbnf", gbnf),
    ("lark", lark),
    ("gguf", gguf),
    ("safetensors", safetensors),
    ("config", config),
    ("index", index),
    ("packed", packed),
    ("profile", profile),
    ("session", session),
];
