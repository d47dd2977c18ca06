//! Where the time of a run goes, as Chrome's trace events: a file that Perfetto (ui.perfetto.dev) and chrome://tracing open.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Beyond this a timeline is cut: no viewer opens a longer one. About ten thousand tokens of a model of 32 layers.
const MOST_BYTES: u64 = 512 << 20;

/// Spans of time, written as they end. One that contains others is shown above them.
pub struct Timeline {
    started: Instant,
    path: PathBuf,
    out: Mutex<Out>,
}

/// Spans that are written together: to note one must take no time to speak of, for it is nobody's.
const TOGETHER: usize = 1 << 16;

struct Span {
    name: &'static str,
    from: Duration,
    took: Duration,
    tokens: Option<usize>,
}

struct Out {
    spans: Vec<Span>,
    file: BufWriter<File>,
    bytes: u64,
    state: State,
}

impl Out {
    fn write(&mut self) {
        let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
        for Span { name, from, took, tokens } in self.spans.drain(..) {
            if !matches!(self.state, State::Open) {
                continue;
            }
            let args = tokens.map_or(String::new(), |tokens| format!(",\"args\":{{\"tokens\":{tokens}}}"));
            let event = format!(
                ",\n{{\"name\":{name:?},\"ph\":\"X\",\"pid\":1,\"tid\":1,\"ts\":{:.3},\"dur\":{:.3}{args}}}",
                micros(from),
                micros(took)
            );
            self.bytes += event.len() as u64;
            if self.bytes > MOST_BYTES {
                self.state = State::Full;
            } else if let Err(e) = self.file.write_all(event.as_bytes()) {
                self.state = State::Failed(e);
            }
        }
    }
}

enum State {
    Open,
    /// It has its last bracket.
    Ended,
    Full,
    Failed(std::io::Error),
}

impl Timeline {
    pub fn create(path: &Path) -> Result<Timeline> {
        let failed = |e| Error::Usage(format!("{}: cannot be written: {e}", path.display()));
        let mut file = BufWriter::new(File::create(path).map_err(failed)?);
        let head = "[\n{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":1,\"args\":{\"name\":\"thermocline\"}},\n\
                    {\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":1,\"args\":{\"name\":\"model\"}}";
        file.write_all(head.as_bytes()).map_err(failed)?;
        let out = Out { spans: Vec::with_capacity(TOGETHER), file, bytes: head.len() as u64, state: State::Open };
        Ok(Timeline { started: Instant::now(), path: path.to_path_buf(), out: Mutex::new(out) })
    }

    /// Something called `name` took so long; `tokens` were computed in it, if that says something.
    pub fn span(&self, name: &'static str, from: Instant, took: Duration, tokens: Option<usize>) {
        let from = from.saturating_duration_since(self.started);
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.spans.push(Span { name, from, took, tokens });
        if out.spans.len() == TOGETHER {
            out.write();
        }
    }

    /// Writes the rest of the file. The answer is a note where it holds less than what was run. Doing it twice does nothing.
    pub fn finish(&self) -> Result<Option<String>> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |e: std::io::Error| Error::Runtime(format!("{}: cannot be written: {e}", self.path.display()));
        out.write();
        match std::mem::replace(&mut out.state, State::Ended) {
            State::Ended => Ok(None),
            State::Failed(e) => Err(failed(e)),
            state => {
                out.file.write_all(b"\n]\n").and_then(|()| out.file.flush()).map_err(failed)?;
                let cut = format!(
                    "{} ends after {} MiB; what came later is not in it",
                    self.path.display(),
                    MOST_BYTES >> 20
                );
                Ok(matches!(state, State::Full).then_some(cut))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_is_a_list_of_events() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("t.json");
        let timeline = Timeline::create(&path).expect("creates");
        timeline.span("gate", timeline.started + Duration::from_micros(5), Duration::from_nanos(1500), None);
        timeline.span("token", timeline.started, Duration::from_micros(9), Some(1));
        assert_eq!(timeline.finish().expect("writes"), None);
        timeline.span("late", timeline.started, Duration::ZERO, None);
        assert_eq!(timeline.finish().expect("twice is once"), None);
        let text = std::fs::read_to_string(&path).expect("reads");
        let events: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
        assert_eq!(events.len(), 4);
        assert_eq!(
            (&events[2]["name"], &events[2]["ts"], &events[2]["dur"]),
            (&"gate".into(), &5.0.into(), &1.5.into())
        );
        assert_eq!(events[3]["args"]["tokens"], 1);
        assert!(matches!(Timeline::create(&folder.path().join("no/such")), Err(Error::Usage(_))));
    }
}
