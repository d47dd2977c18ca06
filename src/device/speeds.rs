//! How fast an accelerator is at what plans are made of: a long product, starting a kernel, a way across and back.

use super::{Accelerator, Weight, What};
use crate::checkpoint::{Form, Kind};
use crate::config::placement::DeviceName;
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use kernels::Format;
use std::sync::Arc;
use std::time::Instant;

/// What an accelerator does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speeds {
    /// Bytes of weights a second, by products that read and multiply.
    pub bandwidth: f64,
    /// Seconds of one small operation after another, as the processor asks for them one by one.
    pub launch: f64,
    /// Seconds of a small kernel in a row that is asked for once, where the device has kernels of ours.
    pub chained: Option<f64>,
    /// Seconds of a short way there and back, and bytes a second of a long one.
    pub crossing: f64,
    pub link: f64,
    /// Measured on the device, rather than taken from a description.
    pub measured: bool,
}

/// Of what an accelerator's memory could give, so much is reached by kernels that read and multiply.
const REACHED: f64 = 0.7;
/// Seconds of a small operation, of one in a row, and for a way there and back, where nothing was measured: about what an H200
/// showed.
const LAUNCH: f64 = 9e-6;
const CHAINED: f64 = 4e-6;
const CROSSING: f64 = 30e-6;

impl Speeds {
    /// As makers describe one: bytes a second of its memory, and between it and ours.
    pub fn described(bandwidth: f64, link: f64) -> Speeds {
        let bandwidth = bandwidth * REACHED;
        Speeds { bandwidth, launch: LAUNCH, chained: Some(CHAINED), crossing: CROSSING, link, measured: false }
    }

    /// What stands in for an accelerator is taken for one beside which the processor counts for nothing, so that as much lies
    /// there as may.
    pub fn stand_in() -> Speeds {
        Speeds { launch: 0.0, chained: None, crossing: 0.0, ..Speeds::described(1e15, 1e15) }
    }

    /// Measures `accelerator`, in memory beside its bound, within a second. The stand-in is not measured: it is slow by
    /// intent.
    ///
    /// Fails where its memory is short, or it does.
    pub fn of(accelerator: &Accelerator) -> Result<Speeds> {
        match accelerator.name() {
            DeviceName::StandIn => Ok(Speeds::stand_in()),
            name => measure(&Accelerator::open(name, None)?),
        }
    }
}

/// A matrix beyond the caches of a device: 75 MB of four bits.
const ROWS: usize = 32_768;
const WIDTH: usize = 4096;
/// Products, kernels and ways of one repetition, and repetitions of which the middle one counts.
const PRODUCTS: usize = 8;
const KERNELS: usize = 200;
const WAYS: usize = 50;
const REPETITIONS: usize = 5;
/// Numbers that go a long way at once.
const LONG: usize = 8 << 20;
/// As wide as a hidden vector.
const SHORT: usize = 2560;

fn measure(accelerator: &Arc<Accelerator>) -> Result<Speeds> {
    let kind = Kind { format: Format::Q4_0, form: Form::FILE, rows: ROWS, width: WIDTH };
    let matrix = Weight::new(accelerator, &kind, &vec![0x11; kind.bytes()])?;
    let x = accelerator.bring(What::Hidden, &Tensor::ones((1, WIDTH), DType::F32, &Device::Cpu)?)?;
    let weight = x.flatten_all()?;
    let launch = seconds(accelerator, KERNELS, &mut || accelerator.norm(&x, &weight, 1e-6).map(drop))?;
    let chained = accelerator.own.as_ref().map(|own| own.in_a_row(&x, &weight, KERNELS)).transpose()?;
    let product = seconds(accelerator, PRODUCTS, &mut || matrix.product(&x).map(drop))?;
    let there_and_back = |numbers: usize, times: usize| {
        let x = Tensor::ones((1, numbers), DType::F32, &Device::Cpu)?;
        seconds(accelerator, times, &mut || {
            let there = accelerator.bring(What::Hidden, &x)?;
            accelerator.fetch(What::Hidden, &there).map(drop)
        })
    };
    let (crossing, long) = (there_and_back(SHORT, WAYS)?, there_and_back(LONG, 1)?);
    Ok(Speeds {
        bandwidth: kind.bytes() as f64 / (product - launch).max(1e-9),
        launch,
        chained,
        crossing,
        link: 2.0 * 4.0 * LONG as f64 / (long - crossing).max(1e-9),
        measured: true,
    })
}

/// Seconds of one `act` among `times`, all of them done: the middle of some repetitions after one that does not count.
fn seconds(accelerator: &Accelerator, times: usize, act: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let mut all = vec![];
    for _ in 0..=REPETITIONS {
        accelerator.finish()?;
        let start = Instant::now();
        (0..times).try_for_each(|_| act())?;
        accelerator.finish()?;
        all.push(start.elapsed().as_secs_f64() / times as f64);
    }
    all.remove(0);
    all.sort_by(f64::total_cmp);
    Ok(all[all.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On the only device there always is.
    #[test]
    fn what_is_measured_is_plausible() {
        let here = Accelerator::open(DeviceName::StandIn, None).unwrap();
        assert_eq!(Speeds::of(&here).unwrap(), Speeds::stand_in());
        let x = Tensor::ones((1, 64), DType::F32, &Device::Cpu).unwrap();
        let mut calls = 0;
        let each = seconds(&here, 10, &mut || {
            calls += 1;
            here.bring(What::Hidden, &x).map(drop)
        });
        assert!((1e-9..1e-2).contains(&each.unwrap()) && calls == 10 * (REPETITIONS + 1));
    }
}
