//! The layer's experts behind the router's choice (specification 3.1, steps 2.8 to 2.11).

use super::vector::Vector;
use crate::bridge::tensor;
use crate::device::What;
use crate::error::Result;
use crate::experts::{Choice, Group, Room, Step, mixture};
use crate::host::{Host, Share};
use candle_core::Tensor;

/// `h` `[t, width]`, normed -> the weighted sum of each token's experts, `[t, width]`, where `h` lies. What the host's
/// experts add up to comes first, then the accelerator's, which are begun before.
pub fn forward(host: &Host, experts: &Step<'_>, choice: &Choice, h: &Vector<'_>, room: &mut Room) -> Result<Tensor> {
    let tokens = h.t()?;
    let groups = host.timed(Share::Regroup, || {
        let groups = choice.groups();
        experts.count(&groups, tokens);
        groups
    });
    let device = experts.on_device();
    let there = |group: &Group| device.is_some_and(|device| device.holds(group.id));
    let (away, own): (Vec<Group>, Vec<Group>) = groups.into_iter().partition(there);
    let theirs = match device.filter(|_| !away.is_empty()) {
        Some(device) => Some(host.timed(Share::Experts, || device.compute(&away, h.there(device.accelerator())?))?),
        None => None,
    };
    let ours = match own.is_empty() {
        true => None,
        false => {
            let x = h.here(host)?;
            Some(tensor(mixture(host, experts, &own, x, room)?, x.width())?)
        }
    };
    // Each sum goes where `h` lies.
    let (ours, theirs) = match (h.home(), device) {
        (Some(accelerator), _) => (ours.map(|y| accelerator.bring(What::Sum, &y)).transpose()?, theirs),
        (None, Some(device)) => (ours, theirs.map(|y| device.accelerator().fetch(What::Sum, &y)).transpose()?),
        (None, None) => (ours, theirs),
    };
    Ok(match (ours, theirs) {
        (Some(ours), Some(theirs)) => (ours + theirs)?,
        (ours, theirs) => ours.or(theirs).expect("each token takes an expert"),
    })
}
