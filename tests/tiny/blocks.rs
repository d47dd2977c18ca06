//! Blocks of formats that are read and never written: any bytes are valid, so random ones, scaled to the size of numbers
//! a model would have.

use super::uniform;
use half::f16;
use kernels::Format;

/// Fills `bytes` with blocks whose numbers are as large as `like`, on the root of the mean square.
pub fn random(format: Format, like: &[f32], bytes: &mut [u8]) {
    // Where a block keeps its scale, and its minimum: half of the largest code, so that numbers lie around zero.
    let (scale, minimum) = match format {
        Format::Q3_K => (108, None),
        Format::Q6_K => (208, None),
        Format::Q4_K => (0, Some((2, 7.5))),
        Format::Q5_K => (0, Some((2, 15.5))),
        other => panic!("{other} can be written"),
    };
    let mut seed = u64::from(like[0].to_bits()) << 32 | u64::from(like[1].to_bits());
    let mut put = |bytes: &mut [u8], d: f32, fresh: bool| {
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            if fresh {
                block.fill_with(|| (uniform(&mut seed) * 128.0) as i8 as u8);
            }
            block[scale..scale + 2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
            if let Some((at, half)) = minimum {
                block[at..at + 2].copy_from_slice(&f16::from_f32(d * half).to_le_bytes());
            }
        }
    };
    put(bytes, 1.0 / 64.0, true);
    let mut numbers = vec![0f32; like.len()];
    format.decode(bytes, &mut numbers);
    let size = |list: &[f32]| (list.iter().map(|x| x * x).sum::<f32>() / list.len() as f32).sqrt();
    let factor = size(like) / size(&numbers);
    put(bytes, factor / 64.0, false);
}
