//! Activations as the verbs want them: as given, and rounded once to integers for all matrices they meet.

use half::f16;

use crate::Isa;
use crate::format::RUN;
use crate::layout::LANES;

/// `t` vectors of `width` activations: as given, and rounded to int8, 32 at a time.
///
/// Rounding: `scale = largest magnitude / 127`, itself rounded to f16 where that has a normal number for it (the field's
/// Q8_0, so that other engines' products can be compared term by term), `code = round_half_to_even(x * (127 / largest))`. A
/// block whose largest magnitude is below `2^-100` rounds to zero altogether, scale included; one that holds an infinity or a NaN gets the scale
/// NaN. Widths that are no multiple of 32 are not rounded and meet float formats only.
#[derive(Clone, Default)]
pub struct Activations {
    t: usize,
    width: usize,
    /// `[t][width]`
    values: Vec<f32>,
    /// `[t][groups]`, the last group of a vector filled up with zeros.
    groups: Vec<Group>,
}

/// Sixteen rounded blocks, lying in lanes as rows in [`Layout::Lanes`](crate::Layout) do.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Group {
    /// Line `k` holds activations `4k..4k + 4` of block `j` at `4j..`.
    pub codes: [[i8; 64]; 8],
    pub scales: [f32; LANES],
    /// Sum of each block's codes, and of its first sixteen: what a constant offset in a weight's code multiplies.
    pub whole: [i32; LANES],
    pub first: [i32; LANES],
}

impl Group {
    const ZERO: Group = Group { codes: [[0; 64]; 8], scales: [0.0; LANES], whole: [0; LANES], first: [0; LANES] };

    /// Which codes of block `j` are not zero: a bit for each, the first the lowest.
    #[inline(always)]
    pub fn fires(&self, j: usize) -> u32 {
        let mut fires = 0;
        for (k, line) in self.codes.iter().enumerate() {
            let four = u32::from_le_bytes(std::array::from_fn(|i| line[4 * j + i] as u8));
            // The highest bit of each byte that is not zero, and the four of them side by side.
            let set = (((four & 0x7f7f_7f7f) + 0x7f7f_7f7f) | four) & 0x8080_8080;
            fires |= ((set >> 7).wrapping_mul(0x1020_4080) >> 28) << (4 * k);
        }
        fires
    }
}

/// Largest magnitudes below this round to silence; the reciprocal of anything above is finite.
pub(crate) const SILENT: f32 = f32::from_bits((127 - 100) << 23);

/// The scale of a block whose largest magnitude is `largest`.
pub(crate) fn scale_of(largest: f32) -> f32 {
    let scale = largest / 127.0;
    if scale_is_half(scale) { f16::from_f32(scale).to_f32() } else { scale }
}

/// Whether f16 has a normal number for this scale.
#[inline(always)]
pub(crate) fn scale_is_half(scale: f32) -> bool {
    const LARGEST: f32 = 65504.0;
    const SMALLEST: f32 = 1.0 / 16384.0;
    (SMALLEST..=LARGEST).contains(&scale)
}

impl Activations {
    /// `values` is `[t][width]`.
    pub fn new(isa: Isa, values: &[f32], t: usize, width: usize) -> Activations {
        let mut activations = Activations::default();
        activations.set(isa, values, t, width);
        activations
    }

    /// As [`Activations::new`], in the memory of this one.
    pub fn set(&mut self, isa: Isa, values: &[f32], t: usize, width: usize) {
        assert!(t > 0 && width > 0, "activations [{t}, {width}]: expected at least one number");
        assert_eq!(Some(values.len()), t.checked_mul(width), "activations [{t}, {width}]");
        self.t = t;
        self.width = width;
        self.values.clear();
        self.values.extend_from_slice(values);
        let groups = self.groups_each();
        self.groups.clear();
        self.groups.resize(t * groups, Group::ZERO);
        if groups > 0 {
            let round = crate::arch::round(isa);
            for (x, groups) in values.chunks_exact(width).zip(self.groups.chunks_exact_mut(groups)) {
                // SAFETY: `isa` proves that the processor has the instructions `round` was compiled for.
                unsafe { round(x, groups) };
            }
        }
    }

    /// The vectors of these indices, in this order; an index may come more than once.
    pub fn gather(&self, vectors: &[usize]) -> Activations {
        assert!(!vectors.is_empty(), "gather: expected at least one vector");
        let each = self.groups_each();
        let mut values = Vec::with_capacity(vectors.len() * self.width);
        let mut groups = Vec::with_capacity(vectors.len() * each);
        for &i in vectors {
            values.extend_from_slice(self.vector(i));
            groups.extend_from_slice(&self.groups[i * each..(i + 1) * each]);
        }
        Activations { t: vectors.len(), width: self.width, values, groups }
    }

    /// How many vectors there are.
    pub fn t(&self) -> usize {
        self.t
    }

    /// Numbers in a vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// `[t][width]`, as given.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Vector `t`, as given.
    pub fn vector(&self, t: usize) -> &[f32] {
        &self.values[t * self.width..(t + 1) * self.width]
    }

    /// Number `i` of vector `t`, rounded: the code. Multiply with [`Activations::scale`] of block `i / 32`.
    pub fn code(&self, t: usize, i: usize) -> i8 {
        let (b, i) = (i / RUN, i % RUN);
        self.groups(t)[b / LANES].codes[i / 4][b % LANES * 4 + i % 4]
    }

    /// Which numbers of block `block` of vector `t` are not rounded to zero: a bit for each, the first the lowest.
    #[inline]
    pub fn fires(&self, t: usize, block: usize) -> u32 {
        self.groups(t)[block / LANES].fires(block % LANES)
    }

    /// The scale of 32 rounded numbers.
    pub fn scale(&self, t: usize, block: usize) -> f32 {
        self.groups(t)[block / LANES].scales[block % LANES]
    }

    /// Whether the vectors are rounded: their width is a multiple of 32.
    pub fn is_rounded(&self) -> bool {
        self.width.is_multiple_of(RUN)
    }

    /// The rounded blocks of vector `t`, in groups of sixteen; none where the vectors are not rounded.
    pub(crate) fn groups(&self, t: usize) -> &[Group] {
        let each = self.groups_each();
        &self.groups[t * each..(t + 1) * each]
    }

    fn groups_each(&self) -> usize {
        if self.is_rounded() { (self.width / RUN).div_ceil(LANES) } else { 0 }
    }
}
