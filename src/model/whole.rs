//! A token at a time where every part of the model lies on one accelerator with kernels of our own: the forward pass of
//! `decoder`, handed over as one piece of work. The same mathematics, the same bits.

use super::block::{Attends, Block};
use super::head::Head;
use super::router::not_finite;
use crate::config::Config;
use crate::device::{Accelerator, LayerParts, Parts, Spoken, Whole};
use crate::error::Result;
use crate::experts::{Choice, ExpertStore, Step};
use std::sync::Arc;

/// `None` where a part lies elsewhere, or the accelerator has no kernels for such parts.
pub fn whole(
    config: &Config,
    accelerator: &Arc<Accelerator>,
    (blocks, experts, head): (&[Block], &ExpertStore, &Head),
) -> Result<Option<Whole>> {
    let parts = || {
        let device = experts.on_device()?;
        let (norm, head) = head.there()?;
        let layer = |number: usize| {
            let block = &blocks[number];
            let Attends::There(attention) = &block.attention else { return None };
            let ([query, key, value, out], of) = (attention.weights(), &config.layers[number]);
            let (laid, slots) = device.layer(number as u16)?;
            Some(LayerParts {
                router: block.router.there()?,
                norm_in: block.norm_in.there()?,
                query,
                key,
                value,
                out,
                rotary: of.rotary,
                window: of.window,
                norm_ffn: block.norm_ffn.there()?,
                laid,
                slots,
            })
        };
        Some(Parts {
            width: config.width,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_width: config.head_width,
            active: config.active,
            gating: config.gating,
            epsilon: config.norm_epsilon,
            slab: device.slab(),
            layers: (0..blocks.len()).map(layer).collect::<Option<_>>()?,
            norm,
            head,
        })
    };
    parts().map_or(Ok(None), |parts| Whole::new(accelerator, &parts))
}

/// Counts what a token took, which the device chose. Errors as the router does.
pub fn count(experts: &Step<'_>, spoken: &Spoken) -> Result<()> {
    for (layer, chosen) in spoken.chosen.iter().enumerate() {
        let layer = layer as u16;
        let (ids, weights) = chosen.as_ref().ok_or_else(|| not_finite(layer, 0))?;
        let ids: Vec<u16> = ids.iter().map(|id| *id as u16).collect();
        let choice = Choice { layer, active: ids.len(), experts: ids, weights: weights.clone() };
        experts.count(&choice.groups(), 1);
    }
    Ok(())
}
