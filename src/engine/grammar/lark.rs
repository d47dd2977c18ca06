//! Bounds of a grammar in Lark before the library sees it: the library goes down the stack with rules that lead to rules,
//! with brackets and with the schemas inside, and a stack that ends takes the process with it.

use super::schema::{Named, follow};
use super::{Error, MOST_DEPTH, MOST_MET, Result};
use serde_json::Value;

/// The depths of all rules that name others, together: whatever way leads through them is no longer.
const MOST_LINKS: usize = 2_000;
/// Brackets inside brackets, of which a grammar that was translated has more than the one it was made from.
const MOST_NEST: usize = 4 * MOST_DEPTH;

/// Errors (usage): rules or schemas that go too deep. What is no Lark passes, for the library to say so.
pub fn check(text: &str) -> Result<()> {
    let mut rule = Rule::default();
    let (mut links, mut ands, mut named) = (0, 0, Named::default());
    let mut rest = text;
    while let Some(token) = next(&mut rest) {
        match token {
            Token::Open => rule.open()?,
            Token::Close => rule.depth = rule.depth.saturating_sub(1),
            Token::Name => rule.names += 1,
            // Its own name stands before it: so the last name of the rule before is this one's.
            Token::Colon => links += std::mem::take(&mut rule).links(),
            Token::And => ands += 1,
            Token::Schema(value) => follow(&value, &mut named)?,
            Token::Other => {}
        }
    }
    if ands > MOST_MET {
        return Err(Error::Usage(format!("the grammar has more than {MOST_MET} `&`")));
    }
    match links + rule.links() > MOST_LINKS {
        true => Err(Error::Usage(format!(
            "the grammar has too many rules that lead to others: their depths together are more than {MOST_LINKS}"
        ))),
        false => Ok(()),
    }
}

/// What stands between two colons.
#[derive(Default)]
struct Rule {
    depth: usize,
    deepest: usize,
    names: usize,
}

impl Rule {
    fn open(&mut self) -> Result<()> {
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        match self.deepest > MOST_NEST {
            true => Err(Error::Usage(format!("the grammar nests brackets more than {MOST_NEST} deep"))),
            false => Ok(()),
        }
    }

    /// How deep it can lead on. The last name is that of the rule after it.
    fn links(&self) -> usize {
        if self.names > 1 { 1 + self.deepest } else { 0 }
    }
}

enum Token {
    Open,
    Close,
    Name,
    Colon,
    And,
    Schema(Value),
    Other,
}

/// The next token, as the library's lexer cuts them as far as it matters here. `None` at the end, and where it would stop.
fn next(rest: &mut &str) -> Option<Token> {
    let (token, length) = token(rest)?;
    *rest = &rest[length..];
    Some(token)
}

fn token(text: &str) -> Option<(Token, usize)> {
    let first = text.chars().next()?;
    let line = || text.find('\n').unwrap_or(text.len());
    Some(match first {
        '(' | '[' | '{' => (Token::Open, 1),
        ')' | ']' | '}' => (Token::Close, 1),
        ':' if text.starts_with("::") => (Token::Other, 2),
        ':' => (Token::Colon, 1),
        '&' => (Token::And, 1),
        '#' => (Token::Other, line()),
        '/' if text.starts_with("//") => (Token::Other, line()),
        '"' | '/' => (Token::Other, quoted(text)?),
        '<' => {
            let end =
                text.find(|c: char| c == '>' || c.is_ascii_whitespace()).filter(|end| text[*end..].starts_with('>'));
            (Token::Other, end? + 1)
        }
        '%' => {
            let word = text[1..].find(|c: char| !c.is_ascii_alphabetic()).map_or(text.len(), |end| end + 1);
            match &text[..word] {
                "%json" | "%regex" | "%llguidance" => {
                    let mut values = serde_json::Deserializer::from_str(&text[word..]).into_iter::<Value>();
                    let value = values.next()?.ok()?;
                    let end = word + values.byte_offset();
                    (if &text[..word] == "%json" { Token::Schema(value) } else { Token::Other }, end)
                }
                _ => (Token::Other, word),
            }
        }
        c if is_name(c) => (Token::Name, text.find(|c| !is_name(c)).unwrap_or(text.len())),
        c => (Token::Other, c.len_utf8()),
    })
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// The length of a text in quotes or of a pattern between slashes.
fn quoted(text: &str) -> Option<usize> {
    let mut letters = text.bytes().enumerate();
    let (_, quote) = letters.next()?;
    while let Some((at, byte)) = letters.next() {
        match byte {
            b'\\' => drop(letters.next()?),
            _ if byte == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> bool {
        check(text).is_err()
    }

    #[test]
    fn chains_of_rules_have_an_end() {
        let chain = |n: usize, body: &str| -> String {
            let rules = (0..n).map(|at| format!("r{at}: {}\n", body.replace('@', &format!("r{}", at + 1))));
            format!("start: r0\n{}r{n}: \"a\"\n", rules.collect::<String>())
        };
        assert!(!refused(&chain(900, "\"x\" @")) && refused(&chain(2_500, "\"x\" @")));
        assert!(!refused(&chain(200, "((@ | \"y\") \"z\")?")) && refused(&chain(700, "((@ | \"y\") \"z\")?")));
        // Rules that lead nowhere are as many as there are.
        assert!(!refused(&chain(20_000, "/a:b/")) && !refused(&chain(20_000, "\"a: b: \\\" c:\"")));
        assert!(refused(&format!("start: {}\"a\"{}", "(".repeat(500), ")".repeat(500))));
    }

    #[test]
    fn schemas_inside_are_schemas() {
        let chain = |n: usize| {
            let steps: Vec<String> =
                (0..n).map(|at| format!("\"a{at}\": {{\"items\": {{\"$ref\": \"#/$defs/a{}\"}}}}", at + 1)).collect();
            format!("start: %json {{\"$ref\": \"#/$defs/a0\", \"$defs\": {{{}, \"a{n}\": true}}}}", steps.join(", "))
        };
        assert!(!refused(&chain(50)) && refused(&chain(1_000)));
    }

    #[test]
    fn what_multiplies_is_bounded() {
        let ands = |n: usize| format!("start: A\nA: {}/a/", "/.*a.{9}b.*/ & ".repeat(n));
        assert!(!refused(&ands(8)) && refused(&ands(9)));
        let patterns = |n: usize| (0..n).map(|at| format!("{{\"pattern\": \"a{at}\"}}")).collect::<Vec<_>>().join(", ");
        let schema = |n: usize, with: &str| format!("start: %json {{\"{with}\": [{}]}}", patterns(n));
        assert!(!refused(&schema(8, "allOf")) && refused(&schema(9, "allOf")) && !refused(&schema(9, "anyOf")));
        let referred = |n: usize| {
            format!(
                "start: %json {{\"$ref\": \"#/$defs/a\", \"pattern\": \"x\", \"$defs\": {{\"a\": {{\"allOf\": [{}]}}}}}}",
                patterns(n)
            )
        };
        assert!(!refused(&referred(7)) && refused(&referred(8)));
        // Texts that are not the same have patterns of their own, wherever they are written down.
        let fields =
            |n: usize| (0..n).map(|at| format!("\"p{at}\": {{\"pattern\": \"a\"}}")).collect::<Vec<_>>().join(", ");
        let object = |n: usize| format!("{{\"properties\": {{{}}}}}", fields(n));
        let described = format!("{{\"$ref\": \"#/$defs/a\", \"title\": \"a\", \"$defs\": {{\"a\": {}}}}}", object(50));
        assert!(!refused(&format!("start: %json {described}")));
        let all = |n: usize| format!("start: %json {{\"allOf\": [{}]}}", vec![object(30); n].join(", "));
        assert!(!refused(&all(8)) && refused(&all(9)));
    }

    #[test]
    fn what_ends_too_early_is_left_to_the_library() {
        for text in ["start: \"a", "start: /a", "start: %json {", "start: <a", "start: \"é\\", "%", ":", "é"] {
            assert!(!refused(text), "{text}");
        }
    }
}
