//! Where a process's bytes go: a list of lines that is made before anything large is allocated, and held against what the
//! process really took.

use crate::config::size::shown;
use crate::planner::memory::Held;
use std::fmt;

/// Named byte counts.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub lines: Vec<Line>,
    /// What bounds the sum.
    pub budget: Option<Budget>,
    /// What lies on an accelerator, in its own memory.
    pub away: Option<Lines>,
}

/// What an accelerator holds, in bytes.
#[derive(Clone, Debug)]
pub struct Lines {
    pub name: String,
    /// What lies there, in one line.
    pub what: String,
    pub weights: u64,
    /// Of all sessions.
    pub cache: u64,
    /// What bounds the sum.
    pub most: Option<u64>,
}

impl Lines {
    pub fn total(&self) -> u64 {
        self.weights + self.cache
    }
}

#[derive(Clone, Debug)]
pub struct Line {
    pub name: String,
    pub bytes: u64,
    /// File pages that the system may drop and read again.
    pub mapped: bool,
}

/// A bound on everything a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub bytes: u64,
    /// Somebody asked for it; otherwise it is what was free.
    pub asked: bool,
    /// Experts in memory and experts there are, where not all of them are.
    pub slots: Option<(usize, usize)>,
}

impl Budget {
    /// Worth a line without being asked: it was given, or experts had to stay on disk.
    pub fn in_force(&self) -> bool {
        self.asked || self.slots.is_some()
    }
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

    /// The whole of it in one line, where a budget is in force.
    pub fn in_short(&self) -> Option<String> {
        let budget = self.budget.filter(Budget::in_force)?;
        let experts = match budget.slots {
            Some((here, all)) => format!("{here} of {all} experts in memory"),
            None => "the whole model in memory".to_string(),
        };
        Some(format!("budget {}, ledger {}: {experts}", shown(budget.bytes), shown(self.total())))
    }

    /// What was promised beside what was taken: `budget 8.00 GiB, ledger 7.91 GiB, peak 7.86 GiB (...)`.
    pub fn beside(&self, held: &Held) -> String {
        let budget = self.budget.filter(Budget::in_force).map(|b| format!("budget {}, ", shown(b.bytes)));
        format!(
            "{}ledger {}, peak {} (now {} of its own, {} of files)",
            budget.unwrap_or_default(),
            shown(self.total()),
            shown(held.peak),
            shown(held.own),
            shown(held.files)
        )
    }

    /// The same of an accelerator's memory, of which `peak` bytes were held.
    pub fn beside_away(&self, peak: u64) -> Option<String> {
        let away = self.away.as_ref()?;
        let bound = away.most.map(|most| format!("bound {}, ", shown(most)));
        Some(format!(
            "{}: {}ledger {}, peak {}",
            away.name,
            bound.unwrap_or_default(),
            shown(away.total()),
            shown(peak)
        ))
    }

    /// The sentence for a peak above a budget.
    pub fn broken(&self, held: &Held) -> Option<String> {
        let budget = self.budget.filter(|b| b.in_force() && held.peak > b.bytes)?;
        Some(format!(
            "the budget was NOT kept: {} were held at the peak, {} bytes above {}; please report this with the output of \
             --verbose",
            shown(held.peak),
            held.peak - budget.bytes,
            shown(budget.bytes)
        ))
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |b: u64| b as f64 / (1u64 << 20) as f64;
        let width = self.lines.iter().map(|l| l.name.chars().count()).max().unwrap_or(0).max(34);
        for line in self.lines.iter().filter(|line| line.bytes > 0) {
            let mapped = if line.mapped { "  (mapped file)" } else { "" };
            writeln!(f, "{:<width$}{:>12.1} MiB{mapped}", line.name, mib(line.bytes))?;
        }
        write!(f, "{:<width$}{:>12.1} MiB", "total", mib(self.total()))?;
        if let Some(budget) = &self.budget {
            let name = if budget.asked { "budget" } else { "budget (what is free, less a margin)" };
            write!(f, "\n{name:<width$}{:>12.1} MiB", mib(budget.bytes))?;
        }
        if let Some(away) = &self.away {
            let parts = [("weights", away.weights), ("cache", away.cache), ("total", away.total())];
            for (name, bytes) in parts.into_iter().chain(away.most.map(|most| ("bound", most))) {
                write!(f, "\n{:<width$}{:>12.1} MiB", format!("{}: {name}", away.name), mib(bytes))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(budget: Option<Budget>) -> Ledger {
        let mut ledger = Ledger { budget, ..Ledger::default() };
        ledger.add("experts", 700 << 20);
        ledger.add_mapped("weights", 200 << 20);
        ledger
    }

    #[test]
    fn a_budget_in_force_is_one_line_and_a_broken_one_is_loud() {
        let asked = Budget { bytes: 1 << 30, asked: true, slots: Some((300, 1024)) };
        let short = ledger(Some(asked)).in_short().expect("in force");
        assert_eq!(short, "budget 1.00 GiB, ledger 900 MiB: 300 of 1024 experts in memory");
        let held = Held { own: 800 << 20, files: 10 << 20, peak: 850 << 20 };
        let said = ledger(Some(asked)).beside(&held);
        assert!(said.starts_with("budget 1.00 GiB, ledger 900 MiB, peak 850 MiB"), "{said}");
        assert_eq!(ledger(Some(asked)).broken(&held), None);
        let broken = ledger(Some(asked)).broken(&Held { peak: (1 << 30) + 5, ..held }).expect("5 bytes above");
        assert!(broken.contains("NOT kept") && broken.contains(" 5 bytes above 1.00 GiB"), "{broken}");
    }

    #[test]
    fn what_is_free_is_no_budget_to_speak_of_while_all_fits() {
        let free = Budget { bytes: 1 << 20, asked: false, slots: None };
        assert_eq!(ledger(Some(free)).in_short(), None);
        assert_eq!(ledger(Some(free)).broken(&Held { own: 0, files: 0, peak: 1 << 30 }), None);
        let text = ledger(Some(free)).to_string();
        assert!(text.contains("total") && text.contains("900.0 MiB") && text.contains("what is free"), "{text}");
    }
}
