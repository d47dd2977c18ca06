//! The APIs an answer can be given by: one of them for each response, all of them made of the same events.

use super::ask::{Ask, Way};
use super::failure::Failure;
use super::queue::Ended;
use super::shape::{Head, Shape};
use super::{messages, responses};
use crate::engine::{Engine, Piece};
use serde_json::{Value, json};

/// Whose API a request is written for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Api {
    Chat,
    Completion,
    Messages,
    Responses,
}

/// A server-sent event.
pub struct Sent {
    pub name: Option<&'static str>,
    pub data: Value,
}

fn plain(data: Value) -> Sent {
    Sent { name: None, data }
}

pub enum Look {
    Openai(Box<Shape>),
    Messages(Box<messages::Shape>),
    Responses(Box<responses::Shape>),
}

impl Look {
    pub fn new(api: Api, engine: Engine, head: Head, ask: &Ask) -> Look {
        let shape = |way, engine, head| Shape::new(way, engine, head, ask);
        match api {
            Api::Chat => Look::Openai(Box::new(shape(Way::Chat, engine, head))),
            Api::Completion => Look::Openai(Box::new(shape(Way::Completion, engine, head))),
            Api::Messages => Look::Messages(Box::new(messages::Shape::new(head, ask))),
            Api::Responses => Look::Responses(Box::new(responses::Shape::new(engine, head, ask))),
        }
    }

    /// What a stream says before anything is written.
    pub fn opening(&mut self) -> Vec<Sent> {
        match self {
            Look::Openai(shape) => shape.opening().into_iter().map(plain).collect(),
            Look::Messages(shape) => shape.opening(),
            Look::Responses(shape) => shape.opening(),
        }
    }

    pub fn piece(&mut self, choice: usize, piece: &Piece) -> Vec<Sent> {
        match self {
            Look::Openai(shape) => shape.piece(choice, piece).into_iter().map(plain).collect(),
            Look::Messages(shape) => shape.piece(piece),
            Look::Responses(shape) => shape.piece(piece),
        }
    }

    pub fn ended(&mut self, choice: usize, ended: Ended) -> Vec<Sent> {
        match self {
            Look::Openai(shape) => shape.ended(choice, ended).into_iter().map(plain).collect(),
            Look::Messages(shape) => shape.ended(ended),
            Look::Responses(shape) => shape.ended(ended),
        }
    }

    /// What comes after the last choice, and whether `[DONE]` comes after that. `n`: choices of one prompt.
    pub fn closing(&self, n: usize) -> (Option<Sent>, bool) {
        match self {
            Look::Openai(shape) => (shape.closing(n).map(plain), true),
            Look::Messages(_) | Look::Responses(_) => (None, false),
        }
    }

    /// A failure in a stream that has begun.
    pub fn failed(&mut self, failure: &Failure) -> Sent {
        match self {
            Look::Openai(_) => plain(failure.body()),
            Look::Messages(_) => Sent { name: Some("error"), data: failure.anthropic() },
            Look::Responses(shape) => shape.failed(failure),
        }
    }

    /// Keeps a piece for [`whole`](Look::whole).
    pub fn keep(&mut self, choice: usize, piece: Piece) {
        match self {
            Look::Openai(shape) => shape.keep(choice, piece),
            Look::Messages(shape) => shape.keep(&piece),
            Look::Responses(shape) => shape.keep(&piece),
        }
    }

    pub fn keep_end(&mut self, choice: usize, ended: Ended) {
        match self {
            Look::Openai(shape) => shape.keep_end(choice, ended),
            Look::Messages(shape) => shape.keep_end(ended),
            Look::Responses(shape) => shape.keep_end(ended),
        }
    }

    /// The response to a request that did not ask for a stream.
    pub fn whole(&mut self, n: usize) -> Value {
        match self {
            Look::Openai(shape) => shape.whole(n),
            Look::Messages(shape) => shape.whole(),
            Look::Responses(shape) => shape.whole(),
        }
    }
}

/// Arguments of a call as an object: they are whole JSON, unless the answer was cut off.
pub fn parsed(arguments: &str) -> Value {
    serde_json::from_str(arguments).unwrap_or_else(|_| json!({}))
}
