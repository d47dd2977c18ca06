//! Bounds where a template's few bytes could ask for any amount of memory in one instruction, which fuel does not see: a
//! width or a count given as a number, a text put in place of another, the rendered text itself.

use minijinja::value::{Rest, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};
use minijinja_contrib::pycompat::unknown_method_callback;
use std::io::{self, Write};

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
            _ => {}
        }
        unknown_method_callback(state, value, method, args)
    });
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
