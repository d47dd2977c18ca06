//! An answer taken apart as it comes: text, and calls of functions.

use crate::engine::grammar::calls::{HEAD, TAIL};
use crate::engine::text::CALL;

/// A part of an answer, as far as it is certain.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    Text(String),
    /// A call begins, of the function of this name.
    Call(String),
    /// More of its arguments, which are JSON.
    Arguments(String),
    /// It is whole.
    Called,
}

/// Where in an answer calls may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Calling {
    /// Nowhere: everything is text.
    #[default]
    No,
    /// After any text.
    Anywhere,
    /// The answer is calls, or text without any.
    Instead,
}

/// Reads one answer. What is held to calls writes them in exactly one way, so this is no parser of JSON.
#[derive(Default)]
pub struct Talk {
    calls: Calling,
    inside: Inside,
    /// Not certain yet.
    held: String,
    /// A call was read.
    any: bool,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Inside {
    #[default]
    Text,
    Head,
    Arguments,
}

impl Talk {
    pub fn new(calls: Calling) -> Talk {
        Talk { calls, ..Talk::default() }
    }

    pub fn push(&mut self, text: &str) -> Vec<Part> {
        if self.calls == Calling::Instead && !self.any && self.inside == Inside::Text {
            let begun = format!("{}{text}", self.held);
            let begun = begun.trim_start();
            if !CALL.0.starts_with(begun) && !begun.starts_with(CALL.0) {
                self.calls = Calling::No;
                return some(std::mem::take(&mut self.held) + text, Part::Text).into_iter().collect();
            }
        }
        if self.calls == Calling::No {
            return some(text.to_string(), Part::Text).into_iter().collect();
        }
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.step(&mut parts) {}
        parts
    }

    /// What was held back and is nothing else than it looks like; the beginning of a call is dropped where the answer was `cut`
    /// off.
    pub fn finish(&mut self, cut: bool) -> Vec<Part> {
        let mut rest = std::mem::take(&mut self.held);
        if cut && self.inside == Inside::Text && self.calls != Calling::No {
            rest.truncate(certain(&rest, CALL.0));
        }
        match self.inside {
            Inside::Text if self.any && rest.trim().is_empty() => Vec::new(),
            Inside::Text => some(rest, Part::Text).into_iter().collect(),
            Inside::Head => Vec::new(),
            Inside::Arguments => some(rest, Part::Arguments).into_iter().collect(),
        }
    }

    /// True when there may be more in what is held.
    fn step(&mut self, parts: &mut Vec<Part>) -> bool {
        match self.inside {
            Inside::Text => match self.held.find(CALL.0) {
                Some(at) => {
                    // The blanks before a call belong to its format.
                    parts.extend(some(self.held[..at].trim_end().to_string(), Part::Text));
                    self.held.drain(..at + CALL.0.len());
                    self.inside = Inside::Head;
                    true
                }
                None => {
                    let sure = self.held[..certain(&self.held, CALL.0)].trim_end().len();
                    parts.extend(some(self.held.drain(..sure).collect(), Part::Text));
                    false
                }
            },
            Inside::Head => {
                let name = self.held.strip_prefix(HEAD.0).and_then(|rest| rest.split_once(HEAD.1));
                let Some((name, rest)) = name.map(|(name, rest)| (name.to_string(), rest.to_string())) else {
                    return false;
                };
                parts.push(Part::Call(name));
                (self.held, self.inside, self.any) = (rest, Inside::Arguments, true);
                true
            }
            Inside::Arguments => {
                // No JSON has a bare line break in a string, so this is the end and nothing else.
                let end = format!("{TAIL}{}", CALL.1);
                let found = self.held.find(&end);
                let sure = found.unwrap_or_else(|| certain(&self.held, &end));
                parts.extend(some(self.held.drain(..sure).collect(), Part::Arguments));
                if found.is_some() {
                    self.held.drain(..end.len());
                    self.inside = Inside::Text;
                    parts.push(Part::Called);
                }
                found.is_some()
            }
        }
    }
}

fn some(text: String, part: fn(String) -> Part) -> Option<Part> {
    (!text.is_empty()).then(|| part(text))
}

/// Bytes of `text` that cannot belong to a `mark` that has only begun.
fn certain(text: &str, mark: &str) -> usize {
    let begun = |at: &usize| text.is_char_boundary(*at) && mark.starts_with(&text[*at..]);
    (text.len().saturating_sub(mark.len())..text.len()).find(begun).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAID: &str = "Let me <see>.\n<tool_call>\n{\"name\": \"look\", \"arguments\": {\"at\": \"a}b</tool_call>é\"}}\n</tool_call>\n\
                        <tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n";

    /// Pieces of text and arguments joined.
    fn joined(parts: Vec<Part>) -> Vec<Part> {
        parts.into_iter().fold(Vec::new(), |mut all, part| {
            match (all.last_mut(), part) {
                (Some(Part::Text(before)), Part::Text(text)) => before.push_str(&text),
                (Some(Part::Arguments(before)), Part::Arguments(text)) => before.push_str(&text),
                (_, part) => all.push(part),
            }
            all
        })
    }

    proptest! {
        #[test]
        fn however_it_comes_it_is_the_same(cuts in prop::collection::vec(0usize..400, 0..40)) {
            let mut talk = Talk::new(Calling::Anywhere);
            let mut parts = Vec::new();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % SAID.len()).filter(|cut| SAID.is_char_boundary(*cut)).collect();
            cuts.extend([0, SAID.len()]);
            cuts.sort_unstable();
            for pair in cuts.windows(2) {
                parts.extend(talk.push(&SAID[pair[0]..pair[1]]));
            }
            parts.extend(talk.finish(false));
            prop_assert_eq!(joined(parts), vec![
                Part::Text("Let me <see>.".into()),
                Part::Call("look".into()),
                Part::Arguments("{\"at\": \"a}b</tool_call>é\"}".into()),
                Part::Called,
                Part::Call("f".into()),
                Part::Arguments("{}".into()),
                Part::Called,
            ]);
        }
    }

    #[test]
    fn what_only_looks_like_a_call_is_text() {
        let mut talk = Talk::new(Calling::Anywhere);
        assert_eq!(talk.push("a <tool_"), [Part::Text("a".into())]);
        assert_eq!(joined([talk.push("box> \n"), talk.finish(false)].concat()), [Part::Text(" <tool_box> \n".into())]);
        let mut plain = Talk::new(Calling::No);
        assert_eq!(plain.push(SAID), [Part::Text(SAID.into())]);
        let mut cut = Talk::new(Calling::Anywhere);
        assert_eq!(cut.push("<tool_call>\n{\"name\": \"f"), []);
        assert_eq!(cut.finish(true), []);
        // The mark of a call that had only begun is no text, unless the answer ended so.
        for (cut, left) in [(true, vec![]), (false, vec![Part::Text(" <tool".into())])] {
            let mut talk = Talk::new(Calling::Anywhere);
            assert_eq!(talk.push("a <tool"), [Part::Text("a".into())]);
            assert_eq!(
                talk.finish(cut).into_iter().filter(|part| *part != Part::Text(" ".into())).collect::<Vec<_>>(),
                left
            );
        }
    }

    #[test]
    fn what_is_json_instead_of_calls_may_quote_one() {
        let json = "{\"a\": \"<tool_call>\\n{\"}";
        let mut talk = Talk::new(Calling::Instead);
        let parts = json.chars().flat_map(|c| talk.push(&c.to_string())).collect();
        assert_eq!(joined(parts), [Part::Text(json.into())]);
        let mut talk = Talk::new(Calling::Instead);
        let parts: Vec<Part> = SAID[14..].chars().flat_map(|c| talk.push(&c.to_string())).collect();
        assert_eq!(parts.iter().filter(|part| **part == Part::Called).count(), 2);
    }
}
