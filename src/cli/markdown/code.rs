//! Code in colours: what a language's grammar says of each part, in the colours of the terminal's own palette.

use super::paint::{Line, Look, Span};
use std::sync::LazyLock;
use syntect::parsing::{ParseState, Scope, ScopeStack, SyntaxReference, SyntaxSet};

static GRAMMARS: LazyLock<SyntaxSet> = LazyLock::new(SyntaxSet::load_defaults_newlines);

/// What is told apart, the more special first.
static LOOKS: LazyLock<Vec<(Scope, Look)>> = LazyLock::new(|| {
    let plain = Look::default();
    let colour = |colour| Look { colour, ..plain };
    let looks = [
        ("comment", Look { dim: true, italic: true, ..plain }),
        ("punctuation.definition.comment", Look { dim: true, italic: true, ..plain }),
        ("constant.character.escape", colour(36)),
        ("string", colour(32)),
        ("constant", colour(36)),
        ("keyword.operator", plain),
        ("keyword", colour(35)),
        ("storage", colour(35)),
        ("entity.name.function", colour(34)),
        ("support.function", colour(34)),
        ("entity.name.tag", colour(34)),
        ("variable.function", colour(34)),
        ("entity.name", colour(33)),
        ("support.type", colour(33)),
        ("support.class", colour(33)),
        ("entity.other.attribute-name", colour(33)),
        ("markup.heading", Look { bold: true, ..plain }),
        ("markup.inserted", colour(32)),
        ("markup.deleted", colour(31)),
    ];
    looks.iter().map(|(name, look)| (Scope::new(name).expect("a name of a scope"), *look)).collect()
});

/// A block of code that grows: lines already coloured are not looked at again.
#[derive(Default)]
pub struct Code {
    language: String,
    lines: Vec<Done>,
}

struct Done {
    text: String,
    spans: Line,
    after: Option<(ParseState, ScopeStack)>,
}

impl Code {
    /// The lines of `text`. What is in no language known here stays as it is.
    pub fn lines(&mut self, language: &str, text: &str) -> Vec<Line> {
        if self.language != language {
            *self = Code { language: language.to_string(), lines: vec![] };
        }
        let same = self.lines.iter().zip(text.lines()).take_while(|(done, line)| done.text == *line).count();
        self.lines.truncate(same);
        for line in text.lines().skip(same) {
            let before = match self.lines.last() {
                Some(done) => done.after.clone(),
                None => grammar(language).map(|grammar| (ParseState::new(grammar), ScopeStack::new())),
            };
            let (spans, after) = coloured(line, before);
            self.lines.push(Done { text: line.to_string(), spans, after });
        }
        self.lines.iter().map(|done| done.spans.clone()).collect()
    }
}

fn grammar(language: &str) -> Option<&'static SyntaxReference> {
    let name = language.split([',', ' ', '{']).next().unwrap_or_default();
    // Names models use that the grammars lack; the nearest relative serves.
    let name = match name.to_ascii_lowercase().as_str() {
        "" | "text" | "plain" | "txt" => return None,
        "typescript" | "ts" | "jsx" | "tsx" | "mjs" => "js".to_string(),
        "shell" | "console" | "zsh" | "shell-session" => "sh".to_string(),
        "c++" => "cpp".to_string(),
        "golang" => "go".to_string(),
        "python3" | "py3" => "py".to_string(),
        other => other.to_string(),
    };
    GRAMMARS.find_syntax_by_token(&name)
}

/// One line, and the state behind it. A grammar that fails gives up on the block, not on the answer.
fn coloured(line: &str, state: Option<(ParseState, ScopeStack)>) -> (Line, Option<(ParseState, ScopeStack)>) {
    let plain = || (vec![Span::plain(line)], None);
    let Some((mut state, mut stack)) = state else { return plain() };
    let Ok(changes) = state.parse_line(&format!("{line}\n"), &GRAMMARS) else { return plain() };
    let (mut spans, mut from) = (Line::new(), 0);
    for (at, change) in changes {
        push(&mut spans, line, from..at, look(&stack));
        from = at.min(line.len());
        if stack.apply(&change).is_err() {
            return plain();
        }
    }
    push(&mut spans, line, from..line.len(), look(&stack));
    (spans, Some((state, stack)))
}

fn push(spans: &mut Line, line: &str, range: std::ops::Range<usize>, look: Look) {
    let text = &line[range.start.min(line.len())..range.end.min(line.len())];
    match spans.last_mut().filter(|last| last.look == look) {
        _ if text.is_empty() => {}
        Some(last) => last.text.push_str(text),
        None => spans.push(Span::new(text, look)),
    }
}

/// Of the innermost scope that has looks.
fn look(stack: &ScopeStack) -> Look {
    let of = |scope: &Scope| LOOKS.iter().find(|(prefix, _)| prefix.is_prefix_of(*scope)).map(|(_, look)| *look);
    stack.as_slice().iter().rev().find_map(of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_code_looks_as_if_it_had_come_whole() {
        let text = "fn main() {\n    let s = \"words\"; // said\n    /* over\n two lines */ let n = 0x1f;\n}\n";
        let whole = Code::default().lines("rust", text);
        let mut growing = Code::default();
        let mut last = vec![];
        for end in 1..=text.len() {
            last = growing.lines("rust", &text[..end]);
        }
        assert_eq!(last, whole);
        let find = |part: &str| {
            let all = whole.iter().flatten();
            all.clone().find(|span| span.text.contains(part)).unwrap_or_else(|| panic!("no {part}: {whole:?}")).look
        };
        assert_eq!((find("words").colour, find("let").colour, find("0x1f").colour), (32, 35, 36));
        assert!(find("said").dim && find("two lines").dim, "a comment goes on over lines");
    }

    #[test]
    fn an_unknown_language_stays_plain() {
        for language in ["", "klingon", "text"] {
            assert_eq!(Code::default().lines(language, "let x = 1;\n"), [[Span::plain("let x = 1;")]]);
        }
    }
}
