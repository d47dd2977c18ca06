//! One matrix on an accelerator.

use super::own;
use super::{Accelerator, Hold, What};
use crate::checkpoint::{DownOrder, Kind, Stored};
use crate::error::{Error, Result};
use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{DType, Module, Tensor};
use kernels::Format;
use std::borrow::Cow;
use std::sync::Arc;

/// A matrix that lies on an accelerator.
pub struct Weight {
    accelerator: Arc<Accelerator>,
    lies: Lies,
    /// As its file has it.
    rows: usize,
    width: usize,
    /// One row for each input rather than for each output: a `down` by neuron.
    by_input: bool,
    _hold: Option<Hold>,
}

enum Lies {
    /// Blocks as files have them, decoded each time they are used.
    Blocks(Format, Vec<u8>),
    /// `[rows, width]`.
    Floats(Tensor),
    Quantised(QMatMul),
    /// For kernels of our own.
    Own(own::Matrix),
}

impl Weight {
    /// `bytes` of the matrix, in whatever form they lie; takes as many of the accelerator's memory. Fails where that is
    /// short.
    pub fn new(accelerator: &Arc<Accelerator>, kind: &Kind, bytes: &[u8]) -> Result<Weight> {
        let hold = accelerator.hold(bytes.len() as u64)?;
        let weight = Weight::in_slot(accelerator, kind, DownOrder::ByOutput, bytes)?;
        Ok(Weight { _hold: Some(hold), ..weight })
    }

    /// The same in memory that is held already; `order` is that of a `down`, whose files come in two.
    ///
    /// Fails where candle's operations cannot multiply by such a matrix.
    pub fn in_slot(accelerator: &Arc<Accelerator>, kind: &Kind, order: DownOrder, bytes: &[u8]) -> Result<Weight> {
        let by_input = order == DownOrder::ByNeuron;
        let Kind { format, form, rows, width } = *kind;
        let blocks = || Stored { format, form, rows, width, bytes }.file_rows(0..rows);
        let own = match &accelerator.own {
            Some(own) if !by_input => own.matrix(kind, bytes)?,
            _ => None,
        };
        let lies = if let Some(matrix) = own {
            Lies::Own(matrix)
        } else if accelerator.plodding {
            Lies::Blocks(format, blocks().into_owned())
        } else if format.is_float() {
            Lies::Floats(floats(accelerator, kind, &blocks())?)
        } else if by_input {
            return Err(Error::Usage(format!(
                "{}: experts whose down matrix lies by neuron in {format} are not computed there: leave them to the \
                 processor (--cpu-moe)",
                accelerator.name()
            )));
        } else {
            Lies::Quantised(quantised(accelerator, kind, blocks())?)
        };
        accelerator.brought(What::Weights, bytes.len() as u64);
        Ok(Weight { accelerator: accelerator.clone(), lies, rows, width, by_input, _hold: None })
    }

    /// As it lies for kernels of our own, where it does.
    #[cfg(feature = "cuda")]
    pub(super) fn own(&self) -> Option<&own::Matrix> {
        match &self.lies {
            Lies::Own(matrix) => Some(matrix),
            _ => None,
        }
    }

    /// Width of what comes out.
    pub fn outputs(&self) -> usize {
        if self.by_input { self.width } else { self.rows }
    }

    /// `x` `[t, inputs]` -> `[t, outputs]`, f32.
    pub fn product(&self, x: &Tensor) -> Result<Tensor> {
        let floats = match &self.lies {
            Lies::Quantised(matrix) => return Ok(matrix.forward(&x.contiguous()?)?),
            Lies::Own(matrix) => {
                let own = self.accelerator.own.as_ref().expect("its matrices come from it");
                return own.product(matrix, x);
            }
            Lies::Floats(floats) => floats,
            Lies::Blocks(format, blocks) => return self.decoded(*format, blocks, x),
        };
        self.by(floats, x)
    }

    /// By blocks, decoded some rows at a time: a whole vocabulary of floats would be most of the memory of a run.
    fn decoded(&self, format: Format, blocks: &[u8], x: &Tensor) -> Result<Tensor> {
        /// Numbers decoded at once.
        const AT_ONCE: usize = 4 << 20;
        let rows = if self.by_input { self.rows } else { (AT_ONCE / self.width).clamp(1, self.rows) };
        let bytes = blocks.len() / self.rows;
        let piece = |blocks: &[u8]| {
            let rows = blocks.len() / bytes;
            let mut weights = vec![0f32; rows * self.width];
            format.decode(blocks, &mut weights);
            self.by(&Tensor::from_vec(weights, (rows, self.width), self.accelerator.device())?, x)
        };
        let pieces: Vec<Tensor> = blocks.chunks(rows * bytes).map(piece).collect::<Result<_>>()?;
        Ok(if let [whole] = pieces.as_slice() { whole.clone() } else { Tensor::cat(&pieces, 1)? })
    }

    fn by(&self, floats: &Tensor, x: &Tensor) -> Result<Tensor> {
        let matrix = if self.by_input { floats.clone() } else { floats.t()? };
        let x = x.to_dtype(floats.dtype())?;
        let product = |x: &Tensor| Ok(x.contiguous()?.matmul(&matrix)?);
        Ok(self.accelerator.rows(&x, product)?.to_dtype(DType::F32)?)
    }
}

fn floats(accelerator: &Accelerator, kind: &Kind, blocks: &[u8]) -> Result<Tensor> {
    let dtype = match kind.format {
        Format::F16 => DType::F16,
        Format::BF16 => DType::BF16,
        _ => DType::F32,
    };
    Ok(Tensor::from_raw_buffer(blocks, dtype, &[kind.rows, kind.width], accelerator.device())?)
}

fn quantised(accelerator: &Accelerator, kind: &Kind, blocks: Cow<'_, [u8]>) -> Result<QMatMul> {
    let dtype = match kind.format {
        Format::F32 => GgmlDType::F32,
        Format::F16 => GgmlDType::F16,
        Format::BF16 => GgmlDType::BF16,
        Format::Q4_0 => GgmlDType::Q4_0,
        Format::Q4_1 => GgmlDType::Q4_1,
        Format::Q8_0 => GgmlDType::Q8_0,
        Format::Q3_K => GgmlDType::Q3K,
        Format::Q4_K => GgmlDType::Q4K,
        Format::Q5_K => GgmlDType::Q5K,
        Format::Q6_K => GgmlDType::Q6K,
    };
    // candle looks at blocks in place, so they must begin on a boundary that only a buffer of its own is sure of.
    let storage = QStorage::from_data(Cow::Owned(blocks.into_owned()), accelerator.device(), dtype)?;
    Ok(QMatMul::from_qtensor(QTensor::new(storage, (kind.rows, kind.width))?)?)
}
