//! GBNF, llama.cpp's notation for grammars, as Lark, which the library reads.
//!
//! Lark tells rules from terminals: a terminal is one regular expression, matched as far as it goes. A rule that leads
//! back to no rule on its own way is regular, so it becomes a terminal; all others stay rules.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Rules of one grammar, and repetitions of one element.
const MOST_RULES: usize = 5_000;
const MOST_TIMES: usize = 2_000;
/// Bytes of the terminals once the rules they name are written out inside them.
const MOST_TERMINAL: usize = 256 << 10;
/// Bytes of the whole grammar as Lark.
const MOST_LARK: usize = 1 << 20;
/// Repetitions of a repetition.
const MOST_REPEATED: usize = 8;

/// What stands on the right of a rule.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    /// Alternatives.
    Any(Vec<Node>),
    /// One after the other; none: nothing.
    All(Vec<Node>),
    Text(String),
    /// A regular expression for one character.
    Class(String),
    Rule(String),
    /// At least, and at most if there is such a limit.
    Repeat(Box<Node>, usize, Option<usize>),
}

/// Errors (usage): what is no GBNF, by line.
pub fn to_lark(text: &str) -> Result<String> {
    let rules = Reader { rest: text.chars().collect(), at: 0 }.rules()?;
    let Some(root) = rules.get("root") else {
        return Err(Error::Usage("the grammar has no rule `root`, where GBNF begins".into()));
    };
    for node in rules.values() {
        known(node, &rules)?;
    }
    let at = rules.keys().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
    let mut writer = Writer { rules: &rules, at, regular: BTreeMap::new() };
    for name in rules.keys() {
        writer.is_regular(name, &mut Vec::new());
    }
    let mut out = String::from("start: ");
    writer.rule(root, &mut out)?;
    out.push('\n');
    for (at, (name, node)) in rules.iter().enumerate() {
        if !writer.regular[name] {
            let _ = write!(out, "rule_{at}: ");
            writer.rule(node, &mut out)?;
            out.push('\n');
        }
    }
    Ok(out)
}

/// Every rule that is named is there.
fn known(node: &Node, rules: &BTreeMap<String, Node>) -> Result<()> {
    match node {
        Node::Any(nodes) | Node::All(nodes) => nodes.iter().try_for_each(|node| known(node, rules)),
        Node::Repeat(node, ..) => known(node, rules),
        Node::Rule(name) if !rules.contains_key(name) => {
            Err(Error::Usage(format!("the grammar names a rule `{name}` that it does not have")))
        }
        _ => Ok(()),
    }
}

struct Writer<'a> {
    rules: &'a BTreeMap<String, Node>,
    /// Of each rule: its number.
    at: BTreeMap<&'a str, usize>,
    /// Of each rule: whether it is regular.
    regular: BTreeMap<String, bool>,
}

impl Writer<'_> {
    /// `way`: the rules on the way here.
    fn is_regular(&mut self, name: &str, way: &mut Vec<String>) -> bool {
        if let Some(&known) = self.regular.get(name) {
            return known;
        }
        if way.iter().any(|before| before == name) || way.len() > 64 {
            return false;
        }
        way.push(name.to_string());
        let regular = self.node_is_regular(&self.rules[name].clone(), way);
        way.pop();
        // What was found to be regular is so by any way; the contrary may be due to a rule on this one, and then that one
        // is not regular either, nor what leads to it.
        if regular || way.is_empty() {
            self.regular.insert(name.to_string(), regular);
        }
        regular
    }

    fn node_is_regular(&mut self, node: &Node, way: &mut Vec<String>) -> bool {
        match node {
            Node::Any(nodes) | Node::All(nodes) => nodes.iter().all(|node| self.node_is_regular(node, way)),
            Node::Repeat(node, ..) => self.node_is_regular(node, way),
            Node::Rule(name) => self.is_regular(name, way),
            Node::Text(_) | Node::Class(_) => true,
        }
    }

    fn regular_now(&self, node: &Node) -> bool {
        match node {
            Node::Any(nodes) | Node::All(nodes) => nodes.iter().all(|node| self.regular_now(node)),
            Node::Repeat(node, ..) => self.regular_now(node),
            Node::Rule(name) => self.regular[name],
            Node::Text(_) | Node::Class(_) => true,
        }
    }

    /// As part of a rule. What is regular goes in as one terminal, if it cannot be empty: a terminal never is.
    fn rule(&self, node: &Node, out: &mut String) -> Result<()> {
        if out.len() > MOST_LARK {
            let kib = MOST_LARK >> 10;
            return Err(Error::Usage(format!("the grammar is longer than {kib} KiB when its rules are written out")));
        }
        if self.regular_now(node) {
            let mut pattern = String::new();
            self.pattern(node, &mut pattern)?;
            match (pattern.is_empty(), self.may_be_empty(node)) {
                (true, _) => out.push_str("\"\""),
                (false, true) => out.extend(["(/", &pattern, "/ | \"\")"]),
                (false, false) => out.extend(["/", &pattern, "/"]),
            }
            return Ok(());
        }
        match node {
            Node::Any(nodes) => self.joined(nodes, " | ", out),
            Node::All(nodes) => self.joined(nodes, " ", out),
            Node::Repeat(node, least, most) => {
                self.joined(std::slice::from_ref(node), "", out)?;
                out.push_str(&times(*least, *most));
                Ok(())
            }
            Node::Rule(name) => {
                write!(out, "rule_{}", self.at[name.as_str()]).expect("a string takes everything");
                Ok(())
            }
            Node::Text(_) | Node::Class(_) => unreachable!("these are regular"),
        }
    }

    fn joined(&self, nodes: &[Node], between: &str, out: &mut String) -> Result<()> {
        out.push('(');
        for (at, node) in nodes.iter().enumerate() {
            if at > 0 {
                out.push_str(between);
            }
            self.rule(node, out)?;
        }
        out.push(')');
        Ok(())
    }

    fn may_be_empty(&self, node: &Node) -> bool {
        match node {
            Node::Any(nodes) => nodes.iter().any(|node| self.may_be_empty(node)),
            Node::All(nodes) => nodes.iter().all(|node| self.may_be_empty(node)),
            Node::Repeat(node, least, _) => *least == 0 || self.may_be_empty(node),
            Node::Rule(name) => self.may_be_empty(&self.rules[name]),
            Node::Text(text) => text.is_empty(),
            Node::Class(_) => false,
        }
    }

    /// A regular node as a regular expression.
    fn pattern(&self, node: &Node, out: &mut String) -> Result<()> {
        if out.len() > MOST_TERMINAL {
            let kib = MOST_TERMINAL >> 10;
            return Err(Error::Usage(format!("a rule of the grammar is longer than {kib} KiB when it is written out")));
        }
        match node {
            Node::Any(nodes) => {
                out.push_str("(?:");
                for (at, node) in nodes.iter().enumerate() {
                    if at > 0 {
                        out.push('|');
                    }
                    self.pattern(node, out)?;
                }
                out.push(')');
            }
            Node::All(nodes) => {
                for node in nodes {
                    self.pattern(node, out)?;
                }
            }
            Node::Text(text) => text.chars().for_each(|c| out.push_str(&escaped(c))),
            Node::Class(class) => out.push_str(class),
            Node::Rule(name) => self.pattern(&Node::Any(vec![self.rules[name].clone()]), out)?,
            Node::Repeat(node, least, most) => {
                out.push_str("(?:");
                self.pattern(node, out)?;
                out.push(')');
                out.push_str(&times(*least, *most));
            }
        }
        Ok(())
    }
}

fn times(least: usize, most: Option<usize>) -> String {
    match (least, most) {
        (0, None) => "*".into(),
        (1, None) => "+".into(),
        (0, Some(1)) => "?".into(),
        (least, None) => format!("{{{least},}}"),
        (least, Some(most)) => format!("{{{least},{most}}}"),
    }
}

/// A character as it stands for itself in a regular expression, in or out of a class.
fn escaped(c: char) -> String {
    match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | ' ' | '_' => c.to_string(),
        _ => format!("\\x{{{:X}}}", c as u32),
    }
}

/// Reads the notation.
struct Reader {
    rest: Vec<char>,
    at: usize,
}

impl Reader {
    fn rules(mut self) -> Result<BTreeMap<String, Node>> {
        let mut rules = BTreeMap::new();
        self.blank(true);
        while self.peek().is_some() {
            let name = self.name().ok_or_else(|| self.wrong("a rule's name"))?;
            self.blank(false);
            if !self.word("::=") {
                return Err(self.wrong("`::=` after the name of a rule"));
            }
            self.blank(true);
            let node = self.alternatives(0)?;
            if rules.insert(name.clone(), node).is_some() {
                return Err(Error::Usage(format!("the grammar has two rules `{name}`")));
            }
            if rules.len() > MOST_RULES {
                return Err(Error::Usage(format!("the grammar has more than {MOST_RULES} rules")));
            }
            self.blank(true);
        }
        Ok(rules)
    }

    /// `depth`: brackets around. Outside of them a rule ends with its line.
    fn alternatives(&mut self, depth: usize) -> Result<Node> {
        let mut all = vec![self.sequence(depth)?];
        while self.peek() == Some('|') {
            self.at += 1;
            self.blank(true);
            all.push(self.sequence(depth)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Node::Any(all) })
    }

    fn sequence(&mut self, depth: usize) -> Result<Node> {
        let mut all = Vec::new();
        while let Some(node) = self.element(depth)? {
            all.push(self.repeated(node)?);
            self.blank(depth > 0);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Node::All(all) })
    }

    fn element(&mut self, depth: usize) -> Result<Option<Node>> {
        let node = match self.peek() {
            Some('"') => {
                self.at += 1;
                let mut text = String::new();
                while self.peek() != Some('"') {
                    text.push(self.character()?);
                }
                self.at += 1;
                Node::Text(text)
            }
            Some('[') => Node::Class(self.class()?),
            Some('.') => {
                self.at += 1;
                Node::Class("[\\x{0}-\\x{10FFFF}]".into())
            }
            Some('(') => {
                self.at += 1;
                self.blank(true);
                let node = self.alternatives(depth + 1)?;
                if self.peek() != Some(')') {
                    return Err(self.wrong("`)`"));
                }
                self.at += 1;
                node
            }
            Some(c) if is_name(c) => Node::Rule(self.name().expect("it begins here")),
            _ => return Ok(None),
        };
        Ok(Some(node))
    }

    fn repeated(&mut self, node: Node) -> Result<Node> {
        let mut node = node;
        for _ in 0..=MOST_REPEATED {
            self.blank(false);
            let (least, most) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => self.braces()?,
                _ => return Ok(node),
            };
            self.at += 1;
            node = Node::Repeat(Box::new(node), least, most);
        }
        Err(self.wrong(&format!("at most {MOST_REPEATED} repetitions of each other")))
    }

    /// `{m}`, `{m,}` or `{m,n}`; leaves the closing brace.
    fn braces(&mut self) -> Result<(usize, Option<usize>)> {
        self.at += 1;
        let least = self.number()?;
        let most = match self.peek() {
            Some(',') => {
                self.at += 1;
                if self.peek() == Some('}') { None } else { Some(self.number()?) }
            }
            _ => Some(least),
        };
        if self.peek() != Some('}') || most.is_some_and(|most| most < least) {
            return Err(self.wrong("a range of repetitions"));
        }
        Ok((least, most))
    }

    fn number(&mut self) -> Result<usize> {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        let digits: String = self.rest[start..self.at].iter().collect();
        let within = digits.parse().ok().filter(|n| *n <= MOST_TIMES);
        within.ok_or_else(|| self.wrong(&format!("a number of repetitions up to {MOST_TIMES}")))
    }

    fn class(&mut self) -> Result<String> {
        let mut out = String::from("[");
        self.at += 1;
        if self.peek() == Some('^') {
            self.at += 1;
            out.push('^');
        }
        let mut some = false;
        while self.peek() != Some(']') {
            let from = self.character()?;
            out.push_str(&escaped(from));
            some = true;
            if self.peek() == Some('-') && self.rest.get(self.at + 1).is_some_and(|c| *c != ']') {
                self.at += 1;
                let to = self.character()?;
                if to < from {
                    return Err(self.wrong("a range of characters that rises"));
                }
                let _ = write!(out, "-{}", escaped(to));
            }
        }
        if !some {
            return Err(self.wrong("characters between `[` and `]`"));
        }
        self.at += 1;
        out.push(']');
        Ok(out)
    }

    /// One character of a text or a class, its escapes undone.
    fn character(&mut self) -> Result<char> {
        let Some(c) = self.peek() else { return Err(self.wrong("the end of a text or a class")) };
        self.at += 1;
        if c != '\\' {
            return Ok(c);
        }
        let Some(escape) = self.peek() else { return Err(self.wrong("a character after `\\`")) };
        self.at += 1;
        let digits = match escape {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            '"' | '[' | ']' | '\\' | '-' | '^' => return Ok(escape),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => return Err(self.wrong("one of the escapes \\n \\r \\t \\\" \\[ \\] \\\\ \\x \\u \\U")),
        };
        let code: String = self.rest.iter().skip(self.at).take(digits).collect();
        let code = Some(code).filter(|code| code.len() == digits).and_then(|code| u32::from_str_radix(&code, 16).ok());
        let c = code.and_then(char::from_u32).ok_or_else(|| self.wrong("the number of a character"))?;
        self.at += digits;
        Ok(c)
    }

    fn name(&mut self) -> Option<String> {
        let start = self.at;
        while self.peek().is_some_and(is_name) {
            self.at += 1;
        }
        (self.at > start).then(|| self.rest[start..self.at].iter().collect())
    }

    fn word(&mut self, word: &str) -> bool {
        let here = word.chars().enumerate().all(|(i, c)| self.rest.get(self.at + i) == Some(&c));
        self.at += if here { word.chars().count() } else { 0 };
        here
    }

    /// Passes blanks and comments, and ends of lines where these mean nothing.
    fn blank(&mut self, lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => self.at += 1,
                '\r' | '\n' if lines => self.at += 1,
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn wrong(&self, expected: &str) -> Error {
        let line = 1 + self.rest[..self.at.min(self.rest.len())].iter().filter(|c| **c == '\n').count();
        Error::Usage(format!("the grammar is no GBNF: expected {expected} in line {line}"))
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lark(text: &str) -> String {
        to_lark(text).expect("it is GBNF")
    }

    #[test]
    fn what_is_regular_becomes_one_terminal() {
        assert_eq!(lark("root ::= \"yes\" | \"no\""), "start: /(?:yes|no)/\n");
        assert_eq!(
            lark("root ::= \"a\"{2,3} end # a comment\nend ::= [^\\n.-]+\n"),
            "start: /(?:a){2,3}(?:(?:[^\\x{A}\\x{2E}\\x{2D}])+)/\n"
        );
        assert_eq!(lark("root ::= (\n \"a\" |\n \"b\" )? .\n"), "start: /(?:(?:a|b))?[\\x{0}-\\x{10FFFF}]/\n");
    }

    #[test]
    fn what_goes_round_stays_a_rule() {
        let text =
            "root ::= list\nlist ::= \"[\" (item (\", \" item)*)? \"]\"\nitem ::= ws list | [0-9]+ ws\nws ::= [ \\t]*";
        let lark = lark(text);
        assert!(lark.starts_with("start: rule_1\n"), "{lark}");
        assert!(lark.contains("rule_1: (/\\x{5B}/ ((rule_0 "), "{lark}");
        assert!(lark.contains("(/(?:(?:[ \\x{9}])*)/ | \"\")"), "what may be empty is no bare terminal: {lark}");
    }

    #[test]
    fn what_is_no_gbnf_is_refused_by_line() {
        for (text, words) in [
            ("rule ::= \"a\"", "no rule `root`"),
            ("root ::= other", "`other`"),
            ("root ::= \"a\"\n\nroot ::= \"b\"", "two rules"),
            ("root ::= (\"a\"", "`)` in line 1"),
            ("root ::= \"a\n", "the end of a text"),
            ("root ::= \"a\"\nb = c", "`::=` after the name of a rule in line 2"),
            ("root ::= [z-a]", "rises"),
            ("root ::= []", "characters between"),
            ("root ::= \"a\"{3,2}", "range of repetitions"),
            ("root ::= \"a\"{99999}", "up to 2000"),
            ("root ::= \"\\q\"", "escapes"),
            ("root ::= \"\\uD800\"", "number of a character"),
            ("root ::= *", "a rule's name"),
            (&format!("root ::= \"a\"{}", "*".repeat(100_000)), "repetitions of each other"),
            (&format!("root ::= \"x\" root | {}\nb ::= \"{}\"", "b root ".repeat(10_000), "q".repeat(20_000)), "KiB"),
        ] {
            let e = to_lark(text).expect_err(text).to_string();
            assert!(e.contains(words), "{text}: {e}");
        }
    }
}
