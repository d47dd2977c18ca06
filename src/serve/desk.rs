//! What the server makes of a body, without a connection before it and a worker behind it: the same functions, up to where a
//! request would be queued. For whoever checks that no body is too much for them.

use super::fields::Fields;
use super::look::Api;
use super::queue::Batch;
use super::words::{counted, detokenized, rendered, tokenized};
use super::{Loaded, Served, Settings, answers, slots};
use crate::engine::Limits;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

/// Reads bodies.
pub struct Desk {
    settings: Settings,
    served: Served,
}

/// What a body asks for.
pub enum Asked {
    /// Answers, and what they are held to.
    Answers { prompts: Vec<Arc<[u32]>>, each: usize, limits: Limits },
    /// Nothing the model has to write: this is the reply.
    Reply(Value),
}

/// Why there is no answer: the status of the response and its body.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    pub body: Value,
}

impl Desk {
    pub fn new(loaded: Loaded, settings: Settings) -> Desk {
        Desk { served: Served::new(loaded, &settings), settings }
    }

    /// Reads a body that was posted to `path`, one of [`ROUTES`](super::ROUTES) that take one. Panics for any other.
    pub fn read(&self, path: &str, body: &[u8]) -> Result<Asked, Refusal> {
        let answers = |api| {
            let ask = answers::read(&self.settings, &self.served, api, body, Instant::now())?;
            let Batch { prompts, n, limits, .. } = ask.batch;
            Ok(Asked::Answers { prompts, each: n, limits })
        };
        let reply = |job: fn(&Served, Fields) -> _| Ok(Asked::Reply(job(&self.served, Fields::body(body)?)?));
        let asked = match path {
            "/v1/chat/completions" => answers(Api::Chat),
            "/v1/completions" => answers(Api::Completion),
            "/v1/messages" => answers(Api::Messages),
            "/v1/responses" => answers(Api::Responses),
            "/v1/messages/count_tokens" => reply(counted),
            "/tokenize" => reply(tokenized),
            "/detokenize" => reply(detokenized),
            "/apply-template" => reply(rendered),
            "/slots/{slot}" => reply(|_, fields| slots::file_name(fields).map(|name| json!({ "filename": name }))),
            other => panic!("{other} takes no body"),
        };
        asked.map_err(|failure: super::failure::Failure| Refusal {
            status: failure.status.as_u16(),
            body: failure.body(),
        })
    }
}
