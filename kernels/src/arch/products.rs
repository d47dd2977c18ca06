//! The product of a panel of weights and the activations beside it: the definition of the sums, a register at a time.

use super::unpack::{Panel, Unpack};
use super::vector::Vector;
use crate::activations::Group;

/// The rounded activations that meet a panel: those of as many runs, or of one run in all lanes.
pub(super) trait Side<V: Vector>: Copy {
    unsafe fn codes(self, k: usize) -> V::I;
    unsafe fn scale(self) -> V::F;
    unsafe fn whole(self) -> V::I;
    unsafe fn first(self) -> V::I;
}

/// Runs `lane..lane + LANES` of a group.
#[derive(Clone, Copy)]
pub(super) struct ManyRuns {
    pub group: *const Group,
    pub lane: usize,
}

impl<V: Vector> Side<V> for ManyRuns {
    #[inline(always)]
    unsafe fn codes(self, k: usize) -> V::I {
        // SAFETY: the group exists and has `LANES` lanes from `lane` on; so below.
        unsafe { V::load((&raw const (*self.group).codes[k]).cast::<u8>().add(4 * self.lane)) }
    }

    #[inline(always)]
    unsafe fn scale(self) -> V::F {
        // SAFETY: see `codes`.
        unsafe { V::load_f((&raw const (*self.group).scales).cast::<f32>().add(self.lane)) }
    }

    #[inline(always)]
    unsafe fn whole(self) -> V::I {
        // SAFETY: see `codes`.
        unsafe { V::load((&raw const (*self.group).whole).cast::<u8>().add(4 * self.lane)) }
    }

    #[inline(always)]
    unsafe fn first(self) -> V::I {
        // SAFETY: see `codes`.
        unsafe { V::load((&raw const (*self.group).first).cast::<u8>().add(4 * self.lane)) }
    }
}

/// Runs `lane..` of group `g` of each vector.
#[inline(always)]
pub(super) fn many_runs<const T: usize>(x: [*const Group; T], g: usize, lane: usize) -> [ManyRuns; T] {
    x.map(|x| ManyRuns { group: x.wrapping_add(g), lane })
}

/// Run `lane` of a group, in every lane.
#[derive(Clone, Copy)]
pub(super) struct OneRun {
    pub group: *const Group,
    pub lane: usize,
}

impl<V: Vector> Side<V> for OneRun {
    #[inline(always)]
    unsafe fn codes(self, k: usize) -> V::I {
        // SAFETY: the group exists and `lane` is below sixteen; so below.
        unsafe { V::splat((&raw const (*self.group).codes[k]).cast::<i32>().add(self.lane).read()) }
    }

    #[inline(always)]
    unsafe fn scale(self) -> V::F {
        // SAFETY: see `codes`.
        unsafe { V::splat_f((&raw const (*self.group).scales).cast::<f32>().add(self.lane).read()) }
    }

    #[inline(always)]
    unsafe fn whole(self) -> V::I {
        // SAFETY: see `codes`.
        unsafe { V::splat((&raw const (*self.group).whole).cast::<i32>().add(self.lane).read()) }
    }

    #[inline(always)]
    unsafe fn first(self) -> V::I {
        // SAFETY: see `codes`.
        unsafe { V::splat((&raw const (*self.group).first).cast::<i32>().add(self.lane).read()) }
    }
}

/// `sum` and the products of a panel and the activations beside it: the definition of the sums, `LANES` at a time.
#[inline(always)]
pub(super) unsafe fn add_products<V: Vector, B: Unpack>(sum: V::F, w: &Panel<V>, x: impl Side<V>) -> V::F {
    // SAFETY: as below.
    let [[sum]] = unsafe { add_products_each::<V, B, _, 1, 1>([[sum]], &[*w], [x]) };
    sum
}

/// The same for panels of `R` rows and `T` vectors, each row with each vector. The first half of the codes meets all vectors
/// before the second does: registers hold one half and the products.
#[inline(always)]
pub(super) unsafe fn add_products_each<V: Vector, B: Unpack, S: Side<V>, const R: usize, const T: usize>(
    mut sums: [[V::F; R]; T],
    w: &[Panel<V>; R],
    x: [S; T],
) -> [[V::F; R]; T] {
    // SAFETY: the activations exist; the rest is arithmetic.
    unsafe {
        let mut products = [[V::splat(0); R]; T];
        for t in 0..T {
            let x = x[t];
            let low = [x.codes(0), x.codes(1), x.codes(2), x.codes(3)];
            let less = less::<V, B>(if B::SCALES { x.first() } else { x.whole() });
            for r in 0..R {
                products[t][r] = dot4::<V, B>(less, half_codes::<V>(&w[r].codes).0, low);
                if B::SCALES {
                    products[t][r] = V::mul(products[t][r], w[r].scales[0]);
                }
            }
        }
        for t in 0..T {
            let x = x[t];
            let high = [x.codes(4), x.codes(5), x.codes(6), x.codes(7)];
            for r in 0..R {
                let codes = half_codes::<V>(&w[r].codes).1;
                products[t][r] = if B::SCALES {
                    let last = dot4::<V, B>(less::<V, B>(V::sub(x.whole(), x.first())), codes, high);
                    V::add(products[t][r], V::mul(last, w[r].scales[1]))
                } else {
                    dot4::<V, B>(products[t][r], codes, high)
                };
            }
        }
        for t in 0..T {
            for r in 0..R {
                sums[t][r] = add_scaled::<V, B>(sums[t][r], &w[r], products[t][r], x[t]);
            }
        }
        sums
    }
}

/// `sum` and the integer products, times the factors; then what the minima take off.
#[inline(always)]
pub(super) unsafe fn add_scaled<V: Vector, B: Unpack>(
    sum: V::F,
    w: &Panel<V>,
    products: V::I,
    x: impl Side<V>,
) -> V::F {
    // SAFETY: the activations exist; the rest is arithmetic.
    unsafe {
        let scale = x.scale();
        let sum = V::fma(V::mul_f(w.factor, scale), V::to_f(products), sum);
        if B::MINIMUM { V::fnma(V::mul_f(w.minimum, scale), V::to_f(x.whole()), sum) } else { sum }
    }
}

#[inline(always)]
fn half_codes<V: Vector>(codes: &[V::I; 8]) -> ([V::I; 4], [V::I; 4]) {
    ([codes[0], codes[1], codes[2], codes[3]], [codes[4], codes[5], codes[6], codes[7]])
}

#[inline(always)]
unsafe fn dot4<V: Vector, B: Unpack>(sum: V::I, w: [V::I; 4], x: [V::I; 4]) -> V::I {
    // SAFETY: arithmetic only. No format has codes above those its `HIGHEST` names; the arms are chosen at compile time.
    unsafe {
        if B::SIGNED {
            let sum = V::dot_signed(sum, w[0], x[0]);
            let sum = V::dot_signed(sum, w[1], x[1]);
            let sum = V::dot_signed(sum, w[2], x[2]);
            V::dot_signed(sum, w[3], x[3])
        } else {
            match B::HIGHEST {
                0..=7 => V::dot4::<7>(sum, w, x),
                8..=15 => V::dot4::<15>(sum, w, x),
                16..=31 => V::dot4::<31>(sum, w, x),
                _ => V::dot4::<63>(sum, w, x),
            }
        }
    }
}

/// What the offset of the codes must take off: minus offset times the sum of the activations.
#[inline(always)]
pub(super) unsafe fn less<V: Vector, B: Unpack>(sum_of_x: V::I) -> V::I {
    let offset = if B::SIGNED { V::SIGNED_OFFSET } else { B::OFFSET };
    // SAFETY: arithmetic only.
    unsafe {
        match offset {
            0 => V::splat(0),
            // Offsets are powers of two.
            offset => V::sub(V::splat(0), V::shl(sum_of_x, offset.trailing_zeros() as i32)),
        }
    }
}
