//! `inspect`: what a model is, from headers alone. A hub name is not downloaded: its headers are read by ranges.

use super::args::InspectArgs;
use super::interrupt::Interrupts;
use super::terminal::{self, Passing, say_note};
use super::{Done, bundled, open};
use crate::checkpoint::hub::{ModelName, Remote};
use crate::checkpoint::{Checkpoint, Header, Summary};
use crate::config::{DownOrder, Gating};
use crate::error::Result;
use serde_json::{Value, json};

pub fn run(args: &InspectArgs) -> Done {
    Interrupts::watch()?;
    let summary = match open::name(&args.model)? {
        None => Checkpoint::open(&bundled::folder()?)?.summary(),
        Some(ModelName::Local(path)) => Checkpoint::open(&path)?.summary(),
        Some(name) => remote(&name, args)?,
    };
    match args.json {
        true => terminal::answer(&format!("{:#}\n", value(&summary))),
        false => terminal::answer(&summary.to_string()),
    }
}

fn remote(name: &ModelName, args: &InspectArgs) -> Result<Summary> {
    let mut passing = Passing::show("reading headers");
    let remote = Remote::open(name, &open::hub_options(&args.model))?;
    let header = Header::remote(&remote, &open::shown(name))?;
    passing.clear();
    for note in remote.notes() {
        say_note(note);
    }
    Ok(header.summary())
}

fn value(summary: &Summary) -> Value {
    let config = &summary.config;
    let layers = config.layers.iter().map(|l| json!({"rotary": l.rotary, "window": l.window}));
    let groups = summary.groups.iter().map(|g| {
        let formats: serde_json::Map<String, Value> =
            g.formats.iter().map(|(format, bytes)| (format.name().to_string(), json!(bytes))).collect();
        let layouts = g
            .forms
            .iter()
            .map(|((format, form), bytes)| json!({"format": format.name(), "layout": form.name(), "bytes": bytes}));
        json!({"part": g.name, "tensors": g.tensors, "weights": g.weights, "bytes": g.bytes, "bytes_by_format": formats,
               "layouts": layouts.collect::<Vec<_>>()})
    });
    json!({
        "name": config.name,
        "family": config.family,
        "container": summary.container,
        "files": summary.files.iter().map(|(name, bytes)| json!({"name": name, "bytes": bytes})).collect::<Vec<_>>(),
        "weights": summary.weights(),
        "bytes": summary.bytes(),
        "width": config.width,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_width": config.head_width,
        "vocab": config.vocab,
        "context": config.context,
        "rope_theta": config.rope_theta,
        "norm_epsilon": config.norm_epsilon,
        "experts": config.experts,
        "active": config.active,
        "neurons": config.neurons,
        "gating": match config.gating {
            Gating::Softmax => "softmax",
            Gating::Sigmoid => "sigmoid",
        },
        "down": match summary.down {
            DownOrder::ByOutput => "by output",
            DownOrder::ByNeuron => "by neuron",
        },
        "tied": config.tied,
        "eos": config.eos,
        "layers": layers.collect::<Vec<_>>(),
        "parts": groups.collect::<Vec<_>>(),
        "notes": config.notes,
    })
}
