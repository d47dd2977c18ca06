//! The door between candle tensors and slices.
//!
//! Activations are small: a slice is borrowed where it lies, a result moves into its tensor. Nothing is copied.

use crate::error::{Error, Result};
use crate::host::{Host, Share};
use candle_core::{CpuStorage, Device, Storage, Tensor};
use kernels::Activations;

/// Hands `read` the numbers of `x`, row-major. Errors when `x` is not f32 on the host.
pub fn with_slice<R>(x: &Tensor, read: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => {
            let (start, end) = layout.contiguous_offsets().expect("made contiguous above");
            Ok(read(&values[start..end]))
        }
        _ => Err(Error::Runtime(format!(
            "expected f32 activations on the host, found {:?} on {:?}",
            x.dtype(),
            x.device()
        ))),
    }
}

/// A `[rows, width]` tensor that owns `values`.
pub fn tensor(values: Vec<f32>, width: usize) -> Result<Tensor> {
    let rows = values.len() / width;
    Ok(Tensor::from_vec(values, (rows, width), &Device::Cpu)?)
}

/// `x` `[t, width]`, rounded for the integer kernels.
pub fn activations(host: &Host, x: &Tensor) -> Result<Activations> {
    let (t, width) = x.dims2()?;
    with_slice(x, |values| host.timed(Share::Round, || Activations::new(host.isa, values, t, width)))
}
