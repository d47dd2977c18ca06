//! The rows of `bench` as Markdown, JSON or CSV. The keys are an interface: programs read them.

use super::super::table::{self, Line, rounded};
use super::super::terminal::bytes;
use super::super::values::Output;
use super::ideal::Ideal;
use super::row::{Disk, Row};
use crate::engine::Budget;
use crate::planner::disk::DiskSpeed;
use crate::planner::hardware::ReadBandwidth;
use serde_json::{Map, Value, json};

/// What all rows share.
pub struct Machine<'a> {
    pub model: &'a str,
    /// Name of the instruction set the kernels ran on.
    pub isa: &'a str,
    pub ceiling: &'a ReadBandwidth,
    /// Where experts are read from it.
    pub disk: Option<&'a DiskSpeed>,
    /// What bounded the memory, where something did.
    pub budget: Option<Budget>,
    /// Bytes that were to be taken.
    pub ledger: u64,
    /// Some of the model lies on an accelerator.
    pub away: bool,
    /// Which share of the mapped weights lies in huge pages, where any are mapped.
    pub in_huge_pages: Option<f64>,
}

pub fn render(output: Output, rows: &[Row], machine: &Machine<'_>) -> String {
    let mut header = vec!["test", "tokens/s", "slowest to fastest", "GB/s", "of ceiling", "threads", "peak memory"];
    // Columns only where there is something to say in some row.
    let foreseen = rows.iter().any(|row| row.expected().is_some());
    let on_disk = rows.iter().any(|row| row.disk().is_some());
    if foreseen {
        header.extend(["expected", "ratio"]);
    }
    if on_disk {
        header.extend(["at hand", "disk/token", "disk GB/s", "waiting", "hidden"]);
    }
    let line = |row: &Row| Line { values: object(row, machine), cells: cells(row, machine, (foreseen, on_disk)) };
    let table = table::render(output, &header, &rows.iter().map(line).collect::<Vec<_>>());
    match output {
        Output::Md => format!("{}, {} kernels\n\n{table}\n{}", machine.model, machine.isa, below(rows, machine)),
        Output::Json | Output::Csv => table,
    }
}

/// Keys of one row, in the order of the CSV's columns.
fn object(row: &Row, machine: &Machine<'_>) -> Map<String, Value> {
    let (_, ceiling) = machine.ceiling.best();
    let (disk, read) = (row.disk(), row.bytes_per_second());
    let ideal = ideal(row, machine);
    let of_disk = |of: fn(Disk) -> f64| disk.map(|disk| rounded(of(disk)));
    let pairs = [
        ("test", json!(row.test.name())),
        ("tokens_per_second", json!(rounded(row.tokens_per_second()))),
        ("min", json!(rounded(row.slowest()))),
        ("max", json!(rounded(row.fastest()))),
        ("gigabytes_per_second", json!(read.map(|read| rounded(read / 1e9)))),
        ("share_of_ceiling", json!(read.map(|read| rounded(read / ceiling)))),
        ("peak_rss_bytes", json!(row.peak_rss_bytes)),
        ("threads", json!(row.threads)),
        ("model", json!(machine.model)),
        ("repetitions", json!(row.samples.len())),
        ("instructions", json!(machine.isa)),
        ("ceiling_gigabytes_per_second", json!(rounded(ceiling / 1e9))),
        ("weights_in_huge_pages", json!(machine.in_huge_pages.map(rounded))),
        ("budget_bytes", json!(machine.budget.map(|budget| budget.bytes))),
        ("expert_slots", json!(disk.map(|disk| disk.slots))),
        ("hit_rate", json!(of_disk(|d| d.hit_rate))),
        ("disk_bytes_per_token", json!(of_disk(|d| d.bytes_per_token))),
        ("share_of_time_waiting_for_disk", json!(of_disk(|d| d.waited_per_second))),
        ("share_of_disk_time_hidden", json!(of_disk(|d| d.hidden))),
        ("disk_gigabytes_per_second", json!(of_disk(|d| d.bytes_per_second / 1e9))),
        ("disk_ceiling_gigabytes_per_second", json!(machine.disk.map(|speed| rounded(speed.best().1 / 1e9)))),
        ("expected_tokens_per_second", json!(row.expected().map(rounded))),
        ("measured_to_expected", json!(row.ratio().map(rounded))),
        ("ledger_bytes", json!(machine.ledger)),
        ("ideal_ratio_by_layer", json!(ideal.map(|ideal| rounded(ideal.measured / ideal.by_layer)))),
        ("ideal_ratio_at_once", json!(ideal.map(|ideal| rounded(ideal.measured / ideal.at_once)))),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}

/// What people are shown of one row; whether there are columns for what was foreseen, and for the disk.
fn cells(row: &Row, machine: &Machine<'_>, (foreseen, on_disk): (bool, bool)) -> Vec<String> {
    let (_, ceiling) = machine.ceiling.best();
    let nothing = || "-".to_string();
    let read = row.bytes_per_second();
    let mut cells = vec![
        row.test.name(),
        figure(row.tokens_per_second()),
        format!("{} to {}", figure(row.slowest()), figure(row.fastest())),
        read.map_or_else(nothing, |read| format!("{:.2}", read / 1e9)),
        read.map_or_else(nothing, |read| format!("{:.0} %", read / ceiling * 100.0)),
        row.threads.to_string(),
        row.peak_rss_bytes.map_or("unknown".to_string(), bytes),
    ];
    if foreseen {
        let cell = |value: Option<String>| value.unwrap_or_else(nothing);
        cells.extend([cell(row.expected().map(figure)), cell(row.ratio().map(|ratio| format!("{ratio:.2}")))]);
    }
    if on_disk {
        cells.extend(row.disk().map_or_else(|| std::array::from_fn(|_| nothing()), disk_cells));
    }
    cells
}

/// What stands below the table: the ceilings, and what a token had to take.
fn below(rows: &[Row], machine: &Machine<'_>) -> String {
    let (threads, ceiling) = machine.ceiling.best();
    let buffer = bytes(machine.ceiling.buffer_bytes as u64);
    let plural = if threads == 1 { "" } else { "s" };
    let mut out = format!(
        "ceiling: {:.1} GB/s, this machine's memory read by {threads} thread{plural} ({buffer}, {})\n",
        ceiling / 1e9,
        machine.ceiling.pages
    );
    if let Some(share) = machine.in_huge_pages.filter(|share| *share < 0.9) {
        out.push_str(&format!(
            "weights: {:.0} % of them lie in huge pages, which are read faster (a packed file does where the system keeps files \
             so, as far as memory was free when it was read in or written)\n",
            share * 100.0
        ));
    }
    if machine.away {
        out.push_str(
            "GB/s: what the processor read of it; what an accelerator reads of its own memory is not counted\n",
        );
    }
    if let Some(speed) = machine.disk {
        let (depth, rate) = speed.best();
        let plural = if depth == 1 { "" } else { "s" };
        let cached = if speed.direct { "" } else { ", through the page cache, so it may be that of memory" };
        out.push_str(&format!(
            "disk: {:.2} GB/s, reads of {} with {depth} read{plural} in flight{cached}\n",
            rate / 1e9,
            bytes(speed.piece as u64)
        ));
    }
    for (row, ideal) in rows.iter().filter_map(|row| Some((row, ideal(row, machine)?))) {
        let Ideal { measured, by_layer, at_once } = ideal;
        out.push_str(&format!(
            "{}: {:.2} ms a token; layer by layer, the longer of computing and of reading what is missing at that speed takes \
             {:.2} ms ({:.2}x), all computing or all reading at once {:.2} ms ({:.2}x)\n",
            row.test.name(),
            measured * 1e3,
            by_layer * 1e3,
            measured / by_layer,
            at_once * 1e3,
            measured / at_once
        ));
    }
    if let Some(budget) = machine.budget {
        let slots = budget.slots.map(|(here, all)| format!(", {here} of {all} experts in memory"));
        out.push_str(&format!("budget: {}{}\n", bytes(budget.bytes), slots.unwrap_or_default()));
    }
    out
}

/// What the row's tokens had to take at least, at the speed of this machine's disk.
fn ideal(row: &Row, machine: &Machine<'_>) -> Option<Ideal> {
    Ideal::of(&row.steps, machine.disk?.best().1)
}

fn disk_cells(disk: Disk) -> [String; 5] {
    [
        format!("{:.1} %", 100.0 * disk.hit_rate),
        bytes(disk.bytes_per_token as u64),
        format!("{:.2}", disk.bytes_per_second / 1e9),
        format!("{:.0} %", 100.0 * disk.waited_per_second),
        format!("{:.0} %", 100.0 * disk.hidden),
    ]
}

/// Four figures or so: 3.142, 31.42, 314.2, 3142.
fn figure(value: f64) -> String {
    match value {
        v if v >= 1000.0 => format!("{v:.0}"),
        v if v >= 100.0 => format!("{v:.1}"),
        v if v >= 10.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ideal::Token;
    use super::super::row::{Kind, Test};
    use super::*;
    use crate::engine::{LayerStats, StoreStats};
    use crate::planner::hardware::Pages;

    fn rendered(output: Output) -> String {
        rendered_with(output, vec![], None, None)
    }

    fn from_disk(output: Output) -> String {
        let once = StoreStats { slots: 300, hits: 30, misses: 10, bytes_read: 128 << 20, ..StoreStats::default() };
        let layers = vec![LayerStats { missing: 15_000_000, ..LayerStats::default() }, LayerStats::default()];
        let once = StoreStats { waited: 1.0, busy: 2.0, hidden: 1.0, layers, ..once };
        let speed = DiskSpeed { piece: 2 << 20, by_depth: vec![(1, 0.5e9), (4, 1.5e9)], direct: true };
        let budget = Budget { bytes: 1 << 30, asked: true, slots: Some((300, 1024)) };
        rendered_with(output, vec![once.clone(), once.clone(), once], Some(&speed), Some(budget))
    }

    fn rendered_with(
        output: Output,
        disk: Vec<StoreStats>,
        speed: Option<&DiskSpeed>,
        budget: Option<Budget>,
    ) -> String {
        let test = Test { kind: Kind::Generate, tokens: 128, depth: 64, streams: 1 };
        let samples = vec![(30.0, 15e9), (31.0, 15.5e9), (29.0, 14.5e9)];
        let steps = disk.iter().map(|disk| Token::new(0.03, disk)).collect();
        let expected = vec![40.0, 31.0, 20.0];
        let row = Row { test, samples, threads: 2, peak_rss_bytes: Some(123), disk, steps, expected };
        // Of several together nothing is foreseen, and of them no step is kept.
        let together = Row {
            test: Test { streams: 4, ..row.test },
            samples: row.samples.clone(),
            disk: vec![],
            steps: vec![],
            expected: vec![],
            ..row
        };
        let rows = [row, together];
        let ceiling =
            ReadBandwidth { by_threads: vec![(1, 20e9), (2, 30e9)], buffer_bytes: 1 << 30, pages: Pages::Huge };
        render(
            output,
            &rows,
            &Machine {
                model: "a,\"b\"",
                isa: "avx2",
                ceiling: &ceiling,
                disk: speed,
                budget,
                ledger: 100,
                away: false,
                in_huge_pages: Some(0.456),
            },
        )
    }

    #[test]
    fn what_the_disk_gave_is_told_where_it_was_read() {
        let list: Value = serde_json::from_str(&from_disk(Output::Json)).expect("valid JSON");
        let number = |key: &str| list[0][key].as_f64().unwrap_or_else(|| panic!("{key} is no number"));
        assert_eq!((number("hit_rate"), number("disk_bytes_per_token")), (0.75, 1048576.0));
        assert_eq!((number("share_of_disk_time_hidden"), number("expert_slots")), (0.5, 300.0));
        assert_eq!((number("disk_ceiling_gigabytes_per_second"), number("budget_bytes")), (1.5, 1073741824.0));
        let waited = 3.0 / (128.0 / 30.0 + 128.0 / 31.0 + 128.0 / 29.0);
        assert!((number("share_of_time_waiting_for_disk") - waited).abs() < 1e-3);
        let text = from_disk(Output::Md);
        for words in [
            "at hand",
            "75.0 %",
            "1.00 MiB",
            "disk: 1.50 GB/s, reads of 2.00 MiB with 4 reads",
            "300 of 1024",
            "takes 10.00 ms (3.00x)",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert_eq!(from_disk(Output::Csv).lines().next(), rendered(Output::Csv).lines().next());
        let without: Value = serde_json::from_str(&rendered(Output::Json)).expect("valid JSON");
        assert!(without[0]["hit_rate"].is_null() && !rendered(Output::Md).contains("at hand"));
    }

    #[test]
    fn json_has_the_promised_keys() {
        let list: Value = serde_json::from_str(&rendered(Output::Json)).expect("valid JSON");
        let row = &list[0];
        let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key} is no number"));
        assert_eq!(row["test"], "tg128 @ d64");
        assert_eq!((number("tokens_per_second"), number("min"), number("max")), (30.0, 29.0, 31.0));
        assert_eq!((number("gigabytes_per_second"), number("share_of_ceiling")), (15.0, 0.5));
        assert_eq!((number("peak_rss_bytes"), number("ledger_bytes"), number("threads")), (123.0, 100.0, 2.0));
        assert_eq!((number("expected_tokens_per_second"), number("measured_to_expected")), (31.0, 1.0));
        assert_eq!((row["model"].as_str(), number("weights_in_huge_pages")), (Some("a,\"b\""), 0.456));
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let text = rendered(Output::Csv);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("test,tokens_per_second,min,max,gigabytes_per_second,share_of_ceiling,"));
        assert!(lines[1].starts_with("tg128 @ d64,30.0,29.0,31.0,15.0,0.5,123,2,\"a,\"\"b\"\"\","), "{}", lines[1]);
    }

    #[test]
    fn markdown_lines_up() {
        for text in [rendered(Output::Md), from_disk(Output::Md)] {
            let widths: Vec<usize> = text.lines().filter(|l| l.starts_with('|')).map(str::len).collect();
            assert!(widths.len() == 4 && widths.iter().all(|w| *w == widths[0]), "{text}");
        }
        let text = rendered(Output::Md);
        for words in ["50 %", "ceiling: 30.0 GB/s", "2 threads", "weights: 46 % of them lie in huge pages"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
