//! A plan for people and for programs.

use super::Planned;
use crate::config::size::shown;
use crate::error::{Error, Result};
use crate::planner::budget::Plan as Memory;
use crate::planner::plan::Choice;
use serde_json::{Value, json};

/// Tokens for each second: expected, and the interval of what was measured.
fn rates(planned: &Planned) -> (f64, f64, f64) {
    let time = planned.plan.token.seconds;
    (1.0 / time.seconds, 1.0 / time.high, 1.0 / time.low)
}

fn ms(seconds: f64) -> String {
    let ms = seconds * 1e3;
    if ms >= 100.0 { format!("{ms:.0}") } else { format!("{ms:.2}") }
}

/// Whether a speed is forecast: nobody waits for a stand-in.
fn foretells(planned: &Planned) -> bool {
    planned.target.as_ref().is_none_or(|target| !target.is_stand_in())
}

pub fn text(planned: &Planned) -> String {
    let mut out = format!("{}\non {}, {} threads\n\n", planned.model.name, planned.machine, planned.setup.threads.0);
    if foretells(planned) {
        let (rate, low, high) = rates(planned);
        out.push_str(&format!(
            "{rate:.1} tokens/s expected ({low:.1} to {high:.1}) with {} tokens in the context\n\
             {:.2} s to the first token of an answer to a prompt of {} ({:.0} tokens/s)\n",
            planned.setup.depth,
            planned.plan.prompt.seconds.seconds,
            planned.setup.prompt,
            planned.setup.prompt as f64 / planned.plan.prompt.seconds.seconds,
        ));
    }
    if let Some(target) = &planned.target {
        let (how, so) = match target.speeds.measured {
            true => ("as measured", ""),
            false => ("as described", ": nothing of it was measured, so the interval is wide"),
        };
        out.push_str(&match target.is_stand_in() {
            true => format!("with {} for an accelerator, whose speed is none: no time is forecast\n", target.name),
            false => format!(
                "with an accelerator {how} ({}, {}, products at {:.0} GB/s){so}\n",
                target.name,
                shown(target.vram),
                target.speeds.bandwidth / 1e9
            ),
        });
    }
    out.push_str(&format!("{}\n\n", habits(planned)));
    out.push_str(&table(planned));
    if foretells(planned) {
        out.push_str(&format!("\n{:<34}{:>10}{:>9}\n", "part of a token", "ms", "share"));
        for (name, seconds) in planned.plan.token.parts.iter().filter(|part| part.1 > 0.0) {
            let share = 100.0 * seconds / planned.plan.token.seconds.seconds;
            out.push_str(&format!("{name:<34}{:>10}{share:>7.1} %\n", ms(*seconds)));
        }
        out.push_str(&format!("{:<34}{:>10}\n", "whole token", ms(planned.plan.token.seconds.seconds)));
    }
    if planned.plan.token.missing > 0.0 {
        out.push_str(&format!("{:.1} experts of a token are read from the disk\n", planned.plan.token.missing));
    }
    out.push_str(&memory(planned));
    for (name, gain) in &planned.plan.prices {
        out.push_str(&format!("{name}: {gain:+.1} tokens/s\n"));
    }
    if let Some((name, rate)) = &planned.plan.other {
        out.push_str(&format!("next best: {name}, {rate:.1} tokens/s\n"));
    }
    if let Some(bound) = planned.plan.bound.filter(|_| foretells(planned)) {
        let gap = 100.0 * (planned.plan.token.seconds.seconds / bound - 1.0);
        out.push_str(&format!("no plan of this kind is more than {:.1} % faster\n", gap.max(0.0)));
    }
    out
}

fn habits(planned: &Planned) -> String {
    match planned.profile.tokens {
        t if t < 1.0 => {
            "no habits of this model are known: every expert is taken to be as likely as any other, and 40 % of \
                         its neurons to fire (`thermocline profile`, or any run, teaches better)"
                .to_string()
        }
        t => format!("the model's habits are known from {t:.0} tokens"),
    }
}

/// Layers that are alike in one line.
fn table(planned: &Planned) -> String {
    let experts = planned.profile.experts;
    let mut out = format!(
        "{:<10}{:>10}{:>12}{:>10}{:>8}{:>8}{:>14}\n",
        "layers", "window", "attention", "on gpu", "in ram", "on disk", "ms a layer"
    );
    let key = |l: usize| (planned.model.config.layers[l].window, planned.plan.choices[l]);
    let layers = planned.plan.choices.len();
    let mut start = 0;
    while start < layers {
        let end = (start..layers).find(|l| key(*l) != key(start)).unwrap_or(layers);
        let (window, Choice { dense_on_gpu, gpu, disk }) = key(start);
        let name = if end - start == 1 { start.to_string() } else { format!("{start}-{}", end - 1) };
        let time: f64 = planned.plan.token.by_layer[start..end].iter().sum::<f64>() / (end - start) as f64;
        out.push_str(&format!(
            "{name:<10}{:>10}{:>12}{gpu:>10}{:>8}{disk:>8}{:>14}\n",
            window.map_or("none".to_string(), |w| w.to_string()),
            if dense_on_gpu { "gpu" } else { "ram" },
            experts - gpu - disk,
            if foretells(planned) { ms(time) } else { "-".into() }
        ));
        start = end;
    }
    out
}

fn memory(planned: &Planned) -> String {
    let mut out = format!("\n{:<46}{:>12}\n", "memory", "");
    for (name, bytes) in &planned.ledger {
        out.push_str(&format!("{name:<46}{:>12}\n", shown(*bytes)));
    }
    let total: u64 = planned.ledger.iter().map(|l| l.1).sum();
    out.push_str(&format!("{:<46}{:>12}\n", "total", shown(total)));
    if let Some(budget) = planned.budget {
        out.push_str(&format!("{:<46}{:>12}\n", "budget", shown(budget)));
    }
    if !planned.plan.vram.is_empty() {
        out.push_str(&format!("\n{:<46}\n", "memory of the accelerator"));
        for (name, bytes) in &planned.plan.vram {
            out.push_str(&format!("{name:<46}{:>12}\n", shown(*bytes)));
        }
    }
    out.push('\n');
    out
}

pub fn value(planned: &Planned) -> Value {
    let (rate, low, high) = rates(planned);
    let layer = |(l, choice): (usize, &Choice)| {
        json!({
            "layer": l, "window": planned.model.config.layers[l].window, "attention_on_gpu": choice.dense_on_gpu,
            "experts_on_gpu": choice.gpu, "experts_in_memory": planned.profile.experts - choice.gpu - choice.disk,
            "experts_on_disk": choice.disk, "seconds": foretells(planned).then(|| planned.plan.token.by_layer[l]),
        })
    };
    let lines = |lines: &[(String, u64)]| -> Vec<Value> {
        lines.iter().map(|(name, bytes)| json!({"name": name, "bytes": bytes})).collect()
    };
    let slots = match planned.plan.memory {
        Memory::Whole => None,
        Memory::Slots(count) => Some(count),
    };
    let foretold = |value: Value| if foretells(planned) { value } else { Value::Null };
    json!({
        "model": planned.model.name,
        "machine": planned.machine,
        "threads": planned.setup.threads.0,
        "depth": planned.setup.depth,
        "tokens_per_second": foretold(json!({"expected": rate, "low": low, "high": high})),
        "first_token_seconds": foretold(json!({
            "prompt": planned.setup.prompt, "expected": planned.plan.prompt.seconds.seconds,
            "low": planned.plan.prompt.seconds.low, "high": planned.plan.prompt.seconds.high,
        })),
        "token_seconds": foretold(planned.plan.token.parts.iter()
            .map(|(name, seconds)| json!({"part": name, "seconds": seconds})).collect()),
        "experts_read_per_token": planned.plan.token.missing,
        "expert_slots": slots,
        "layers": planned.plan.choices.iter().enumerate().map(layer).collect::<Vec<_>>(),
        "memory": lines(&planned.ledger),
        "vram": lines(&planned.plan.vram),
        "budget_bytes": planned.budget,
        "gpu": planned.target.as_ref().map(|t| json!({
            "name": t.name, "vram": t.vram, "bandwidth": t.speeds.bandwidth, "link": t.speeds.link,
            "measured": t.speeds.measured,
        })),
        "gains": planned.plan.prices.iter()
            .map(|(what, gain)| json!({"with": what, "tokens_per_second": gain})).collect::<Vec<_>>(),
        "next_best": planned.plan.other.as_ref().map(|(what, rate)| json!({"with": what, "tokens_per_second": rate})),
        "bound_seconds": planned.plan.bound.filter(|_| foretells(planned)),
        "profile_tokens": planned.profile.tokens,
    })
}

/// The same with why one expert lies where it does.
pub fn explained(planned: &Planned, (layer, expert): (usize, usize), text: &str) -> Value {
    let mut value = value(planned);
    value["explanation"] = json!({"layer": layer, "expert": expert, "text": text});
    value
}

/// Why one expert lies where it does.
pub fn explain(planned: &Planned, (layer, expert): (usize, usize)) -> Result<String> {
    let profile = &planned.profile;
    let layers = profile.layers.len();
    if layer >= layers || expert >= profile.experts {
        return Err(Error::Usage(format!(
            "--explain {layer}.{expert}: this model has layers 0 to {} with experts 0 to {}",
            layers - 1,
            profile.experts - 1
        )));
    }
    let q = profile.frequency(layer, expert);
    let hotter = |e: &usize| {
        let other = profile.frequency(layer, *e);
        other > q || (other == q && *e < expert)
    };
    let rank = (0..profile.experts).filter(hotter).count();
    let choice = planned.plan.choices[layer];
    let (place, why) = if rank < choice.gpu {
        ("on the accelerator", format!("the {} hottest of this layer lie there", choice.gpu))
    } else if rank < profile.experts - choice.disk {
        let why = match planned.plan.memory {
            Memory::Whole => "all experts that are not elsewhere fit in memory".to_string(),
            Memory::Slots(n) => format!("it is among the {n} that are wanted most often, for which there is room"),
        };
        ("in memory", why)
    } else {
        (
            "on the disk",
            "hotter ones fill the memory; it is read when it is chosen, and may stay for a while".to_string(),
        )
    };
    let mut out = format!(
        "expert {expert} of layer {layer}: {place}, because {why}\n\
         chosen by {:.2} % of tokens (place {} of {} in its layer; {:.2} % would be even)\n\
         {:.1} % of its neurons fire when it is\n",
        100.0 * q,
        rank + 1,
        profile.experts,
        100.0 * profile.active as f64 / profile.experts as f64,
        100.0 * profile.layers[layer].fired[expert],
    );
    for (pairs, words) in [
        (&profile.layers[layer].together, "chosen together with"),
        (&profile.layers[layer].next, "followed, in the next layer, by"),
    ] {
        let mine = pairs
            .iter()
            .filter(|(a, b, _)| *a as usize == expert || (*b as usize == expert && words.starts_with("chosen")));
        for (a, b, share) in mine.take(3) {
            let other = if *a as usize == expert { b } else { a };
            out.push_str(&format!("{words} expert {other} by {:.2} % of tokens\n", 100.0 * share));
        }
    }
    out.push_str(&format!("known from {:.0} tokens\n", profile.tokens));
    Ok(out)
}
