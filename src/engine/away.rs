//! What goes to an accelerator: laid down part by part, or as much as fits of what the command line leaves open.

use super::Options;
use super::place::less_margin;
use crate::checkpoint::{Checkpoint, Kind, Part, Weights};
use crate::config::Config;
use crate::config::placement::{DeviceName, OnDevice, Wanted};
use crate::config::size::shown;
use crate::device::{Accelerator, Laid};
use crate::error::{Error, Result};
use crate::model::KvShape;
use std::collections::BTreeSet;
use std::sync::Arc;

/// An opened accelerator and what will lie there.
pub(super) struct There {
    pub device: OnDevice,
    pub accelerator: Arc<Accelerator>,
    /// Bytes of weights, each expert a whole slot.
    pub weights: u64,
}

/// Of an accelerator's memory never less than this is left to others, and to what computing takes.
const LEAST_MARGIN: u64 = 512 << 20;

/// What goes to which accelerator; `None`: nothing. `cache` has the context and formats that sessions will have. Notes are
/// added to where what was asked for cannot be had, or was not asked for and is used.
pub(super) fn there(
    checkpoint: &Checkpoint,
    options: &Options,
    cache: &KvShape,
    notes: &mut Vec<String>,
) -> Result<Option<There>> {
    let config = &checkpoint.config;
    let (device, accelerator) = match (&options.placement.device, &options.wanted) {
        (Some(device), _) => (Some(device.clone()), Accelerator::open(device.name, device.memory)?),
        (None, Some(wanted)) => match open(wanted, notes)? {
            Some(accelerator) => (None, accelerator),
            None => return Ok(None),
        },
        (None, None) => return Ok(None),
    };
    let kinds = Weights::kinds(checkpoint, options.quant, options.relay)?;
    let kind = |part| kinds[config.part_index(part).expect("a part of this model")];
    let slot = slot_bytes(config, checkpoint, &kind);
    let sizes =
        Sizes { config, kind: &kind, slot, cache, sessions: options.sessions.max(1) as u64, accelerator: &accelerator };
    let device = match (device, &options.wanted) {
        (Some(device), _) => device,
        (None, wanted) => sizes.fill(accelerator.name(), wanted.as_ref().expect("something was wanted")),
    };
    known(config, &device)?;
    let weights = sizes.weights(&device);
    Ok(Some(There { device, accelerator, weights }))
}

/// The accelerator that is wanted, or the one there is. A machine without any is a note where something was asked of it.
fn open(wanted: &Wanted, notes: &mut Vec<String>) -> Result<Option<Arc<Accelerator>>> {
    if let Some(name) = wanted.name {
        return Accelerator::open(name, wanted.memory).map(Some);
    }
    let found = [(cfg!(feature = "cuda"), DeviceName::Cuda(0)), (cfg!(feature = "metal"), DeviceName::Metal)];
    let found = found.into_iter().find(|(built, _)| *built).map(|(_, name)| Accelerator::open(name, wanted.memory));
    match found {
        Some(Ok(accelerator)) => return Ok(Some(accelerator)),
        Some(Err(why)) => notes.push(format!("{why}; everything is computed on the processor")),
        None if wanted.asks() => notes.push(
            "this program was built without CUDA and Metal (`cargo build --release --features cuda`): what was to go to an \
             accelerator is computed on the processor"
                .into(),
        ),
        None => {}
    }
    Ok(None)
}

/// Bytes of a slot that holds any expert of the model.
fn slot_bytes(config: &Config, checkpoint: &Checkpoint, kind: &dyn Fn(Part) -> Kind) -> u64 {
    let layer = |l: u16| {
        let [gate, up, down] = Part::expert(l, 0).map(kind);
        Laid { gate, up, down, order: checkpoint.down }.bytes() as u64
    };
    (0..config.layers.len() as u16).map(layer).max().unwrap_or(0)
}

/// Errors where `device` names what this model does not have.
fn known(config: &Config, device: &OnDevice) -> Result<()> {
    let (layers, experts) = (config.layers.len(), config.experts);
    let beyond = device.experts.iter().find(|(layer, index)| *layer as usize >= layers || *index as usize >= experts);
    if let Some((layer, index)) = beyond {
        return Err(Error::Usage(format!(
            "{}: there is no expert {index} of layer {layer}: the model has {layers} layers of {experts}",
            device.name
        )));
    }
    Ok(())
}

/// What parts of a model take on an accelerator.
struct Sizes<'a> {
    config: &'a Config,
    kind: &'a dyn Fn(Part) -> Kind,
    slot: u64,
    cache: &'a KvShape,
    sessions: u64,
    accelerator: &'a Arc<Accelerator>,
}

impl Sizes<'_> {
    fn bytes(&self, parts: impl IntoIterator<Item = Part>) -> u64 {
        parts.into_iter().map(|part| (self.kind)(part).bytes() as u64).sum()
    }

    /// Everything of a layer but its experts.
    fn dense(&self, l: u16) -> u64 {
        self.bytes(Part::dense(l))
    }

    fn head(&self) -> u64 {
        self.bytes([Part::OutputNorm, Part::Head])
    }

    /// A layer's cache, of all sessions.
    fn cache(&self, layer: usize) -> u64 {
        let mut only = vec![false; self.config.layers.len()];
        only[layer] = true;
        self.cache.clone().on_device(self.accelerator, &only).bytes_there().saturating_mul(self.sessions)
    }

    fn weights(&self, device: &OnDevice) -> u64 {
        let dense = (0..self.config.layers.len() as u16).filter(|l| device.holds(Part::Router(*l)));
        let head = if device.head { self.head() } else { 0 };
        dense.map(|l| self.dense(l)).sum::<u64>() + head + self.slot * device.experts.len() as u64
    }

    /// As much as fits: attention and cache first, since every token uses all of it, the last layers before the others;
    /// then the head; then experts. What was asked for by number goes there whether it fits or not.
    fn fill(&self, name: DeviceName, wanted: &Wanted) -> OnDevice {
        let layers = self.config.layers.len();
        let memory = wanted.memory.or_else(|| {
            let free = self.accelerator.free()?;
            Some(less_margin(free, LEAST_MARGIN))
        });
        let mut room = memory.unwrap_or(u64::MAX);
        let mut take = |bytes: u64, must: bool| {
            let fits = must || bytes <= room;
            room = if fits { room.saturating_sub(bytes) } else { room };
            fits
        };
        let told = wanted.layers.map(|count| count.min(layers));
        let may = |layer: usize| told.is_none_or(|count| layer + count >= layers);
        let mut dense = vec![false; layers];
        for layer in (0..layers).rev().filter(|layer| may(*layer)) {
            dense[layer] = take(self.dense(layer as u16) + self.cache(layer), told.is_some());
        }
        // As llama.cpp counts, the head is one layer more.
        let head = match wanted.layers {
            Some(count) => count > layers && take(self.head(), true),
            None => take(self.head(), false),
        };
        let mut experts = BTreeSet::new();
        for layer in (wanted.experts_from..layers).rev().filter(|layer| may(*layer)) {
            for index in 0..self.config.experts {
                if take(self.slot, told.is_some()) {
                    experts.insert((layer as u16, index as u16));
                }
            }
        }
        OnDevice { name, memory, dense, head, experts }
    }
}

/// What lies where, in one line.
pub(super) fn sentence(config: &Config, there: &There) -> String {
    let OnDevice { name, dense, head, experts, .. } = &there.device;
    let layers = dense.iter().filter(|there| **there).count();
    format!(
        "{name}: attention of {layers} of {} layers, {} of {} experts{}, {}",
        config.layers.len(),
        experts.len(),
        config.layers.len() * config.experts,
        if *head { " and the head" } else { "" },
        shown(there.weights)
    )
}
