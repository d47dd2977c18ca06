//! Bars for what takes time: a download (per file and in all) and the conversion of weights. Drawn on terminals only; elsewhere a
//! line per file is enough for a log.

use super::terminal::{bytes, say, say_note};
use crate::checkpoint::hub::{Event, Progress};
use crate::checkpoint::pack;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Less than this is converted in the blink of an eye.
const WORTH_A_BAR_BYTES: u64 = 64 << 20;

/// A file's bar and the bar of all files show the same columns.
const COLUMNS: &str = "{prefix:32!} [{bar:20}] {decimal_bytes:>9} of {decimal_total_bytes:<9} {msg}";

fn style() -> ProgressStyle {
    ProgressStyle::with_template(COLUMNS).expect("the template is right").progress_chars("=> ")
}

/// A download on the screen.
pub struct Downloading {
    bars: MultiProgress,
    file: Option<ProgressBar>,
    total: Option<ProgressBar>,
    terminal: bool,
}

impl Downloading {
    pub fn new() -> Downloading {
        // Hidden by itself where standard error is not a terminal.
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        Downloading { bars, file: None, total: None, terminal: std::io::stderr().is_terminal() }
    }

    fn bar(&self, name: &str, length: u64, position: u64) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new(length).with_style(style()).with_prefix(name.to_string()));
        bar.set_position(position);
        bar
    }

    fn tell(&self, line: String) {
        match self.terminal {
            true => drop(self.bars.println(line)),
            false => say(&line),
        }
    }
}

impl Progress for Downloading {
    fn event(&mut self, event: &Event<'_>) {
        match *event {
            Event::Begin { files, bytes: length, have } => {
                let plural = if files == 1 { "" } else { "s" };
                let here = if have > 0 { format!(", {} here already", bytes(have)) } else { String::new() };
                self.tell(format!("downloading {files} file{plural}, {}{here}", bytes(length)));
                if files > 1 {
                    self.total = Some(self.bar("in all", length, have));
                }
            }
            Event::File { name, bytes: length, have } => {
                let bar = self.bar(name, length, have);
                // Above the bar of all files, which stays the last line.
                if let Some(total) = &self.total {
                    self.bars.remove(&bar);
                    self.file = Some(self.bars.insert_before(total, bar));
                } else {
                    self.file = Some(bar);
                }
            }
            Event::Checking { done, .. } => {
                if let Some(bar) = &self.file {
                    bar.set_message("checking what is here");
                    bar.set_position(done);
                }
            }
            Event::Bytes { done, total_done, bytes_per_second, seconds_left, .. } => {
                let rate = format!("{}/s", bytes(bytes_per_second as u64));
                let left = seconds_left.map_or(String::new(), |s| format!(", {} left", clock(s)));
                if let Some(bar) = &self.file {
                    bar.set_position(done);
                    bar.set_message(match &self.total {
                        Some(_) => String::new(),
                        None => format!("{rate}{left}"),
                    });
                }
                if let Some(bar) = &self.total {
                    bar.set_position(total_done);
                    bar.set_message(format!("{rate}{left}"));
                }
            }
            Event::Waiting { name } => self.tell(format!("another process is downloading {name}; waiting for it")),
            Event::Retry { name, reason, wait } => {
                self.tell(format!("{name}: {reason}; trying again in {} s", wait.as_secs_f64().ceil()));
            }
            Event::FileDone { name } => {
                if let Some(bar) = self.file.take() {
                    bar.finish_and_clear();
                }
                self.tell(format!("{name} is complete"));
            }
            Event::End => {
                if let Some(bar) = self.total.take() {
                    bar.finish_and_clear();
                }
            }
        }
    }
}

impl Drop for Downloading {
    fn drop(&mut self) {
        // An error message must not stand behind a bar.
        for bar in self.file.take().into_iter().chain(self.total.take()) {
            bar.finish_and_clear();
        }
    }
}

/// `1:05`, `2:03:04`.
fn clock(seconds: f64) -> String {
    // A rate near zero would promise centuries.
    let s = seconds.clamp(0.0, 359_999.0) as u64;
    match s / 3600 {
        0 => format!("{}:{:02}", s / 60, s % 60),
        hours => format!("{hours}:{:02}:{:02}", s / 60 % 60, s % 60),
    }
}

/// A packed file being made. Notes are said at once, and kept.
pub struct Packing {
    bar: Option<ProgressBar>,
    stop: Arc<AtomicBool>,
    notes: Vec<String>,
}

impl Packing {
    /// `stop` is set by whoever wants it to end.
    pub fn new(stop: Arc<AtomicBool>) -> Packing {
        Packing { bar: None, stop, notes: Vec::new() }
    }

    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

impl pack::Progress for Packing {
    fn event(&mut self, event: &pack::Event<'_>) {
        match *event {
            pack::Event::Begin { name, to, bytes: length, seconds } => {
                let (length_said, seconds) = (bytes(length), clock(seconds));
                say(&format!(
                    "packing {name} for faster reading: {length_said}, about {seconds}, once; into {}",
                    to.display()
                ));
                let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(10));
                self.bar = Some(bar.with_style(style()).with_prefix("packing"));
            }
            pack::Event::Waiting { .. } => say("another process is packing this model; waiting for it"),
            pack::Event::Bytes { done, seconds_left, .. } => {
                if let Some(bar) = &self.bar {
                    bar.set_position(done);
                    bar.set_message(seconds_left.map_or(String::new(), |s| format!("{} left", clock(s))));
                }
            }
            pack::Event::End { .. } => {
                if let Some(bar) = self.bar.take() {
                    bar.finish_and_clear();
                }
            }
            pack::Event::Note(note) => {
                say_note(note);
                self.notes.push(note.to_string());
            }
        }
    }

    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

impl Drop for Packing {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Weights being converted while they are loaded.
pub struct Loading {
    bar: Option<ProgressBar>,
    doing: &'static str,
}

impl Loading {
    pub fn new() -> Loading {
        Loading::of("loading weights")
    }

    /// The same bar for something else that reads weights.
    pub fn of(doing: &'static str) -> Loading {
        Loading { bar: None, doing }
    }

    pub fn show(&mut self, done: u64, total: u64) {
        if total < WORTH_A_BAR_BYTES {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
            bar.with_style(style()).with_prefix(self.doing)
        });
        bar.set_length(total);
        bar.set_position(done);
    }

    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!([0.4, 65.0, 7384.0, f64::INFINITY].map(clock), ["0:00", "1:05", "2:03:04", "99:59:59"]);
    }

    #[test]
    fn the_template_parses() {
        style();
    }
}
