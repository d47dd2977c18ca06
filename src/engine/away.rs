//! What goes to an accelerator: laid down part by part, or by the plan of what the command line leaves open.

use super::Options;
use super::place::less_margin;
use super::wanted::{Wanted, none_on_disk};
use crate::checkpoint::{Checkpoint, Kind, Part};
use crate::config::Config;
use crate::config::placement::{DeviceName, OnDevice};
use crate::config::size::shown;
use crate::device::{Accelerator, Speeds};
use crate::error::{Error, Result};
use crate::planner::cost::Work;
use crate::planner::hybrid::{Footprint, Ground, Hybrid, Told};
use crate::planner::plan::Place;
use crate::planner::profile::Profile;
use std::sync::Arc;

/// An opened accelerator and what will lie there.
pub(super) struct There {
    pub device: OnDevice,
    pub accelerator: Arc<Accelerator>,
    /// Bytes of weights, each expert a whole slot.
    pub weights: u64,
    /// Why it lies so, where that was left to the plan.
    pub reasons: Option<Reasons>,
}

/// What a plan was made from, to make it again.
pub(super) struct Reasons {
    pub work: Work,
    pub ground: Ground,
    pub told: Told,
    /// Which layers and whether the head lie there.
    pub dense: Vec<bool>,
    pub head: bool,
    /// Expected seconds of a token, and the least that any plan of the kind takes.
    pub seconds: f64,
    pub bound: f64,
}

impl Reasons {
    /// Whether all speeds behind it are this machine's.
    pub fn is_measured(&self) -> bool {
        self.ground.measured && self.ground.speeds.measured
    }
}

/// Of an accelerator's memory never less than this is left to others, and to what computing takes.
const LEAST_MARGIN: u64 = 512 << 20;

/// The accelerator that options ask for, or the one there is. Notes are added to where what was asked for cannot be had.
pub(super) fn open(options: &Options, notes: &mut Vec<String>) -> Result<Option<Arc<Accelerator>>> {
    match (&options.placement.device, &options.wanted) {
        (Some(device), _) => Accelerator::open(device.name, device.memory).map(Some),
        (None, Some(wanted)) if !wanted.processor => wanted_one(wanted, notes),
        (None, _) => Ok(None),
    }
}

/// A machine without any is a note where something was asked of it.
fn wanted_one(wanted: &Wanted, notes: &mut Vec<String>) -> Result<Option<Arc<Accelerator>>> {
    if let Some(name) = wanted.name {
        return Accelerator::open(name, wanted.memory).map(Some);
    }
    match Accelerator::first(wanted.memory) {
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

/// What was laid down about an accelerator, whether there is one or not. Notes are added to.
pub(super) fn told(checkpoint: &Checkpoint, options: &Options, notes: &mut Vec<String>) -> Result<Told> {
    let Some(wanted) = &options.wanted else { return Ok(Told::default()) };
    let (told, said) = wanted.told(&checkpoint.config, checkpoint.gguf_name())?;
    notes.extend(said);
    none_on_disk(&told)?;
    Ok(told)
}

/// What goes to `accelerator`, of what `room` has a place for in memory; `kind` says how each part lies.
pub(super) fn there(
    checkpoint: &Checkpoint,
    options: &Options,
    accelerator: Arc<Accelerator>,
    told: Told,
    (room, kind): (Footprint, &dyn Fn(Part) -> Kind),
    notes: &mut Vec<String>,
) -> Result<There> {
    let config = &checkpoint.config;
    let (device, reasons) = match (&options.placement.device, &options.wanted) {
        (Some(device), _) => (device.clone(), None),
        (None, wanted) => {
            let wanted = wanted.as_ref().expect("an accelerator was opened for it");
            let memory = most_there(&accelerator, wanted.memory, notes);
            let work = Work::of(config, checkpoint.down, kind);
            let ground = match wanted.ground.as_deref() {
                Some(ground) => ground.clone(),
                None => Ground::assumed(&work, Profile::even(config), Speeds::of(&accelerator)?),
            };
            let (vram, shared) = (memory.unwrap_or(u64::MAX / 4), accelerator.name().is_unified());
            planned(accelerator.name(), memory, (work, ground, told), Footprint { vram, shared, ..room.clone() })
        }
    };
    known(config, &device)?;
    let weights = weights(&room, &device, config, kind);
    Ok(There { device, accelerator, weights, reasons })
}

/// Bytes of the accelerator's memory that may be used: what was asked for, or what is free less a margin.
pub fn most_there(accelerator: &Accelerator, asked: Option<u64>, notes: &mut Vec<String>) -> Option<u64> {
    match (asked, accelerator.free()) {
        (Some(asked), Some(free)) if asked > free => {
            let name = accelerator.name();
            notes.push(format!("--vram: {} may be used of {name}, but only {} are free", shown(asked), shown(free)));
            Some(asked)
        }
        (Some(asked), _) => Some(asked),
        (None, free) => free.map(|free| less_margin(free, LEAST_MARGIN)),
    }
}

/// What the plan puts there. Where nothing fits it is what was laid down, which will be refused with the bytes it takes.
fn planned(
    name: DeviceName,
    memory: Option<u64>,
    (work, ground, told): (Work, Ground, Told),
    room: Footprint,
) -> (OnDevice, Option<Reasons>) {
    let experts = work.config.experts as u16;
    let Some(found) = Hybrid::new(&work, &ground, &room, &told).solve() else {
        let there = |place: Option<Place>| place == Some(Place::Accelerator);
        let layers = told.layers.iter().enumerate().filter(|(_, layer)| there(layer.experts));
        let experts = layers.flat_map(|(l, _)| (0..experts).map(move |e| (l as u16, e))).collect();
        let dense = told.layers.iter().map(|layer| there(layer.dense)).collect();
        return (OnDevice { name, memory, dense, head: told.head == Some(true), experts }, None);
    };
    let experts = found.experts(&ground.profile);
    let (dense, head, seconds, bound) = (found.dense(), found.head, found.seconds, found.bound);
    let device = OnDevice { name, memory, dense: dense.clone(), head, experts };
    (device, Some(Reasons { work, ground, told, dense, head, seconds, bound }))
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

/// Bytes of the weights that lie on `device`.
fn weights(room: &Footprint, device: &OnDevice, config: &Config, kind: &dyn Fn(Part) -> Kind) -> u64 {
    let dense = (0..config.layers.len() as u16).filter(|l| device.holds(Part::Router(*l)));
    let dense = dense.flat_map(Part::dense).map(|part| kind(part).bytes() as u64).sum::<u64>();
    let slot = room.layers.first().map_or(0, |layer| layer.expert.1);
    dense + if device.head { room.head.1 } else { 0 } + slot * device.experts.len() as u64
}

/// What lies where, in one line.
pub(super) fn sentence(config: &Config, there: &There) -> String {
    let OnDevice { name, dense, head, experts, .. } = &there.device;
    let layers = dense.iter().filter(|there| **there).count();
    let real = there.reasons.as_ref().filter(|_| *name != DeviceName::StandIn); // nobody waits for a stand-in
    let expected = real.map_or(String::new(), |reasons| {
        let assumed = if reasons.is_measured() { "" } else { " at assumed speeds" };
        let gap = 100.0 * (reasons.seconds / reasons.bound - 1.0).max(0.0);
        let rate = 1.0 / reasons.seconds;
        format!("; {rate:.1} tokens/s expected{assumed}, no plan of this kind is more than {gap:.1} % faster")
    });
    format!(
        "{name}: attention of {layers} of {} layers, {} of {} experts{}, {}{expected}",
        config.layers.len(),
        experts.len(),
        config.layers.len() * config.experts,
        if *head { " and the head" } else { "" },
        shown(there.weights)
    )
}
