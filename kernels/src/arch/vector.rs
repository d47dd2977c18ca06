//! One register of numbers: exactly the operations that the loops of this folder need, so that each loop is written once.
//!
//! Every method is unsafe for one reason: its instructions may only run where the processor has them. The loops are inlined
//! into functions compiled for those instructions (`x86_64/`, `aarch64/`), which only a matching `Isa` leads to. Methods
//! that take an address also need it readable (or writable) for as many bytes as they say; alignment is never assumed.

/// `LANES` lanes of 32 bits, integers or floats.
pub(crate) trait Vector: Copy {
    /// 4, 8 or 16.
    const LANES: usize;
    /// What [`Vector::dot_signed`] adds to each weight before it multiplies: 0, or 128 where the instruction wants
    /// unsigned codes. The caller takes it off again, times the sum of the activations.
    const SIGNED_OFFSET: i32;
    /// Whether [`Vector::dot`] takes codes up to 255.
    const WHOLE_BYTES: bool;
    /// Rows and vectors of activations whose products are summed at the same time: what the registers hold.
    const ROWS: usize;
    type I: Copy;
    type F: Copy;

    /// `4 * LANES` bytes.
    unsafe fn load(from: *const u8) -> Self::I;
    /// `4 * n` bytes into the first `n` lanes (all of them if `n` is larger), zero into the others.
    unsafe fn load_some(from: *const u8, n: usize) -> Self::I;
    unsafe fn splat(x: i32) -> Self::I;
    /// `LANES` bytes, one to a lane, unsigned.
    unsafe fn bytes(from: *const u8) -> Self::I;
    /// `LANES` bytes, one to a lane, signed.
    unsafe fn signed_bytes(from: *const u8) -> Self::I;
    /// Lanes 0..8 are the bytes of `low`, 8..16 those of `high`, least significant first.
    unsafe fn widen_bytes(low: u64, high: u64) -> Self::I;
    /// Lane `i` is 16-bit word `i`, four to a number, least significant first, unsigned.
    unsafe fn widen_words(words: [u64; 4]) -> Self::I;
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn add(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn sub(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn mul(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn shl(a: Self::I, by: i32) -> Self::I;
    /// The larger, as signed integers.
    unsafe fn max(a: Self::I, b: Self::I) -> Self::I;
    /// Zeros come in from the left.
    unsafe fn shr(a: Self::I, by: i32) -> Self::I;
    unsafe fn shr_each(a: Self::I, by: Self::I) -> Self::I;
    /// Copies of the sign come in from the left.
    unsafe fn shr_signed(a: Self::I, by: i32) -> Self::I;

    /// `4 * LANES` bytes.
    unsafe fn store(to: *mut u8, a: Self::I);
    unsafe fn load_f(from: *const f32) -> Self::F;
    unsafe fn store_f(to: *mut f32, a: Self::F);
    unsafe fn splat_f(x: f32) -> Self::F;
    /// `LANES` f16 numbers.
    unsafe fn halves(from: *const u8) -> Self::F;
    /// `n` f16 numbers into the first `n` lanes (all of them if `n` is larger), zero into the others.
    unsafe fn halves_some(from: *const u8, n: usize) -> Self::F;
    /// The f16 numbers in the low halves of the lanes.
    unsafe fn low_halves(a: Self::I) -> Self::F;
    /// The f16 numbers at `LANES` addresses.
    unsafe fn gather_halves(from: impl Fn(usize) -> *const u8) -> Self::F;
    /// The f16 number at this address in all lanes.
    unsafe fn splat_half(from: *const u8) -> Self::F;
    /// What [`Vector::nibbles_times`] wants for this factor.
    unsafe fn nibble_table(factor: Self::F) -> Self::F;
    /// `factor * (nibble - 8)` for the low nibbles of the lanes; other bits may be anything.
    unsafe fn nibbles_times(table: Self::F, codes: Self::I) -> Self::F;
    /// `LANES` bf16 numbers.
    unsafe fn brains(from: *const u8) -> Self::F;
    /// The same bits.
    unsafe fn as_f(a: Self::I) -> Self::F;
    unsafe fn to_f(a: Self::I) -> Self::F;
    /// The nearest integers, halves to even; anything for what has none.
    unsafe fn nearest(a: Self::F) -> Self::I;
    /// The nearest f16 numbers, ties to even.
    unsafe fn round_half(a: Self::F) -> Self::F;
    unsafe fn div_f(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul_f(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, rounded once.
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;

    /// To each lane, the four products of its unsigned codes and the signed activations. No code is above `HIGHEST`, nor
    /// any activation below -127.
    unsafe fn dot<const HIGHEST: i32>(sum: Self::I, codes: Self::I, x: Self::I) -> Self::I;
    /// Four [`Vector::dot`]s.
    #[inline(always)]
    unsafe fn dot4<const HIGHEST: i32>(sum: Self::I, codes: [Self::I; 4], x: [Self::I; 4]) -> Self::I {
        // SAFETY: as for this method.
        unsafe {
            let sum = Self::dot::<HIGHEST>(sum, codes[0], x[0]);
            let sum = Self::dot::<HIGHEST>(sum, codes[1], x[1]);
            let sum = Self::dot::<HIGHEST>(sum, codes[2], x[2]);
            Self::dot::<HIGHEST>(sum, codes[3], x[3])
        }
    }
    /// Signed weights as [`Vector::dot_signed`] wants them.
    unsafe fn signed(weights: Self::I) -> Self::I;
    /// To each lane, the four products of its prepared weights, [`Vector::SIGNED_OFFSET`] added, and the activations.
    unsafe fn dot_signed(sum: Self::I, weights: Self::I, x: Self::I) -> Self::I;

    /// 16 bytes at each of `LANES` addresses: lane `j` of vector `k` is bytes `4k..4k + 4` at address `j`.
    unsafe fn transpose(from: impl Fn(usize) -> *const u8) -> [Self::I; 4];
    /// The bytes of four vectors in turn: lane `4l + d` of vector `i` holds byte `16l + 4i + d` of all four.
    unsafe fn interleave(a: [Self::I; 4]) -> [Self::I; 4];

    /// The sum of sixteen numbers by the tree `l + 8`, `l + 4`, `l + 2`, `l + 1`.
    unsafe fn total(of: *const f32) -> f32;
    /// Asks for the cache line at this address; any address will do.
    unsafe fn prefetch(at: *const u8);
}
