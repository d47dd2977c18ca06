//! What the routers chose, written down while a model runs and read back by `cache-sim`.
//!
//! Text, a line for the whole and a line for each layer of each step:
//!
//! ```text
//! {"trace":"thermocline","version":1,"model":"4b","layers":32,"experts":32,"active":4,"expert_bytes":1990656}
//! @1                    a step of one token
//! 5 9 17 30 > 2 7 8     its first layer: the chosen experts, and those a look ahead expects in the next layer
//! 2 7 8 21              its second layer
//! @512                  a step of 512 tokens
//! 0x12 3x500            its first layer: each chosen expert with the number of tokens that chose it
//! ```
//!
//! Expected experts stand likeliest first. A step is written when it is over, whole, so steps of several sessions do not
//! mix.

use super::{Choice, ExpertId};
use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The name by which a file is known to be a trace, and the version of what follows.
const KIND: &str = "thermocline";
const VERSION: u64 = 1;

/// A trace is read into memory whole, so writing stops here: about 30,000 tokens of 52 layers with 6 of 64 experts.
pub const MOST_BYTES: u64 = 64 << 20;
/// No step has more tokens.
const MOST_TOKENS: u64 = 1 << 30;
/// Layers and experts of a layer fit their ids.
const MOST_IDS: u64 = 1 << 16;

/// What a trace is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub model: String,
    pub layers: usize,
    /// In each layer, and chosen by each token.
    pub experts: usize,
    pub active: usize,
    /// Bytes of one expert's three matrices.
    pub expert_bytes: u64,
}

/// One layer of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Visit {
    /// Chosen experts, ascending, and how many of the step's tokens chose each.
    pub chosen: Vec<(u16, u32)>,
    /// Experts a look ahead expects in the next layer, likeliest first.
    pub expected: Vec<u16>,
}

/// All layers of one forward pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub tokens: u32,
    pub visits: Vec<Visit>,
}

/// A trace in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    pub header: Header,
    pub steps: Vec<Step>,
}

impl Visit {
    /// `expected`: of the next layer, likeliest first.
    pub fn new(choice: &Choice, expected: &[ExpertId]) -> Visit {
        Visit { chosen: choice.counts(), expected: expected.iter().map(|id| id.index).collect() }
    }

    /// What was chosen, in a layer.
    pub fn ids(&self, layer: usize) -> impl Iterator<Item = ExpertId> + '_ {
        self.chosen.iter().map(move |&(index, _)| ExpertId { layer: layer as u16, index })
    }
}

/// Writes a trace while a model runs.
pub struct Recorder {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    out: BufWriter<File>,
    written: u64,
    left_out: u64, // steps
    failed: Option<std::io::Error>,
}

impl Recorder {
    /// Begins the file at `path`; what was there is lost.
    pub fn create(path: &Path, header: &Header) -> Result<Recorder> {
        let failed = |e| Error::Usage(format!("the trace {} cannot be written: {e}", path.display()));
        let mut out = BufWriter::new(File::create(path).map_err(failed)?);
        let line = format!("{}\n", header.to_json());
        out.write_all(line.as_bytes()).map_err(failed)?;
        let state = State { out, written: line.len() as u64, left_out: 0, failed: None };
        Ok(Recorder { path: path.to_path_buf(), state: Mutex::new(state) })
    }

    /// Adds a step. What cannot be written is said by [`Recorder::finish`]: a trace must not disturb an answer.
    pub fn add(&self, step: &Step) {
        let text = step.to_text();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.left_out > 0 || state.written + text.len() as u64 > MOST_BYTES {
            state.left_out += 1;
        } else if state.failed.is_none() {
            state.written += text.len() as u64;
            state.failed = state.out.write_all(text.as_bytes()).err();
        }
    }

    /// Writes out what is still buffered. The answer is a note where the trace holds less than what was run.
    pub fn finish(&self) -> Result<Option<String>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let flushed = state.out.flush();
        if let Err(e) = state.failed.take().map_or(flushed, Err) {
            return Err(Error::Runtime(format!("the trace {} could not be written whole: {e}", self.path.display())));
        }
        Ok((state.left_out > 0).then(|| {
            format!(
                "trace: {} holds {MOST_BYTES} bytes at most, so the last {} steps are not in it",
                self.path.display(),
                state.left_out
            )
        }))
    }
}

impl Header {
    fn to_json(&self) -> Value {
        json!({
            "trace": KIND, "version": VERSION, "model": self.model, "layers": self.layers, "experts": self.experts,
            "active": self.active, "expert_bytes": self.expert_bytes,
        })
    }

    /// Why a line is no header, in words.
    fn parse(line: &str) -> Result<Header, String> {
        let value: Value = serde_json::from_str(line).map_err(|_| "expected a line of JSON".to_string())?;
        if value["trace"] != KIND {
            return Err(format!("expected \"trace\":\"{KIND}\""));
        }
        if value["version"] != VERSION {
            return Err(format!("expected version {VERSION}, found {}", value["version"]));
        }
        let number = |key: &str, most: u64| match value[key].as_u64() {
            Some(n) if (1..=most).contains(&n) => Ok(n),
            _ => Err(format!("expected \"{key}\" to be a number from 1 to {most}, found {}", value[key])),
        };
        let header = Header {
            model: value["model"].as_str().ok_or("expected \"model\" to be a name")?.to_string(),
            layers: number("layers", MOST_IDS)? as usize,
            experts: number("experts", MOST_IDS)? as usize,
            active: number("active", MOST_IDS)? as usize,
            expert_bytes: number("expert_bytes", 1 << 50)?,
        };
        match header.active > header.experts {
            true => Err(format!("{} of {} experts cannot be active", header.active, header.experts)),
            false => Ok(header),
        }
    }
}

impl Step {
    pub fn new(tokens: usize) -> Step {
        Step { tokens: tokens as u32, visits: Vec::new() }
    }

    fn to_text(&self) -> String {
        let mut text = format!("@{}\n", self.tokens);
        for visit in &self.visits {
            for (i, (id, count)) in visit.chosen.iter().enumerate() {
                let gap = if i == 0 { "" } else { " " };
                let _ = match self.tokens {
                    1 => write!(text, "{gap}{id}"),
                    _ => write!(text, "{gap}{id}x{count}"),
                };
            }
            for (i, id) in visit.expected.iter().enumerate() {
                let _ = write!(text, "{} {id}", if i == 0 { " >" } else { "" });
            }
            text.push('\n');
        }
        text
    }
}

impl Trace {
    /// Reads a trace and checks every line of it.
    pub fn open(path: &Path) -> Result<Trace> {
        let name = path.display();
        let failed = |e: std::io::Error| Error::Usage(format!("the trace {name} cannot be read: {e}"));
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        if bytes > MOST_BYTES {
            return Err(Error::Usage(format!("{name} has {bytes} bytes; a trace has {MOST_BYTES} at most")));
        }
        let mut lines = Vec::new();
        for line in BufReader::new(file).lines() {
            lines.push(line.map_err(failed)?);
        }
        Trace::parse(lines.iter().map(String::as_str))
            .map_err(|(line, why)| Error::Usage(format!("{name} is no trace that can be replayed: line {line}: {why}")))
    }

    /// Errors: the number of the line (from 1), and what is wrong with it.
    fn parse<'a>(mut lines: impl Iterator<Item = &'a str>) -> Result<Trace, (usize, String)> {
        let first = lines.next().ok_or_else(|| (1, "the file is empty".to_string()))?;
        let header = Header::parse(first).map_err(|why| (1, why))?;
        let mut steps: Vec<Step> = Vec::new();
        let mut last = 1;
        for (line, text) in lines.enumerate().map(|(i, text)| (i + 2, text)) {
            let wrong = |why: String| (line, why);
            let open = steps.last_mut().filter(|step| step.visits.len() < header.layers);
            match (open, text.strip_prefix('@')) {
                (None, Some(tokens)) => {
                    let tokens = number(tokens, 1, MOST_TOKENS).map_err(wrong)? as u32;
                    steps.push(Step { tokens, visits: Vec::with_capacity(header.layers) });
                }
                (Some(step), None) => {
                    let visit = Visit::parse(text, step, &header).map_err(wrong)?;
                    step.visits.push(visit);
                }
                (None, None) => return Err(wrong(format!("expected a step, \"@\" and its tokens, found {text:?}"))),
                (Some(step), Some(_)) => {
                    return Err(wrong(format!(
                        "a step begins where layer {} of {} of the one before is expected",
                        step.visits.len(),
                        header.layers
                    )));
                }
            }
            last = line;
        }
        match steps.last() {
            None => Err((last, "there is no step after it".to_string())),
            Some(step) if step.visits.len() < header.layers => {
                Err((last, format!("the last step ends after {} of {} layers", step.visits.len(), header.layers)))
            }
            Some(_) => Ok(Trace { header, steps }),
        }
    }
}

impl Visit {
    fn parse(text: &str, step: &Step, header: &Header) -> Result<Visit, String> {
        let mut parts = text.split('>');
        let most = header.experts as u64 - 1;
        let mut visit = Visit::default();
        for word in parts.next().expect("a split has a first part").split_whitespace() {
            let (id, count) = match (word.split_once('x'), step.tokens) {
                (None, 1) => (word, 1),
                (Some((id, count)), tokens) if tokens > 1 => (id, number(count, 1, u64::from(tokens))? as u32),
                _ => return Err(format!("{word:?} does not suit a step of {} tokens", step.tokens)),
            };
            visit.chosen.push((number(id, 0, most)? as u16, count));
        }
        if let Some(pair) = visit.chosen.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            return Err(format!("experts are expected in ascending order, found {} before {}", pair[0].0, pair[1].0));
        }
        let choices: u64 = visit.chosen.iter().map(|&(_, count)| u64::from(count)).sum();
        let expected = u64::from(step.tokens) * header.active as u64;
        if choices != expected {
            return Err(format!(
                "{} tokens with {} active experts make {expected} choices, found {choices}",
                step.tokens, header.active
            ));
        }
        let expected = parts.next().unwrap_or("").split_whitespace();
        visit.expected = expected.map(|id| Ok(number(id, 0, most)? as u16)).collect::<Result<_, String>>()?;
        if !visit.expected.is_empty() && step.visits.len() + 1 == header.layers {
            return Err("experts are expected in a layer the model does not have".to_string());
        }
        if let Some(more) = parts.next() {
            return Err(format!("one list of expected experts is enough, found another: {more:?}"));
        }
        Ok(visit)
    }
}

fn number(text: &str, least: u64, most: u64) -> Result<u64, String> {
    match text.parse() {
        Ok(n) if (least..=most).contains(&n) => Ok(n),
        _ => Err(format!("a number from {least} to {most} is expected, found {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { model: "a \"b\"".into(), layers: 2, experts: 8, active: 2, expert_bytes: 4096 }
    }

    fn steps() -> Vec<Step> {
        let visit =
            |chosen: &[(u16, u32)], expected: &[u16]| Visit { chosen: chosen.to_vec(), expected: expected.to_vec() };
        vec![
            Step { tokens: 3, visits: vec![visit(&[(0, 3), (1, 1), (7, 2)], &[]), visit(&[(2, 3), (3, 3)], &[])] },
            Step { tokens: 1, visits: vec![visit(&[(0, 1), (6, 1)], &[5, 2, 1]), visit(&[(2, 1), (5, 1)], &[])] },
        ]
    }

    fn written() -> String {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("trace");
        let recorder = Recorder::create(&path, &header()).expect("it can be written");
        steps().iter().for_each(|step| recorder.add(step));
        assert_eq!(recorder.finish().expect("flushed"), None);
        let read = Trace::open(&path).expect("what was written is a trace");
        assert_eq!(read, Trace { header: header(), steps: steps() });
        std::fs::read_to_string(&path).expect("text")
    }

    #[test]
    fn what_was_written_is_read() {
        let text = written();
        assert!(text.ends_with("\n@3\n0x3 1x1 7x2\n2x3 3x3\n@1\n0 6 > 5 2 1\n2 5\n"), "{text}");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let good = written();
        let broken = |from: &str, to: &str| {
            assert!(good.contains(from), "{from} is not in {good}");
            let text = good.replacen(from, to, 1);
            let (line, why) = Trace::parse(text.lines()).expect_err(&text);
            format!("{line}: {why}")
        };
        for (from, to, words) in [
            ("\"thermocline\"", "\"other\"", "1: expected \"trace\""),
            ("\"version\":1", "\"version\":9", "1: expected version 1, found 9"),
            ("\"layers\":2", "\"layers\":0", "1: expected \"layers\" to be a number from 1"),
            ("\"active\":2", "\"active\":9", "1: 9 of 8 experts"),
            ("{", "", "1: expected a line of JSON"),
            ("@3", "@0", "2: a number from 1"),
            ("@3", "3", "2: expected a step"),
            ("0x3 1x1", "0x3 x1", "3: a number from 0 to 7 is expected, found \"\""),
            ("7x2", "8x2", "3: a number from 0 to 7"),
            ("7x2", "7x1", "3: 3 tokens with 2 active experts make 6 choices, found 5"),
            ("7x2", "7", "3: \"7\" does not suit a step of 3 tokens"),
            ("0 6", "6 0", "6: experts are expected in ascending order"),
            ("0 6", "0 0", "6: experts are expected in ascending order"),
            ("0 6", "0x1 6x1", "6: \"0x1\" does not suit"),
            ("> 5", "> 8", "6: a number from 0 to 7"),
            ("> 5", "> 1 > 5", "6: one list of expected experts is enough"),
            ("\n2 5\n", "\n2 5 > 1\n", "7: experts are expected in a layer the model does not have"),
            ("\n2 5\n", "\n", "6: the last step ends after 1 of 2 layers"),
            ("2x3 3x3\n", "", "4: a step begins where layer 1 of 2"),
        ] {
            let found = broken(from, to);
            assert!(found.contains(words), "{from} -> {to}: {found}");
        }
        let head = good.lines().next().expect("a first line");
        assert_eq!(Trace::parse([head].into_iter()).expect_err("no step"), (1, "there is no step after it".into()));
        assert_eq!(Trace::parse([].into_iter()).expect_err("nothing").0, 1);
    }

    #[test]
    fn a_full_trace_says_what_is_missing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let recorder = Recorder::create(&folder.path().join("trace"), &header()).expect("it can be written");
        recorder.state.lock().expect("no thread has failed").written = MOST_BYTES - 5;
        steps().iter().chain(&steps()).for_each(|step| recorder.add(step));
        let note = recorder.finish().expect("flushed").expect("a note");
        assert!(note.contains("the last 4 steps are not in it"), "{note}");
    }
}
