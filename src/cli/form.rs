//! `--grammar`, `--json-schema` and their files: what answers are held to.

use super::run;
use crate::engine::Engine;
use crate::engine::grammar::{Form, Grammar};
use crate::error::{Error, Result};
use clap::Args;
use std::path::PathBuf;

/// One of them at most.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Form of the answer")]
pub struct FormArgs {
    /// Hold answers to a grammar: GBNF as llama.cpp has it, or Lark
    #[arg(long, value_name = "GRAMMAR", env = "THERMOCLINE_GRAMMAR", allow_hyphen_values = true)]
    pub grammar: Option<String>,
    /// The same, from a file
    #[arg(long, value_name = "FILE", env = "THERMOCLINE_GRAMMAR_FILE")]
    pub grammar_file: Option<PathBuf>,
    /// Hold answers to JSON that this schema allows; {} allows any
    #[arg(short = 'j', long, value_name = "SCHEMA", env = "THERMOCLINE_JSON_SCHEMA", allow_hyphen_values = true)]
    pub json_schema: Option<String>,
    /// [-jf] The same, from a file
    #[arg(long, value_name = "FILE", env = "THERMOCLINE_JSON_SCHEMA_FILE")]
    pub json_schema_file: Option<PathBuf>,
}

/// A form that makes sense as text, and the flag it came by; whether the model can be held to it is not known yet.
pub struct Asked {
    form: Form,
    flag: String,
}

impl FormArgs {
    /// Of several, the one on the command line outdoes those in the environment. `said`: whether a flag stands there.
    pub fn settle(&mut self, said: impl Fn(&str) -> bool) -> Result<()> {
        let given = [
            ("grammar", self.grammar.is_some()),
            ("grammar_file", self.grammar_file.is_some()),
            ("json_schema", self.json_schema.is_some()),
            ("json_schema_file", self.json_schema_file.is_some()),
        ];
        let given: Vec<&str> = given.into_iter().filter_map(|(name, is)| is.then_some(name)).collect();
        if given.len() < 2 {
            return Ok(());
        }
        let spoken: Vec<&str> = given.into_iter().filter(|name| said(name)).collect();
        let [one] = spoken.as_slice() else {
            return Err(Error::Usage(
                "answers have one form: give --grammar, --grammar-file, --json-schema or --json-schema-file, not several"
                    .into(),
            ));
        };
        let other = |name: &str| *one != name;
        self.grammar.take_if(|_| other("grammar"));
        self.grammar_file.take_if(|_| other("grammar_file"));
        self.json_schema.take_if(|_| other("json_schema"));
        self.json_schema_file.take_if(|_| other("json_schema_file"));
        Ok(())
    }

    /// What is asked for, its file read. Errors (usage): a file that cannot be read, nothing in it, a schema that is no JSON.
    pub fn read(&self) -> Result<Option<Asked>> {
        let (flag, text) = match self {
            FormArgs { grammar: Some(text), .. } => ("--grammar".to_string(), text.clone()),
            FormArgs { grammar_file: Some(file), .. } => {
                (format!("--grammar-file {}", file.display()), run::read_text(file)?)
            }
            FormArgs { json_schema: Some(text), .. } => ("--json-schema".to_string(), text.clone()),
            FormArgs { json_schema_file: Some(file), .. } => {
                (format!("--json-schema-file {}", file.display()), run::read_text(file)?)
            }
            _ => return Ok(None),
        };
        let is_grammar = flag.starts_with("--grammar");
        if text.trim().is_empty() {
            let expected = if is_grammar { "a grammar" } else { "a JSON schema" };
            return Err(Error::Usage(format!("{flag} is empty, expected {expected}")));
        }
        let form = match is_grammar {
            true => Form::Grammar(text),
            false => Form::Schema(
                serde_json::from_str(&text).map_err(|e| Error::Usage(format!("{flag} is no JSON schema: {e}")))?,
            ),
        };
        Ok(Some(Asked { form, flag }))
    }
}

impl Asked {
    /// Errors (usage): what the model cannot be held to, by the flag.
    pub fn compile(&self, engine: &Engine) -> Result<Grammar> {
        engine.grammar(&self.form).map_err(|e| match e {
            Error::Usage(why) => Error::Usage(format!("{} is refused: {why}", self.flag)),
            other => other,
        })
    }
}
