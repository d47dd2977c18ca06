//! Where a process's bytes go: a list of lines that is printed before anything is allocated.

use std::fmt;

/// Named byte counts. Lines marked `mapped` are file pages the system may drop again.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub lines: Vec<Line>,
}

#[derive(Clone, Debug)]
pub struct Line {
    pub name: String,
    pub bytes: u64,
    pub mapped: bool,
}

impl Ledger {
    pub fn add(&mut self, name: impl Into<String>, bytes: u64) {
        self.lines.push(Line { name: name.into(), bytes, mapped: false });
    }

    pub fn add_mapped(&mut self, name: impl Into<String>, bytes: u64) {
        self.lines.push(Line { name: name.into(), bytes, mapped: true });
    }

    pub fn total(&self) -> u64 {
        self.lines.iter().map(|l| l.bytes).sum()
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |b: u64| b as f64 / (1u64 << 20) as f64;
        for line in &self.lines {
            let mapped = if line.mapped { "  (mapped file)" } else { "" };
            writeln!(f, "{:<34}{:>12.1} MiB{mapped}", line.name, mib(line.bytes))?;
        }
        write!(f, "{:<34}{:>12.1} MiB", "total", mib(self.total()))
    }
}
