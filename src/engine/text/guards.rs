//! Bounds of what a template may ask for, since it comes with a model file of anybody's: its parser goes down the stack with
//! the words of a tag, and a few bytes can want any amount of memory in one instruction, which fuel does not see (a width or
//! a count given as a number, a text put in place of another, the rendered text itself).

use minijinja::value::{Rest, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};
use minijinja_contrib::pycompat::unknown_method_callback;
use std::io::{self, Write};

/// Words and signs of one tag, and `elif`s of a template.
const MOST_WORDS: usize = 1_000;
const MOST_ELIFS: usize = 200;
/// A width or a count that a template may give a filter.
const MOST_NUMBER: i64 = 10_000;
/// Digits of a width or a precision in a format.
const MOST_DIGITS: usize = 5;
/// Bytes of a rendered text, and of what a replacement makes.
pub const MOST_TEXT: usize = 64 << 20;

type Outcome = Result<Value, Error>;

/// Puts bounds before the filters and methods that need them. Filters of these names are there already.
pub fn guard(environment: &mut Environment<'static>) {
    // No template can write a name with a blank.
    environment.add_filter("plain indent", filters::indent);
    environment.add_filter("plain batch", filters::batch);
    environment.add_filter("plain slice", filters::slice);
    environment.add_filter("plain format", filters::format);
    environment.add_filter("plain replace", filters::replace);
    environment.add_filter("plain join", filters::join);
    environment.add_filter(
        "join",
        guarded("plain join", |args| match args {
            [list, between, ..] => joined(list, between),
            _ => Ok(()),
        }),
    );
    environment.add_filter("indent", guarded("plain indent", numbers));
    environment.add_filter("batch", guarded("plain batch", numbers));
    environment.add_filter("slice", guarded("plain slice", numbers));
    environment.add_filter("format", guarded("plain format", widths));
    environment.add_filter("replace", guarded("plain replace", replacement));
    environment.set_unknown_method_callback(|state: &mut State, value: &Value, method: &str, args: &[Value]| {
        let all = [std::slice::from_ref(value), args].concat();
        match method {
            "format" => widths(&all)?,
            "replace" => replacement(&all)?,
            "join" if !args.is_empty() => joined(&args[0], value)?,
            _ => {}
        }
        unknown_method_callback(state, value, method, args)
    });
}

/// Errors: what of a template goes too deep for whoever parses it.
pub fn check(source: &str) -> Result<(), String> {
    let (mut rest, mut elifs, mut balance) = (source, 0, 0);
    while let Some(at) = rest.find('{') {
        rest = &rest[at + 1..];
        let Some(kind) = rest.chars().next() else { break };
        let until = |end: &str, text: &'_ str| text.find(end).map_or(text.len(), |at| at + end.len());
        rest = match kind {
            '#' => &rest[until("#}", rest)..],
            '%' if rest[1..].trim_start_matches(['-', '+', ' ', '\t', '\r', '\n']).starts_with("raw") => {
                &rest[until("endraw", rest)..]
            }
            '%' => tag(&rest[1..], "%}", &mut balance, &mut elifs)?,
            '{' => tag(&rest[1..], "}}", &mut balance, &mut elifs)?,
            _ => rest,
        };
    }
    Ok(())
}

/// Counts the words of a tag and gives what comes after it. As the parser has it, no tag ends in brackets.
fn tag<'a>(text: &'a str, end: &str, balance: &mut isize, elifs: &mut usize) -> Result<&'a str, String> {
    let mut rest = text;
    let mut words = 0;
    while let Some(first) = rest.chars().next() {
        if *balance == 0 && rest.strip_prefix(['-', '+']).unwrap_or(rest).starts_with(end) {
            return Ok(rest);
        }
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let length = match first {
            '\'' | '"' => quoted(rest, first),
            c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        match first {
            '(' | '[' | '{' => *balance += 1,
            ')' | ']' | '}' => *balance -= 1,
            _ => {}
        }
        *elifs += usize::from(&rest[..length] == "elif");
        words += usize::from(!first.is_whitespace());
        if words > MOST_WORDS {
            return Err(format!("a tag has more than {MOST_WORDS} words"));
        }
        if *elifs > MOST_ELIFS {
            return Err(format!("there are more than {MOST_ELIFS} `elif`s"));
        }
        rest = &rest[length..];
    }
    Ok(rest)
}

/// The length of a text in quotes.
fn quoted(text: &str, quote: char) -> usize {
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => drop(letters.next()),
            _ if letter == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn guarded(
    plain: &'static str,
    check: fn(&[Value]) -> Result<(), Error>,
) -> impl Fn(&mut State, Rest<ValueOrKwargs>) -> Outcome + Send + Sync + 'static {
    move |state: &mut State, args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        check(&args)?;
        state.apply_filter(plain, &args)
    }
}

fn too_much(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

/// No number after the first argument is too large, by its name or without one.
pub fn numbers(args: &[Value]) -> Result<(), Error> {
    let small = |value: &Value| match value.as_i64() {
        Some(n) if n > MOST_NUMBER => Err(too_much(format!("{n} is more than {MOST_NUMBER}"))),
        None if value.is_number() && !value.is_integer() => Ok(()),
        None if value.is_number() => Err(too_much(format!("{value} is more than {MOST_NUMBER}"))),
        _ => Ok(()),
    };
    for value in args.iter().skip(1) {
        small(value)?;
        if value.is_kwargs() {
            value.try_iter()?.try_for_each(|name| small(&value.get_item(&name)?))?;
        }
    }
    Ok(())
}

/// No width or precision in a format is too large. Digits that stand for themselves may be as many as there are.
fn widths(args: &[Value]) -> Result<(), Error> {
    let Some(format) = args.first().and_then(Value::as_str) else { return Ok(()) };
    let is_width = |before: &str| {
        before.trim_end_matches(['#', '-', '+', ' ']).ends_with('%')
            || before.trim_end_matches(['#', '-', '+']).ends_with(['.', ':', '<', '>', '^', '=', ')', ',', '_'])
    };
    let mut at = 0;
    for number in format.split_inclusive(|c: char| !c.is_ascii_digit()) {
        let digits = number.bytes().take_while(u8::is_ascii_digit).count();
        if digits > MOST_DIGITS && is_width(&format[..at]) {
            return Err(too_much(format!("a format asks for a width of {digits} digits")));
        }
        at += number.len();
    }
    Ok(())
}

/// What comes of a replacement is not too long.
fn replacement(args: &[Value]) -> Result<(), Error> {
    let [Some(text), Some(from), Some(to)] = [0, 1, 2].map(|at| args.get(at).and_then(Value::as_str)) else {
        return Ok(());
    };
    if to.len() <= from.len() || text.len().saturating_add(1).saturating_mul(to.len()) <= MOST_TEXT {
        return Ok(());
    }
    match text.matches(from).count().saturating_mul(to.len()).saturating_add(text.len()) > MOST_TEXT {
        true => Err(too_much("a replacement makes a text too long")),
        false => Ok(()),
    }
}

/// What comes of joining is not too long.
fn joined(list: &Value, between: &Value) -> Result<(), Error> {
    let between = between.as_str().map_or(0, str::len);
    let mut length = 0usize;
    let mut add = |more: usize| {
        length = length.saturating_add(more).saturating_add(between);
        if length > MOST_TEXT { Err(too_much("joining makes a text too long")) } else { Ok(()) }
    };
    match list.as_str() {
        Some(text) => text.chars().try_for_each(|letter| add(letter.len_utf8())),
        // What cannot be gone through is for the filter to say.
        None => list
            .try_iter()
            .map_or(Ok(()), |mut items| items.try_for_each(|item| add(item.as_str().map_or(0, str::len)))),
    }
}

/// Takes a rendered text up to its limit.
#[derive(Default)]
pub struct Page(pub Vec<u8>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_TEXT {
            return Err(io::Error::other(format!("the text is longer than {} MiB", MOST_TEXT >> 20)));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
