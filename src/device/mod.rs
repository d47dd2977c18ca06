//! Accelerators: memory of their own, and what can be computed there.
//!
//! An [`Accelerator`] is an opened device. What lies on it ([`Weight`], [`Slab`], [`Ring`]) is held against its memory,
//! and what travels between it and the host goes through [`Accelerator::bring`] and [`Accelerator::fetch`], which count.
//! The mathematics is written once, in candle operations; a device with kernels of its own takes their place where it
//! has them. The stand-in is the processor behind the same door: it decodes weights each time they are used and computes
//! row by row, so that the cut of a prompt into steps changes no bit.

// Kernels of our own for a kind of device, or nothing in their place.
#[cfg(feature = "cuda")]
#[path = "cuda/mod.rs"]
mod own;
#[cfg(not(feature = "cuda"))]
#[path = "none.rs"]
mod own;
mod ring;
mod slab;
mod speeds;
#[cfg(test)]
mod tests;
mod weight;
mod whole;

pub use ring::Ring;
pub use slab::{Chosen, Laid, Slab};
pub use speeds::Speeds;
pub use weight::Weight;
pub use whole::{LayerParts, Parts, Spoken, Whole};

use crate::config::placement::DeviceName;
use crate::config::size::shown;
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What crosses the border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Weights, as they are loaded.
    Weights,
    /// Cosines and sines of the positions of a step.
    Angles,
    /// What each query of a prompt's step sees.
    Mask,
    /// The residual stream, where one layer lies here and the next there.
    Hidden,
    /// A router's logits.
    Router,
    /// The normed vectors that experts on the other side compute with.
    Normed,
    /// Which rows go to an expert, and how much each counts: prompts only.
    Choice,
    /// What experts on the other side add up to.
    Sum,
    Logits,
    /// Keys and values of a session that is saved or restored.
    Cache,
}

impl What {
    pub const ALL: [What; 10] = {
        use What::*;
        [Weights, Angles, Mask, Hidden, Router, Normed, Choice, Sum, Logits, Cache]
    };
}

/// How often something crossed in one direction, and how many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crossed {
    pub times: u64,
    pub bytes: u64,
}

#[derive(Default)]
struct Counter {
    times: AtomicU64,
    bytes: AtomicU64,
}

impl Counter {
    fn add(&self, bytes: u64) {
        self.times.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    fn read(&self) -> Crossed {
        Crossed { times: self.times.load(Relaxed), bytes: self.bytes.load(Relaxed) }
    }
}

/// An opened device.
pub struct Accelerator {
    name: DeviceName,
    device: Device,
    /// Kernels of our own, where there are any for this device: candle's operations otherwise.
    own: Option<own::Own>,
    /// Weights are decoded each time they are used and rows are computed one at a time: the stand-in's way.
    plodding: bool,
    /// Most bytes that may be held, where there is a bound.
    most: Option<u64>,
    held: AtomicU64,
    peak: AtomicU64,
    /// By `What`: to the device, and from it.
    crossings: [(Counter, Counter); What::ALL.len()],
}

/// Some bytes of an accelerator's memory, until it is dropped.
pub struct Hold {
    accelerator: Arc<Accelerator>,
    bytes: u64,
}

impl Accelerator {
    /// Opens the device of this name; `most` bounds what may be held there.
    ///
    /// Fails with `Error::Usage` where this program was built without it, or the machine has none.
    pub fn open(name: DeviceName, most: Option<u64>) -> Result<Arc<Accelerator>> {
        let device = match name {
            DeviceName::StandIn => Device::Cpu,
            DeviceName::Cuda(number) => cuda(number)?,
            DeviceName::Metal => metal()?,
        };
        Ok(Accelerator::of(name, device, name == DeviceName::StandIn, most))
    }

    /// The first there is of those this program was built for; `None` where it was built for none.
    pub fn first(most: Option<u64>) -> Option<Result<Arc<Accelerator>>> {
        let built = [(cfg!(feature = "cuda"), DeviceName::Cuda(0)), (cfg!(feature = "metal"), DeviceName::Metal)];
        built.into_iter().find(|(built, _)| *built).map(|(_, name)| Accelerator::open(name, most))
    }

    fn of(name: DeviceName, device: Device, plodding: bool, most: Option<u64>) -> Arc<Accelerator> {
        let (held, peak) = (AtomicU64::new(0), AtomicU64::new(0));
        let own = own::Own::of(&device);
        Arc::new(Accelerator { name, device, own, plodding, most, held, peak, crossings: Default::default() })
    }

    pub fn name(&self) -> DeviceName {
        self.name
    }

    /// What tensors of it name as their device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What its maker calls it, where that can be known.
    pub fn model(&self) -> Option<String> {
        match &self.device {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => device.cuda_stream().context().name().ok(),
            _ => None,
        }
    }

    /// Its name for people.
    pub fn called(&self) -> String {
        self.model().map_or_else(|| self.name.to_string(), |model| format!("{}, {model}", self.name))
    }

    /// Waits until everything that was begun is done.
    pub fn finish(&self) -> Result<()> {
        Ok(self.device.synchronize()?)
    }

    /// Bytes of its memory that nobody uses, where that can be known.
    pub fn free(&self) -> Option<u64> {
        match self.name {
            #[cfg(feature = "cuda")]
            DeviceName::Cuda(_) => {
                // Of the device that this thread opened last: there is one.
                let info = candle_core::cuda_backend::cudarc::driver::result::mem_get_info();
                info.ok().map(|(free, _)| free as u64)
            }
            _ => None,
        }
    }

    /// Takes `bytes` of its memory. Fails with `Error::Memory` beyond its bound.
    pub fn hold(self: &Arc<Self>, bytes: u64) -> Result<Hold> {
        let held = self.held.fetch_add(bytes, Relaxed) + bytes;
        let hold = Hold { accelerator: self.clone(), bytes };
        if let Some(most) = self.most.filter(|most| held > *most) {
            return Err(Error::Memory(format!(
                "{}: {} more do not fit in the {} that may be used of its memory, of which {} are held",
                self.name,
                shown(bytes),
                shown(most),
                shown(held - bytes)
            )));
        }
        self.peak.fetch_max(held, Relaxed);
        Ok(hold)
    }

    /// Bytes of weights and caches held now, and the most that were.
    pub fn held(&self) -> (u64, u64) {
        (self.held.load(Relaxed), self.peak.load(Relaxed))
    }

    /// A tensor of the host, here.
    pub fn bring(&self, what: What, x: &Tensor) -> Result<Tensor> {
        self.crossings[what as usize].0.add(bytes(x));
        match self.own.as_ref().map(|own| own.bring(x)).transpose()?.flatten() {
            Some(there) => Ok(there),
            None => self.across(x, &self.device),
        }
    }

    /// A tensor of this device, on the host.
    pub fn fetch(&self, what: What, x: &Tensor) -> Result<Tensor> {
        self.crossings[what as usize].1.add(bytes(x));
        match self.own.as_ref().map(|own| own.fetch(x)).transpose()?.flatten() {
            Some(here) => Ok(here),
            None => self.across(x, &Device::Cpu),
        }
    }

    fn across(&self, x: &Tensor, to: &Device) -> Result<Tensor> {
        match self.name {
            DeviceName::StandIn => Ok(x.copy()?), // what is here is never there
            _ => Ok(x.to_device(to)?),
        }
    }

    /// Counts what was brought by other means.
    fn brought(&self, what: What, bytes: u64) {
        self.crossings[what as usize].0.add(bytes);
    }

    /// Counts what was fetched by other means.
    fn took(&self, what: What, bytes: u64) {
        self.crossings[what as usize].1.add(bytes);
    }

    /// What crossed so far: to the device, and from it.
    pub fn crossed(&self, what: What) -> (Crossed, Crossed) {
        let (to, from) = &self.crossings[what as usize];
        (to.read(), from.read())
    }

    /// RMSNorm of each row of `x` `[t, width]` (specification 3.1, step 2.2); `weight` is `[width]`.
    pub fn norm(&self, x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
        if let Some(own) = &self.own {
            return own.norm(x, weight, epsilon);
        }
        Ok(candle_nn::ops::rms_norm(&x.contiguous()?, weight, epsilon)?)
    }

    /// Rotates each head of `x` `[t, heads * head_width]` (half-split) by the angles of its row: `cos`, `sin`
    /// `[t, head_width / 2]`.
    pub fn rotate(&self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        if let Some(own) = &self.own {
            return own.rotate(x, cos, sin);
        }
        let ((t, width), head_width) = (x.dims2()?, 2 * cos.dim(1)?);
        let heads = x.reshape((1, t, width / head_width, head_width))?.transpose(1, 2)?.contiguous()?;
        let turned = candle_nn::rotary_emb::rope(&heads, cos, sin)?;
        Ok(turned.transpose(1, 2)?.reshape((t, width))?)
    }

    /// `compute` of all rows of `x` at once, or of each alone.
    fn rows(&self, x: &Tensor, compute: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let t = x.dim(0)?;
        if t == 1 || !self.plodding {
            return compute(x);
        }
        let rows: Vec<Tensor> = (0..t).map(|row| compute(&x.narrow(0, row, 1)?)).collect::<Result<_>>()?;
        Ok(Tensor::cat(&rows, 0)?)
    }
}

impl fmt::Debug for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} bytes held", self.name, self.held().0)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.accelerator.held.fetch_sub(self.bytes, Relaxed);
    }
}

fn bytes(x: &Tensor) -> u64 {
    (x.elem_count() * x.dtype().size_in_bytes()) as u64
}

/// Why a device cannot be had, in few words: without the way the error came, and the driver's own name for it where it has one.
#[cfg(any(feature = "cuda", feature = "metal", test))]
fn reason(e: candle_core::Error) -> String {
    if let candle_core::Error::WithBacktrace { inner, .. } = e {
        return reason(*inner);
    }
    let text = e.to_string();
    let word = |c: char| !(c.is_ascii_uppercase() || c == '_');
    match text.split(word).find(|word| word.starts_with("CUDA_ERROR_")) {
        Some("CUDA_ERROR_NO_DEVICE") => "no NVIDIA GPU answers, or there is no driver for it".into(),
        Some(code) => format!("the driver says {code}"),
        None => text,
    }
}

#[cfg(feature = "cuda")]
fn cuda(number: usize) -> Result<Device> {
    // A stream of its own, the same from every thread.
    Device::new_cuda_with_stream(number)
        .map_err(|e| Error::Usage(format!("cuda:{number}: no such device can be used here: {}", reason(e))))
}

#[cfg(not(feature = "cuda"))]
fn cuda(number: usize) -> Result<Device> {
    Err(Error::Usage(format!(
        "cuda:{number}: this program was built without CUDA (`cargo build --release --features cuda`); without -dev, or with \
         -dev cpu, the processor does the work"
    )))
}

#[cfg(feature = "metal")]
fn metal() -> Result<Device> {
    Device::new_metal(0).map_err(|e| Error::Usage(format!("metal: no such device can be used here: {}", reason(e))))
}

#[cfg(not(feature = "metal"))]
fn metal() -> Result<Device> {
    Err(Error::Usage(
        "metal: this program was built without Metal (`cargo build --release --features metal`); without -dev, or with -dev \
         cpu, the processor does the work"
            .into(),
    ))
}
