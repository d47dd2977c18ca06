//! What a model is, in figures, from headers alone.

use super::catalogue::Catalogue;
use super::{DownOrder, Form, Part};
use crate::config::size::shown;
use crate::config::{Config, Gating};
use kernels::Format;
use std::collections::BTreeMap;
use std::fmt;

/// All tensors of one use.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub name: &'static str,
    /// Matrices and vectors; an expert's matrices are counted one by one.
    pub tensors: usize,
    pub weights: u64,
    pub bytes: u64,
    /// Bytes in each format.
    pub formats: BTreeMap<Format, u64>,
    /// Bytes in each format and form.
    pub forms: BTreeMap<(Format, Form), u64>,
}

/// What `inspect` prints.
#[derive(Clone, Debug)]
pub struct Summary {
    pub config: Config,
    pub down: DownOrder,
    pub container: String,
    /// Files that hold weights, and their sizes.
    pub files: Vec<(String, u64)>,
    /// In the order of the way of a token: embedding, attention, routers, gate, up, down, norms, head.
    pub groups: Vec<Group>,
}

const NAMES: [&str; 8] = ["embedding", "attention", "routers", "gate", "up", "down", "norms", "head"];

fn group_of(part: Part) -> usize {
    match part {
        Part::Embedding => 0,
        Part::Query(_) | Part::Key(_) | Part::Value(_) | Part::AttentionOut(_) => 1,
        Part::Router(_) => 2,
        Part::Gate(..) => 3,
        Part::Up(..) => 4,
        Part::Down(..) => 5,
        Part::OutputNorm | Part::NormIn(_) | Part::NormFfn(_) => 6,
        Part::Head => 7,
    }
}

impl Summary {
    pub(super) fn of(
        config: &Config,
        down: DownOrder,
        container: &str,
        files: Vec<(String, u64)>,
        catalogue: &Catalogue,
    ) -> Summary {
        let empty =
            |name| Group { name, tensors: 0, weights: 0, bytes: 0, formats: BTreeMap::new(), forms: BTreeMap::new() };
        let mut groups = NAMES.map(empty).to_vec();
        for part in config.parts().filter(|part| !(config.tied && *part == Part::Head)) {
            let entry = catalogue.entry(config, part);
            let (rows, width) = config.shape(part, down);
            let group = &mut groups[group_of(part)];
            group.tensors += 1;
            group.weights += rows as u64 * width as u64;
            group.bytes += entry.bytes;
            *group.formats.entry(entry.format).or_default() += entry.bytes;
            *group.forms.entry((entry.format, entry.form)).or_default() += entry.bytes;
        }
        groups.retain(|g| g.tensors > 0);
        Summary { config: config.clone(), down, container: container.to_string(), files, groups }
    }

    /// Bytes of all weights, a shared head once.
    pub fn bytes(&self) -> u64 {
        self.groups.iter().map(|g| g.bytes).sum()
    }

    /// Number of weights, a shared head once.
    pub fn weights(&self) -> u64 {
        self.groups.iter().map(|g| g.weights).sum()
    }
}

/// Runs of equal entries, as "0-3 x, 4 y".
fn runs<T: PartialEq + fmt::Display>(list: &[T]) -> String {
    let mut text = vec![];
    let mut start = 0;
    for end in 1..=list.len() {
        if end == list.len() || list[end] != list[start] {
            let last = end - 1;
            let span = if last == start { start.to_string() } else { format!("{start}-{last}") };
            text.push(format!("{span} {}", list[start]));
            start = end;
        }
    }
    text.join(", ")
}

/// Says a repeating list by its shortest period, where there is one shorter than half of it.
fn layout(list: &[String]) -> String {
    let period = (1..=list.len() / 2).find(|p| (*p..list.len()).all(|i| list[i] == list[i - p]));
    match period {
        Some(1) => format!("all {}", list[0]),
        Some(p) => format!("every {p}: {}", runs(&list[..p])),
        None => runs(list),
    }
}

impl fmt::Display for Summary {
    /// A table of some twenty lines; sizes in MiB of 2^20 bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.config;
        let line = |f: &mut fmt::Formatter<'_>, key: &str, value: String| writeln!(f, "{key:<12} {value}");
        line(f, "model", c.name.clone().unwrap_or_else(|| "(unnamed)".into()))?;
        line(f, "family", c.family.to_string())?;
        line(f, "container", format!("{}, {} file{}", self.container, self.files.len(), plural(self.files.len())))?;
        for (name, size) in &self.files {
            line(f, "", format!("{name}  {}", shown(*size)))?;
        }
        line(f, "weights", format!("{:.3} billion, {}", self.weights() as f64 / 1e9, shown(self.bytes())))?;
        line(f, "width", format!("{}", c.width))?;
        line(f, "attention", format!("{} heads of {}, {} for keys and values", c.heads, c.head_width, c.kv_heads))?;
        let gating = match c.gating {
            Gating::Softmax => "softmax",
            Gating::Sigmoid => "sigmoid",
        };
        line(
            f,
            "experts",
            format!("{} per layer, {} active ({gating}), {} neurons each", c.experts, c.active, c.neurons),
        )?;
        let order = match self.down {
            DownOrder::ByOutput => "by output",
            DownOrder::ByNeuron => "by neuron",
        };
        line(f, "down", order.into())?;
        let layers: Vec<String> = c
            .layers
            .iter()
            .map(|l| {
                let reach = l.window.map_or("global".to_string(), |w| format!("window {w}"));
                format!("{reach} {}", if l.rotary { "RoPE" } else { "NoPE" })
            })
            .collect();
        line(f, "layers", format!("{}: {}", layers.len(), layout(&layers)))?;
        line(f, "context", format!("{}, rope theta {}, norm epsilon {:e}", c.context, c.rope_theta, c.norm_epsilon))?;
        let ids = c.eos.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let tied = if c.tied { "head shared with the embedding" } else { "own head" };
        line(f, "vocabulary", format!("{} ids, {tied}, ends at {ids}", c.vocab))?;
        writeln!(f)?;
        writeln!(f, "{:<12} {:>8} {:>16} {:>12}  formats", "part", "tensors", "weights", "MiB")?;
        for g in &self.groups {
            let all = g.forms.len() == 1;
            let name = |((format, form), bytes): (&(Format, Form), &u64)| {
                let form = if *form == Form::FILE { String::new() } else { format!(" {form}") };
                let size = if all { String::new() } else { format!(" {}", shown(*bytes)) };
                format!("{}{form}{size}", format.name())
            };
            let formats = g.forms.iter().map(name).collect::<Vec<_>>().join(", ");
            writeln!(
                f,
                "{:<12} {:>8} {:>16} {:>12.1}  {formats}",
                g.name,
                g.tensors,
                g.weights,
                g.bytes as f64 / (1u64 << 20) as f64
            )?;
        }
        for note in &c.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}
