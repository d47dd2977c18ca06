//! What is known of a model's habits: how often each expert is chosen, how many of its neurons fire, and how these hang
//! together. Counted while a model runs, kept as JSON, merged from run to run; what is older counts less.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::experts::LayerCounts;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The name by which a file is known to be a profile, and the version of what follows.
const KIND: &str = "thermocline";
const VERSION: u64 = 1;
/// New tokens after which what was known counts half.
const HALF_LIFE: f64 = 100_000.0;
/// Pairs that are kept of each layer, the most frequent first.
const PAIRS: usize = 32;
/// A file beyond this is no profile: 4,096 experts in 1,024 layers would not fill it.
const MOST_BYTES: u64 = 256 << 20;
/// Tokens that an even choice is worth where little is known: without it an expert not seen yet could never be chosen.
const PRIOR: f64 = 4.0;
/// No count goes beyond it, and all below can be written down as exactly as they were counted.
const MOST_COUNTED: f64 = (1u64 << 53) as f64;
/// Share of firing neurons where nothing was counted: published models keep over 60 % silent.
const FIRING: f64 = 0.4;

/// The habits of one layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerProfile {
    /// By expert: tokens that chose it; they sum to the active experts times the tokens.
    pub chosen: Vec<f64>,
    /// By expert: mean share of its neurons that fired, from 0 to 1.
    pub fired: Vec<f64>,
    /// Share of choices that the token before had made too.
    pub again: f64,
    /// (a, b, share of tokens): both chosen here; a chosen here and b in the next layer.
    pub together: Vec<(u16, u16, f64)>,
    pub next: Vec<(u16, u16, f64)>,
}

/// A model's habits.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Tokens behind it; older ones count less.
    pub tokens: f64,
    pub experts: usize,
    pub active: usize,
    pub layers: Vec<LayerProfile>,
}

impl Profile {
    /// Nothing known: every expert is as likely as any other.
    pub fn even(config: &Config) -> Profile {
        let layer = LayerProfile {
            chosen: vec![0.0; config.experts],
            fired: vec![FIRING; config.experts],
            again: config.active as f64 / config.experts as f64,
            ..LayerProfile::default()
        };
        Profile {
            tokens: 0.0,
            experts: config.experts,
            active: config.active,
            layers: vec![layer; config.layers.len()],
        }
    }

    /// What a run counted.
    pub fn of(config: &Config, counts: &[LayerCounts]) -> Profile {
        let mut profile = Profile::even(config);
        profile.tokens = counts.iter().map(|c| c.tokens).max().unwrap_or(0) as f64;
        for (layer, counts) in profile.layers.iter_mut().zip(counts) {
            layer.chosen = counts.chosen.iter().map(|&n| n as f64).collect();
            let all = (counts.fired.iter().sum::<u64>(), counts.looked.iter().sum::<u64>());
            let mean = share(all.0, all.1).unwrap_or(FIRING);
            let fired = counts.fired.iter().zip(&counts.looked);
            layer.fired = fired.map(|(&fired, &looked)| share(fired, looked).unwrap_or(mean)).collect();
            layer.again = share(counts.again, counts.followers).unwrap_or(layer.again);
            layer.together = pairs(&counts.together, config.experts, counts.sampled);
            layer.next = pairs(&counts.next, config.experts, counts.sampled);
        }
        profile
    }

    /// Whether it is one of such a model.
    pub fn fits(&self, config: &Config) -> bool {
        (self.layers.len(), self.experts, self.active) == (config.layers.len(), config.experts, config.active)
    }

    /// Probability that a token chooses an expert: the counts, held towards an even choice while they are few.
    pub fn frequency(&self, layer: usize, expert: usize) -> f64 {
        let even = self.active as f64 / self.experts as f64;
        let f = (self.layers[layer].chosen[expert] + PRIOR * even) / (self.tokens + PRIOR);
        f.clamp(0.0, 1.0)
    }

    /// The experts of a layer from the hottest to the coldest, of equals the lower first.
    pub fn by_heat(&self, layer: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.experts).collect();
        order.sort_by(|a, b| self.frequency(layer, *b).total_cmp(&self.frequency(layer, *a)));
        order
    }

    /// Share of a layer's computed neurons that fire, weighed by how often their experts are chosen.
    pub fn firing(&self, layer: usize) -> f64 {
        let weight = |e: usize| self.frequency(layer, e);
        let all: f64 = (0..self.experts).map(weight).sum();
        (0..self.experts).map(|e| weight(e) * self.layers[layer].fired[e]).sum::<f64>() / all
    }

    /// Adds what a later run counted; what was known fades.
    pub fn merge(&mut self, later: &Profile) {
        if later.tokens <= 0.0 {
            return;
        }
        let fade = 0.5f64.powf(later.tokens / HALF_LIFE);
        let before = self.tokens * fade;
        let new = later.tokens / (before + later.tokens);
        let mean = |old: f64, late: f64, new: f64| old * (1.0 - new) + late * new;
        for (layer, later) in self.layers.iter_mut().zip(&later.layers) {
            for e in 0..layer.chosen.len() {
                let (old, late) = (layer.chosen[e] * fade, later.chosen[e]);
                if old + late > 0.0 {
                    layer.fired[e] = mean(layer.fired[e], later.fired[e], late / (old + late));
                }
                layer.chosen[e] = old + late;
            }
            layer.again = mean(layer.again, later.again, new);
            layer.together = merged(&layer.together, &later.together, new);
            layer.next = merged(&layer.next, &later.next, new);
        }
        self.tokens = before + later.tokens;
    }

    /// A line for the whole and a line for each layer.
    pub fn to_json(&self) -> String {
        let rounded = |x: f64, to: f64| (x * to).round() / to;
        let list = |values: &[f64], to: f64| values.iter().map(|x| rounded(*x, to)).collect::<Vec<_>>();
        let pairs = |pairs: &[(u16, u16, f64)]| -> Vec<Value> {
            pairs.iter().map(|(a, b, share)| json!([a, b, rounded(*share, 1e4)])).collect()
        };
        let layers: Vec<String> = self
            .layers
            .iter()
            .map(|l| {
                let value = json!({
                    "chosen": list(&l.chosen, 1e2), "fired": list(&l.fired, 1e4), "again": rounded(l.again, 1e4),
                    "together": pairs(&l.together), "next": pairs(&l.next),
                });
                format!("  {value}")
            })
            .collect();
        format!(
            "{{\"profile\": \"{KIND}\", \"version\": {VERSION}, \"tokens\": {}, \"experts\": {}, \"active\": {}, \
             \"layers\": [\n{}\n]}}\n",
            rounded(self.tokens, 1e2),
            self.experts,
            self.active,
            layers.join(",\n")
        )
    }

    /// Why a text is no profile, in words.
    pub fn parse(text: &str) -> Result<Profile, String> {
        let value: Value = serde_json::from_str(text).map_err(|e| format!("is no JSON: {e}"))?;
        let top = value.as_object().ok_or("is no JSON object")?;
        if top.get("profile").and_then(Value::as_str) != Some(KIND) {
            return Err("does not say that it is a profile".into());
        }
        match top.get("version").and_then(Value::as_u64) {
            Some(VERSION) => {}
            other => return Err(format!("is of version {other:?}, expected {VERSION}")),
        }
        let (experts, active) = (count(top, "experts")?, count(top, "active")?);
        let tokens = number(top, "tokens")?;
        if experts == 0 || active == 0 || active > experts {
            return Err(format!("{active} active of {experts} experts is no choice"));
        }
        let layers = top.get("layers").and_then(Value::as_array).ok_or("`layers` is no list")?;
        let layer = |(i, value): (usize, &Value)| {
            layer(value, experts, tokens).map_err(|sentence| format!("layer {i}: {sentence}"))
        };
        let layers = layers.iter().enumerate().map(layer).collect::<Result<Vec<_>, _>>()?;
        Ok(Profile { tokens, experts, active, layers })
    }

    /// Reads one that was written for a model of this shape. `None` where there is none.
    pub fn read(path: &Path, config: &Config) -> Result<Option<Profile>> {
        let wrong = |why: String| Error::Runtime(format!("the profile {} {why}", path.display()));
        match std::fs::metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Ok(meta) if meta.len() > MOST_BYTES => {
                return Err(wrong(format!("has {} bytes, expected at most {MOST_BYTES}", meta.len())));
            }
            _ => {}
        }
        let text = std::fs::read_to_string(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        let profile = Profile::parse(&text).map_err(wrong)?;
        if !profile.fits(config) {
            return Err(wrong(format!(
                "is of a model of {} layers with {} of {} experts, expected {} with {} of {}",
                profile.layers.len(),
                profile.active,
                profile.experts,
                config.layers.len(),
                config.active,
                config.experts
            )));
        }
        Ok(Some(profile))
    }

    /// Writes it beside its place and renames it, so that no reader sees half of it.
    pub fn write(&self, path: &Path) -> Result<()> {
        let failed = |e| Error::Runtime(format!("the profile {} cannot be written: {e}", path.display()));
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        folder.map_or(Ok(()), std::fs::create_dir_all).map_err(failed)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let written = std::fs::write(&beside, self.to_json()).and_then(|()| std::fs::rename(&beside, path));
        written.map_err(|e| {
            let _ = std::fs::remove_file(&beside); // only tidying
            failed(e)
        })
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The most frequent pairs of a square of counts.
fn pairs(counts: &[u32], experts: usize, sampled: u64) -> Vec<(u16, u16, f64)> {
    let all = counts.iter().enumerate().filter(|(_, n)| **n > 0);
    let pair = |(i, n): (usize, &u32)| ((i / experts) as u16, (i % experts) as u16, f64::from(*n) / sampled as f64);
    top(all.map(pair).collect())
}

fn top(mut pairs: Vec<(u16, u16, f64)>) -> Vec<(u16, u16, f64)> {
    pairs.sort_by(|a, b| b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1))));
    pairs.truncate(PAIRS);
    pairs
}

/// Shares of two lists, the later one weighing `new`. A pair only one of them kept counts as absent from the other.
fn merged(old: &[(u16, u16, f64)], late: &[(u16, u16, f64)], new: f64) -> Vec<(u16, u16, f64)> {
    let mut all: Vec<(u16, u16, f64)> = old.iter().map(|(a, b, share)| (*a, *b, share * (1.0 - new))).collect();
    for (a, b, share) in late {
        match all.iter_mut().find(|pair| (pair.0, pair.1) == (*a, *b)) {
            Some(pair) => pair.2 += share * new,
            None => all.push((*a, *b, share * new)),
        }
    }
    top(all)
}

fn number(map: &Map<String, Value>, key: &str) -> Result<f64, String> {
    let number = map.get(key).and_then(Value::as_f64).filter(|x| (0.0..=MOST_COUNTED).contains(x));
    number.ok_or_else(|| format!("`{key}` is no number from 0 to {MOST_COUNTED}"))
}

fn count(map: &Map<String, Value>, key: &str) -> Result<usize, String> {
    let number = map.get(key).and_then(Value::as_u64).filter(|n| *n <= 1 << 16);
    number.map(|n| n as usize).ok_or_else(|| format!("`{key}` is no number of at most {}", 1 << 16))
}

fn layer(value: &Value, experts: usize, tokens: f64) -> Result<LayerProfile, String> {
    let map = value.as_object().ok_or("is no object")?;
    let list = |key: &str, most: f64| -> Result<Vec<f64>, String> {
        let list = map.get(key).and_then(Value::as_array).ok_or_else(|| format!("`{key}` is no list"))?;
        if list.len() != experts {
            return Err(format!("`{key}` has {} numbers, expected {experts}", list.len()));
        }
        let number = |v: &Value| v.as_f64().filter(|x| (0.0..=most).contains(x));
        list.iter().map(|v| number(v).ok_or_else(|| format!("`{key}`: {v} is not from 0 to {most}"))).collect()
    };
    let pairs = |key: &str| -> Result<Vec<(u16, u16, f64)>, String> {
        let wrong = || format!("`{key}` is no list of [expert, expert, share]");
        let list = map.get(key).and_then(Value::as_array).ok_or_else(wrong)?;
        let expert = |v: &Value| v.as_u64().filter(|e| (*e as usize) < experts).map(|e| e as u16);
        let pair = |v: &Value| {
            let [a, b, share] = v.as_array()?.as_slice() else { return None };
            Some((expert(a)?, expert(b)?, share.as_f64().filter(|s| (0.0..=1.0).contains(s))?))
        };
        list.iter().take(PAIRS).map(|v| pair(v).ok_or_else(wrong)).collect()
    };
    Ok(LayerProfile {
        // Counts are rounded in the file.
        chosen: list("chosen", tokens * 1.01 + 1.0)?,
        fired: list("fired", 1.0)?,
        again: number(map, "again")?.min(1.0),
        together: pairs("together")?,
        next: pairs("next")?,
    })
}

#[cfg(test)]
pub(super) mod tests;
