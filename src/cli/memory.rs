//! What is told about memory and disk: the budget beside what was taken, and where the experts came from.

use super::terminal::{bytes, say, say_note};
use crate::engine::{Engine, StoreStats};
use crate::planner::memory;

/// The budget, the ledger and the peak in one line, where a budget is in force or `always`; and loudly if it was not kept.
pub fn say_peak(engine: &Engine, always: bool) {
    let (ledger, Some(held)) = (engine.ledger(), memory::held()) else { return };
    if always || ledger.in_short().is_some() {
        say(&ledger.beside(&held));
    }
    if let Some(accelerator) = engine.accelerator() {
        ledger.beside_away(accelerator.held().1).iter().for_each(|line| say(line));
    }
    if let Some(broken) = ledger.broken(&held) {
        say_note(&broken);
    }
}

/// Where the experts of `steps` steps came from. `memory_bytes`: bytes of weights and cache that were read from memory.
pub fn sources(stats: &StoreStats, steps: usize, memory_bytes: u64) -> String {
    let steps = steps.max(1) as u64;
    format!(
        "experts: {:.1} % at hand ({} of {} in memory); a token reads {} from memory, {} from the disk; {}",
        100.0 * stats.hit_rate(),
        stats.resident,
        stats.slots,
        bytes(memory_bytes / steps),
        bytes(stats.bytes_read / steps),
        disk(stats)
    )
}

/// How the disk did: `disk 1.42 GB/s, waited for 0.8 s, 63 % of its time hidden`.
pub fn disk(stats: &StoreStats) -> String {
    if stats.busy == 0.0 {
        return "the disk was not needed".to_string();
    }
    let repeated = match stats.retries {
        0 => String::new(),
        n => format!(", {n} reads repeated"),
    };
    let ahead = match stats.guesses {
        0 => String::new(),
        n => format!(", {:.0} % of {n} guesses right", 100.0 * stats.right as f64 / n as f64),
    };
    format!(
        "disk {:.2} GB/s, waited for {:.2} s, {:.0} % of its time hidden behind computing{ahead}{repeated}",
        stats.bytes_per_second() / 1e9,
        stats.waited,
        100.0 * hidden_share(stats)
    )
}

/// Share of the disk's time in which nobody waited for it, from 0 to 1; 1 where it had nothing to do.
pub fn hidden_share(stats: &StoreStats) -> f64 {
    if stats.busy > 0.0 { (stats.hidden / stats.busy).clamp(0.0, 1.0) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_divided_and_the_disk_judged() {
        let stats = StoreStats {
            slots: 100,
            resident: 90,
            hits: 75,
            misses: 25,
            bytes_read: 40 << 20,
            busy: 0.04,
            hidden: 0.03,
            waited: 0.01,
            ..StoreStats::default()
        };
        let line = sources(&stats, 10, 100 << 20);
        for words in
            ["75.0 % at hand", "90 of 100", "10.0 MiB from memory", "4.00 MiB from the disk", "1.05 GB/s", "75 %"]
        {
            assert!(line.contains(words), "{words}: {line}");
        }
        assert!(!line.contains("repeated"));
        assert!(disk(&StoreStats { retries: 2, ..stats }).contains("2 reads repeated"));
        assert_eq!(disk(&StoreStats::default()), "the disk was not needed");
        assert_eq!(hidden_share(&StoreStats::default()), 1.0);
    }
}
