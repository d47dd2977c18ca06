//! One token through a model whose every part lies on an accelerator with kernels of our own: nothing crosses but the row of
//! the embedding and the logits, and nobody waits in between. What is computed is what the parts compute one by one, to the bit.

use super::own;
use super::{Accelerator, Laid, Ring, Slab, Weight, What};
use crate::config::Gating;
use crate::error::Result;
use candle_core::Tensor;
use std::sync::Arc;

/// A model's parts, as they lie there.
pub struct Parts<'a> {
    pub width: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_width: usize,
    pub active: usize,
    pub gating: Gating,
    pub epsilon: f32,
    pub slab: &'a Slab,
    pub layers: Vec<LayerParts<'a>>,
    /// `[width]`
    pub norm: &'a Tensor,
    pub head: &'a Weight,
}

pub struct LayerParts<'a> {
    pub router: &'a Weight,
    /// `[width]`
    pub norm_in: &'a Tensor,
    pub query: &'a Weight,
    pub key: &'a Weight,
    pub value: &'a Weight,
    pub out: &'a Weight,
    pub rotary: bool,
    pub window: Option<usize>,
    /// `[width]`
    pub norm_ffn: &'a Tensor,
    pub laid: Laid,
    /// By expert: its slot.
    pub slots: Vec<u32>,
}

/// What came of a token: its logits, and by layer which experts it took, ascending, with their shares; `None` where a
/// router's logit was no finite number.
pub struct Spoken {
    pub logits: Vec<f32>,
    pub chosen: Vec<Option<(Vec<u32>, Vec<f32>)>>,
}

/// Made of parts by their addresses: whoever keeps it keeps them, where they are.
pub struct Whole {
    accelerator: Arc<Accelerator>,
    own: own::Whole,
}

impl Whole {
    /// `None` where the accelerator has no kernels of ours, or none for such parts.
    pub fn new(accelerator: &Arc<Accelerator>, parts: &Parts<'_>) -> Result<Option<Whole>> {
        let Some(own) = &accelerator.own else { return Ok(None) };
        Ok(own.whole(parts)?.map(|own| Whole { accelerator: accelerator.clone(), own }))
    }

    /// The token at `position`, whose row of the embedding is `x` and whose cosines and sines these are; its keys and values go
    /// to `rings`, one for each layer. `None`, and nothing is done, where the rings are of a kind it has no kernels for.
    pub fn token(
        &self,
        position: usize,
        mut rings: Vec<&mut Ring>,
        angles: (&[f32], &[f32]),
        x: &[f32],
    ) -> Result<Option<Spoken>> {
        for ring in &mut rings {
            if !ring.keeps()? {
                return Ok(None);
            }
        }
        let kept: Vec<&own::Kept> = rings.iter().filter_map(|ring| ring.own.as_ref().map(|(kept, _)| kept)).collect();
        let own = self.accelerator.own.as_ref().expect("it was made of it");
        let Some(spoken) = own.token(&self.own, position, &kept, angles, x)? else { return Ok(None) };
        self.accelerator.brought(What::Hidden, 4 * x.len() as u64);
        self.accelerator.brought(What::Angles, 8 * angles.0.len() as u64);
        self.accelerator.took(What::Logits, 4 * spoken.logits.len() as u64);
        self.accelerator
            .took(What::Choice, 8 * spoken.chosen.iter().flatten().map(|(ids, _)| ids.len() as u64).sum::<u64>());
        Ok(Some(spoken))
    }
}
