//! One choice of a response as far as it has come: what all shapes of a response are made from.

use super::queue::Ended;
use super::talk::{Calling, Part, Talk};
use crate::engine::{Finish, Stats, Token};

/// A function the model calls.
pub struct Call {
    pub id: String,
    pub name: String,
    /// JSON, so far.
    pub arguments: String,
}

pub struct Choice {
    talk: Talk,
    pub text: String,
    pub calls: Vec<Call>,
    /// The last call is not whole.
    begun: bool,
    /// Kept where the whole response is asked for.
    pub tokens: Vec<Token>,
    pub ended: Option<Ended>,
}

/// Why a choice ended, as its reader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    End,
    /// Which of the stop texts.
    Stop(usize),
    Calls,
    Length,
}

impl Choice {
    /// `calls`: where the answer may hold calls of functions.
    pub fn new(calls: Calling) -> Choice {
        let talk = Talk::new(calls);
        Choice { talk, text: String::new(), calls: Vec::new(), begun: false, tokens: Vec::new(), ended: None }
    }

    /// Takes the next text in, and gives what is certain now.
    pub fn take(&mut self, text: &str) -> Vec<Part> {
        let parts = self.talk.push(text);
        self.keep(&parts);
        parts
    }

    /// Takes the end in, and gives what was held back.
    pub fn end(&mut self, ended: Ended) -> Vec<Part> {
        self.ended = Some(ended);
        let cut = !matches!(ended.finish, Finish::Eos | Finish::Complete);
        let parts = self.talk.finish(cut);
        self.keep(&parts);
        parts
    }

    fn keep(&mut self, parts: &[Part]) {
        for part in parts {
            match part {
                Part::Text(text) => self.text.push_str(text),
                Part::Call(name) => {
                    let id = format!("call_{}", super::unique());
                    self.calls.push(Call { id, name: name.clone(), arguments: String::new() });
                    self.begun = true;
                }
                Part::Arguments(more) => {
                    if let Some(call) = self.calls.last_mut() {
                        call.arguments.push_str(more);
                    }
                }
                Part::Called => self.begun = false,
            }
        }
    }

    /// The last call, where the answer ended in the middle of it.
    pub fn cut(&self) -> Option<&Call> {
        self.calls.last().filter(|_| self.begun)
    }

    pub fn reason(&self) -> Reason {
        match &self.ended {
            // A stop text in the middle of a call: nobody should carry that out.
            _ if self.begun => Reason::Length,
            Some(Ended { finish: Finish::Stop, stop: Some(at), .. }) if self.calls.is_empty() => Reason::Stop(*at),
            Some(Ended { finish: Finish::Eos | Finish::Stop | Finish::Complete, .. }) => match self.calls.is_empty() {
                true => Reason::End,
                false => Reason::Calls,
            },
            _ => Reason::Length,
        }
    }

    pub fn stats(&self) -> Stats {
        self.ended.map(|ended| ended.stats).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_a_stop_text_cut_is_not_to_be_carried_out() {
        let ended = |finish| Ended { finish, stats: Stats::default(), stop: Some(0), slot: 0 };
        let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n";
        for (text, reason) in
            [(&call[..call.len() - 20], Reason::Length), (call, Reason::Calls), ("so", Reason::Stop(0))]
        {
            let mut choice = Choice::new(Calling::Anywhere);
            choice.take(text);
            choice.end(ended(Finish::Stop));
            assert_eq!(choice.reason(), reason, "{text}");
        }
    }
}
