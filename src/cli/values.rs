//! How single values on the command line are read: each refusal is a sentence that says what would do.

use crate::checkpoint;
use crate::engine::PolicyName;
use clap::ValueEnum;
use kernels::attend::KvFormat;

pub use clap_complete::Shell;

/// What safetensors weights become while they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Quant {
    #[value(name = "q4_0")]
    Q4_0,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "f16")]
    F16,
    /// As stored
    #[value(name = "none")]
    Keep,
}

/// Number format of the key/value cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CacheType {
    #[value(name = "f32")]
    F32,
    #[value(name = "f16")]
    F16,
    #[value(name = "q8_0")]
    Q8_0,
}

impl From<Quant> for checkpoint::Quant {
    fn from(quant: Quant) -> checkpoint::Quant {
        match quant {
            Quant::Q4_0 => checkpoint::Quant::Q4_0,
            Quant::Q8_0 => checkpoint::Quant::Q8_0,
            Quant::F16 => checkpoint::Quant::F16,
            Quant::Keep => checkpoint::Quant::None,
        }
    }
}

impl From<CacheType> for KvFormat {
    fn from(format: CacheType) -> KvFormat {
        match format {
            CacheType::F32 => KvFormat::F32,
            CacheType::F16 => KvFormat::F16,
            CacheType::Q8_0 => KvFormat::Q8_0,
        }
    }
}

/// How `bench` prints its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A Markdown table
    Md,
    /// A list of objects
    Json,
    /// Comma-separated values with a header line
    Csv,
}

/// How a server writes its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    /// An object on each line
    Json,
}

/// Most tokens of an answer: a number, or as many as the context holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predict {
    Most(usize),
    UntilFull,
}

/// A list of lengths, `512,2048`; zeros mean "no such row" and are kept for depths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts(pub Vec<usize>);

/// No list of rows or depths is longer than this.
const MOST_COUNTS: usize = 64;

fn whole(text: &str) -> Result<usize, String> {
    text.trim().parse().map_err(|_| "a whole number is expected, like 512".to_string())
}

pub fn length(text: &str) -> Result<usize, String> {
    whole(text)
}

pub fn positive(text: &str) -> Result<usize, String> {
    match whole(text)? {
        0 => Err("at least 1 is expected".to_string()),
        n => Ok(n),
    }
}

pub fn threads(text: &str) -> Result<usize, String> {
    // More threads than any machine has are a slip of the finger, and each would cost a stack.
    const MOST: usize = 4096;
    match whole(text)? {
        0 => Err("at least one thread is needed; leave the flag out to use all cores".to_string()),
        n if n > MOST => Err(format!("at most {MOST} threads are accepted")),
        n => Ok(n),
    }
}

pub use crate::config::size::parse as size;

pub fn policy(text: &str) -> Result<PolicyName, String> {
    text.trim().parse().map_err(|e: crate::error::Error| e.to_string())
}

pub fn loaders(text: &str) -> Result<usize, String> {
    // Reads in flight beyond what any disk gains from; each has a stack.
    const MOST: usize = 256;
    match whole(text)? {
        0 => Err("at least one thread has to read".to_string()),
        n if n > MOST => Err(format!("at most {MOST} threads are accepted")),
        n => Ok(n),
    }
}

/// Answers written at a time, and answers waiting: more than these are a slip of the finger.
const MOST_SLOTS: usize = 256;
const MOST_QUEUE: usize = 65_536;

pub fn slots(text: &str) -> Result<usize, String> {
    match positive(text)? {
        n if n > MOST_SLOTS => Err(format!("at most {MOST_SLOTS} are accepted")),
        n => Ok(n),
    }
}

/// For a request: longer than a year is a slip of the finger, and clocks end somewhere.
pub fn seconds(text: &str) -> Result<usize, String> {
    const YEAR: usize = 365 * 24 * 60 * 60;
    match positive(text)? {
        n if n > YEAR => Err(format!("at most {YEAR} seconds, a year, are accepted")),
        n => Ok(n),
    }
}

/// The same where none at all is a wish too.
pub fn patience(text: &str) -> Result<usize, String> {
    if whole(text)? == 0 { Ok(0) } else { seconds(text) }
}

/// As browsers send it: scheme, host and, unless it is the usual one, port; `null` from pages without an address.
pub fn origin(text: &str) -> Result<String, String> {
    let plain =
        |c: char| c.is_ascii_graphic() && !c.is_ascii_uppercase() && !matches!(c, '/' | '?' | '#' | '@' | ',' | '*');
    let one = text.split_once("://").is_some_and(|(scheme, host)| {
        let usual = if scheme == "https" { ":443" } else { ":80" };
        let named = !scheme.is_empty() && !host.is_empty() && !host.starts_with(':') && !host.ends_with(usual);
        named && scheme.chars().chain(host.chars()).all(plain)
    });
    match one || text == "*" || text == "null" {
        true => Ok(text.to_string()),
        false => Err("expected *, null or one origin as browsers send it: https://example.com, in small letters, \
                      without a / at its end or the usual port"
            .into()),
    }
}

pub fn queue(text: &str) -> Result<usize, String> {
    match whole(text)? {
        n if n > MOST_QUEUE => Err(format!("at most {MOST_QUEUE} are accepted")),
        n => Ok(n),
    }
}

/// `0` stands for everything the model was trained for and is kept as 0.
pub fn context(text: &str) -> Result<usize, String> {
    match whole(text)? {
        1 => Err("a context holds at least 2 positions: a prompt and an answer".to_string()),
        n => Ok(n),
    }
}

/// `LAYER.EXPERT`.
pub fn layer_expert(text: &str) -> Result<(usize, usize), String> {
    let pair =
        text.trim().split_once('.').and_then(|(layer, expert)| Some((layer.parse().ok()?, expert.parse().ok()?)));
    pair.ok_or_else(|| "a layer and an expert are expected, like 3.17".to_string())
}

/// `-1` asks for a new seed each time, like leaving the flag out; it is kept as `u64::MAX`.
pub fn seed(text: &str) -> Result<u64, String> {
    match text.trim() {
        "-1" => Ok(u64::MAX),
        t => t.parse().map_err(|_| "a whole number of at most 64 bits is expected, or -1 for a new one".to_string()),
    }
}

pub fn predict(text: &str) -> Result<Predict, String> {
    match text.trim() {
        "-1" | "-2" => Ok(Predict::UntilFull),
        t => match t.parse() {
            Ok(0) => Err("at least 1 token is expected, or -1 for as many as fit".to_string()),
            Ok(n) => Ok(Predict::Most(n)),
            Err(_) => Err("a whole number is expected, or -1 for as many as fit".to_string()),
        },
    }
}

pub fn finite(text: &str) -> Result<f32, String> {
    match text.trim().parse::<f32>() {
        Ok(x) if x.is_finite() => Ok(x),
        _ => Err("a number is expected, like 0.5".to_string()),
    }
}

pub fn temperature(text: &str) -> Result<f32, String> {
    match finite(text)? {
        x if x < 0.0 => Err("a temperature is 0 (always the likeliest token) or more".to_string()),
        x => Ok(x),
    }
}

pub fn fraction(text: &str) -> Result<f32, String> {
    match finite(text)? {
        x if !(0.0..=1.0).contains(&x) => Err("a number from 0 to 1 is expected".to_string()),
        x => Ok(x),
    }
}

pub fn above_zero(text: &str) -> Result<f32, String> {
    match finite(text)? {
        x if x <= 0.0 => Err("a number above 0 is expected; 1 changes nothing".to_string()),
        x => Ok(x),
    }
}

/// `15043+1`, `15043-0.5`, `15043-inf`.
pub fn bias(text: &str) -> Result<(u32, f32), String> {
    let form = || "a token id, a sign and a number are expected, like 15043+1 or 15043-inf".to_string();
    let sign = text.find(['+', '-']).ok_or_else(form)?;
    let id = text[..sign].trim().parse().map_err(|_| form())?;
    let bias: f32 = text[sign..].trim().parse().map_err(|_| form())?;
    if bias.is_nan() || bias == f32::INFINITY {
        return Err("a bias may be -inf, but neither +inf nor NaN".to_string());
    }
    Ok((id, bias))
}

/// Tokens guessed for one step.
pub fn draft(text: &str) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(n) if n <= 64 => Ok(n),
        _ => Err("a whole number up to 64 is expected; 0 guesses nothing".to_string()),
    }
}

pub fn counts(text: &str) -> Result<Counts, String> {
    let list = text
        .split(',')
        .map(whole)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| "whole numbers separated by commas are expected, like 512 or 128,512".to_string())?;
    if list.len() > MOST_COUNTS {
        return Err(format!("at most {MOST_COUNTS} numbers are accepted"));
    }
    Ok(Counts(list))
}

/// Shares of a whole, `25%,60%`: more than none, at most all.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares(pub Vec<f64>);

pub fn shares(text: &str) -> Result<Shares, String> {
    let share = |text: &str| match text.trim().trim_end_matches('%').parse::<f64>() {
        Ok(x) if x > 0.0 && x <= 100.0 => Ok(x / 100.0),
        _ => Err("percentages above 0 and up to 100 are expected, separated by commas, like 25%,60%".to_string()),
    };
    let list = text.split(',').map(share).collect::<Result<Vec<_>, _>>()?;
    if list.len() > MOST_COUNTS {
        return Err(format!("at most {MOST_COUNTS} shares are accepted"));
    }
    Ok(Shares(list))
}

/// Replaces `\n`, `\t`, `\r`, `\\`, `\"` and `\'` by what they stand for; anything else after a backslash stays.
pub fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match rest.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some(q @ ('\\' | '"' | '\'')) => out.push(q),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bias_takes_an_id_a_sign_and_a_number() {
        assert_eq!(bias("15043+1"), Ok((15043, 1.0)));
        assert_eq!(bias("7-0.5"), Ok((7, -0.5)));
        assert_eq!(bias("7-inf"), Ok((7, f32::NEG_INFINITY)));
        assert_eq!(bias("7-1e-2"), Ok((7, -0.01)));
        for wrong in ["", "7", "+1", "7+", "x+1", "7+inf", "7+nan", "-1+2"] {
            assert!(bias(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_are_refused_in_sentences() {
        assert!(threads("0").unwrap_err().contains("at least one thread"));
        assert!(threads("-3").is_err() && threads("many").is_err() && threads("99999999999999999999").is_err());
        assert_eq!(seed("-1"), Ok(u64::MAX));
        assert_eq!(predict("-1"), Ok(Predict::UntilFull));
        assert_eq!(predict("8"), Ok(Predict::Most(8)));
        assert!(predict("0").is_err());
        assert!(fraction("1.5").is_err() && fraction("nan").is_err());
        assert!(temperature("-1").is_err());
        assert_eq!(shares("25%, 60"), Ok(Shares(vec![0.25, 0.6])));
        assert!(["", "0", "-5%", "101%", "x", "nan", "25%,"].iter().all(|wrong| shares(wrong).is_err()));
        assert_eq!(counts("1,2"), Ok(Counts(vec![1, 2])));
        assert!(counts("1,,2").is_err());
        assert!(counts(&vec!["1"; 65].join(",")).is_err());
    }

    #[test]
    fn escapes_are_the_usual_ones() {
        assert_eq!(unescape(r#"a\nb\t\\n\"\'\q\"#), "a\nb\t\\n\"'\\q\\");
    }
}
