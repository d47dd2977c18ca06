//! Answers on a terminal: Markdown laid out as it is written. Elsewhere the text goes through as it is.
//!
//! What stands above the block being written is done and never touched again. That block is laid out anew with each piece,
//! and only lines that differ from those on the screen are written over, so nothing flickers.

mod code;
mod lay;
mod paint;
mod width;

use super::{Done, terminal};
use code::Code;
pub use paint::Colours;
use paint::painted;
use std::fmt::Write;
use std::io::IsTerminal;

/// Lines longer than this are hard to read.
const WIDEST: usize = 110;

/// Where an answer goes.
pub enum Paper {
    /// Piece by piece; whether the last one ended its line.
    Raw(bool),
    Laid(Box<Laid>),
}

impl Paper {
    /// Laid out where standard output is a terminal that can move its cursor, unless somebody wants it raw.
    pub fn new(raw: bool) -> Paper {
        let able = std::io::stdout().is_terminal() && std::env::var("TERM").is_ok_and(|term| term != "dumb");
        match terminal::size().filter(|_| able && !raw) {
            Some((columns, rows)) => Paper::Laid(Box::new(Laid::new(columns, rows, colours()))),
            None => Paper::Raw(true),
        }
    }

    pub fn write(&mut self, piece: &str) -> Done {
        match self {
            Paper::Raw(ended) => {
                *ended = if piece.is_empty() { *ended } else { piece.ends_with('\n') };
                terminal::answer(piece)
            }
            Paper::Laid(laid) => terminal::answer(&laid.push(piece)),
        }
    }

    /// Ends the last line.
    pub fn end(&mut self) -> Done {
        match self {
            Paper::Raw(true) => Ok(()),
            Paper::Raw(ended) => {
                *ended = true;
                terminal::answer("\n")
            }
            Paper::Laid(laid) => terminal::answer(laid.end()),
        }
    }
}

/// What standard output can colour.
pub fn colours() -> Colours {
    match std::io::stdout().is_terminal() {
        true => Colours::of(|name| std::env::var(name).ok()),
        false => Colours::None,
    }
}

/// An answer as it stands on the screen.
pub struct Laid {
    width: usize,
    rows: usize,
    colours: Colours,
    text: String,
    /// Bytes of it that are done.
    done: usize,
    /// The lines of the block being written, as they were told to the terminal; the cursor stands behind the last.
    shown: Vec<String>,
    code: Code,
}

impl Laid {
    fn new(columns: usize, rows: usize, colours: Colours) -> Laid {
        let width = columns.saturating_sub(1).clamp(1, WIDEST); // a full line would leave the cursor between two
        Laid { width, rows, colours, text: String::new(), done: 0, shown: vec![], code: Code::default() }
    }

    /// What to send to the terminal.
    fn push(&mut self, piece: &str) -> String {
        self.text.push_str(&width::harmless(piece));
        let mut out = String::new();
        // Only whole lines say where a block ends: `#` begins a heading, `#word` goes on with a paragraph.
        let whole = self.text.rfind('\n').map_or(self.done, |at| at + 1).max(self.done);
        let blocks = lay::blocks(&self.text[self.done..whole]);
        if let [.., _, last] = blocks.as_slice() {
            let end = self.done + last.start;
            self.show(self.done..end, &mut out);
            self.done = end;
            out.push_str("\n\n");
            self.shown = vec![String::new()];
        }
        self.show(self.done..self.text.len(), &mut out);
        out
    }

    /// Brings the screen from what is shown to what a part of the text looks like.
    fn show(&mut self, part: std::ops::Range<usize>, out: &mut String) {
        let lines = lay::lay(&self.text[part], self.width, &mut self.code);
        let lines: Vec<String> = lines.iter().map(|line| painted(line, self.colours)).collect();
        let same = lines.iter().zip(&self.shown).take_while(|(a, b)| a == b).count();
        if same == lines.len() && same == self.shown.len() {
            return;
        }
        // What has left the screen above stays as it was.
        let reach = (self.shown.len() + 1).saturating_sub(self.rows.max(2));
        let last = self.shown.len().min(lines.len()).saturating_sub(1);
        let from = same.max(reach).min(last);
        let up = self.shown.len().saturating_sub(from + 1).min(self.rows.max(2) - 1);
        if up > 0 {
            let _ = write!(out, "\x1b[{up}A"); // writing to a string does not fail
        }
        for (at, line) in lines.iter().enumerate().skip(from) {
            let _ = write!(out, "{}\r{line}\x1b[K", if at > from { "\n" } else { "" });
        }
        if lines.len() < self.shown.len() {
            out.push_str(if lines.is_empty() { "\r\x1b[J" } else { "\x1b[J" });
        }
        self.shown = lines;
    }

    fn end(&mut self) -> &'static str {
        let empty = self.done == 0 && self.shown.is_empty();
        (self.done, self.shown) = (self.text.len(), vec![]);
        if empty { "" } else { "\n" }
    }
}

#[cfg(test)]
mod tests;
