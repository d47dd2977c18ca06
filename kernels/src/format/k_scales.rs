//! The twelve bytes in which Q4_K and Q5_K keep eight pairs of 6-bit numbers.

/// Scale and minimum of run `j` (below 8) from the twelve bytes `t`: the first four pairs lie plainly in the low six
/// bits, the last four have their upper two bits in the two left over there.
#[inline(always)]
pub(super) fn scale_and_minimum(t: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (t[j] & 63, t[j + 4] & 63)
    } else {
        (t[j + 4] & 15 | (t[j - 4] >> 6) << 4, t[j + 4] >> 4 | (t[j] >> 6) << 4)
    }
}
