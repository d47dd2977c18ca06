//! Sixteen lanes in four 128-bit registers.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::arch::lanes::{Lanes, Loop};

/// Made by [`run`] alone, which promises NEON. Every `unsafe` below rests on that promise, and every pointer on the length
/// of the array it is made from.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

/// Runs a loop with these instructions.
///
/// # Safety
/// The processor has NEON.
#[target_feature(enable = "neon")]
#[inline(never)]
pub(crate) unsafe fn run<W: Loop>(work: W) -> W::Out {
    work.run(Neon(()))
}

#[derive(Clone, Copy)]
pub(crate) struct Four(float32x4_t, float32x4_t, float32x4_t, float32x4_t);

/// Four f16 as f32. The intrinsics for f16 are not stable; the instruction is in every 64-bit ARM.
#[inline(always)]
fn widen(halves: uint16x4_t) -> float32x4_t {
    let wide;
    // SAFETY: `Neon` proves the instruction, which touches registers only.
    unsafe {
        asm!("fcvtl {wide:v}.4s, {halves:v}.4h", wide = lateout(vreg) wide, halves = in(vreg) halves,
            options(pure, nomem, nostack));
    }
    wide
}

/// Four f32 as the nearest f16, ties to even.
#[inline(always)]
fn narrow(wide: float32x4_t) -> uint16x4_t {
    let halves;
    // SAFETY: `Neon` proves the instruction, which touches registers only; rounding is what Rust assumes everywhere.
    unsafe {
        asm!("fcvtn {halves:v}.4h, {wide:v}.4s", halves = lateout(vreg) halves, wide = in(vreg) wide,
            options(pure, nomem, nostack));
    }
    halves
}

impl Neon {
    #[inline(always)]
    fn each(self, a: Four, b: Four, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Four {
        Four(f(a.0, b.0), f(a.1, b.1), f(a.2, b.2), f(a.3, b.3))
    }
}

impl Lanes for Neon {
    type V = Four;
    // Six sums of four registers, four of keys, and what is left of 32 for the query.
    const QUERIES: usize = 6;
    const WIDE: usize = 1;

    #[inline(always)]
    fn apart<W: Loop>(self, work: W) -> W::Out {
        // SAFETY: `Neon` proves the instructions.
        unsafe { run(work) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Four {
        // SAFETY: `Neon` proves the instructions.
        let v = unsafe { vdupq_n_f32(x) };
        Four(v, v, v, v)
    }

    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> Four {
        let from = from.as_ptr();
        // SAFETY: `Neon` proves the instructions; sixteen f32 are four registers.
        unsafe { Four(vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))) }
    }

    #[inline(always)]
    fn store(self, v: Four, into: &mut [f32; 16]) {
        let into = into.as_mut_ptr();
        // SAFETY: `Neon` proves the instructions; sixteen f32 are four registers.
        unsafe {
            vst1q_f32(into, v.0);
            vst1q_f32(into.add(4), v.1);
            vst1q_f32(into.add(8), v.2);
            vst1q_f32(into.add(12), v.3);
        }
    }

    #[inline(always)]
    fn load_f32_bytes(self, from: &[u8; 64]) -> Four {
        let from = from.as_ptr();
        // SAFETY: `Neon` proves the instructions; 64 bytes are four registers, and loads of bytes need no alignment.
        unsafe {
            let part = |i: usize| vreinterpretq_f32_u8(vld1q_u8(from.add(16 * i)));
            Four(part(0), part(1), part(2), part(3))
        }
    }

    #[inline(always)]
    fn store_f32_bytes(self, v: Four, into: &mut [u8; 64]) {
        let into = into.as_mut_ptr();
        // SAFETY: `Neon` proves the instructions; 64 bytes are four registers, and stores of bytes need no alignment.
        unsafe {
            vst1q_u8(into, vreinterpretq_u8_f32(v.0));
            vst1q_u8(into.add(16), vreinterpretq_u8_f32(v.1));
            vst1q_u8(into.add(32), vreinterpretq_u8_f32(v.2));
            vst1q_u8(into.add(48), vreinterpretq_u8_f32(v.3));
        }
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8; 32]) -> Four {
        let from = from.as_ptr();
        // SAFETY: `Neon` proves the instructions; 32 bytes are two registers, and loads of bytes need no alignment.
        unsafe {
            let (a, b) = (vreinterpretq_u16_u8(vld1q_u8(from)), vreinterpretq_u16_u8(vld1q_u8(from.add(16))));
            Four(widen(vget_low_u16(a)), widen(vget_high_u16(a)), widen(vget_low_u16(b)), widen(vget_high_u16(b)))
        }
    }

    #[inline(always)]
    fn store_f16(self, v: Four, into: &mut [u8; 32]) {
        let into = into.as_mut_ptr();
        // SAFETY: `Neon` proves the instructions; 32 bytes are two registers, and stores of bytes need no alignment.
        unsafe {
            vst1q_u8(into, vreinterpretq_u8_u16(vcombine_u16(narrow(v.0), narrow(v.1))));
            vst1q_u8(into.add(16), vreinterpretq_u8_u16(vcombine_u16(narrow(v.2), narrow(v.3))));
        }
    }

    #[inline(always)]
    fn splat_f16(self, from: &[u8; 2]) -> Four {
        // SAFETY: `Neon` proves the instructions.
        let v = widen(unsafe { vdup_n_u16(u16::from_le_bytes(*from)) });
        Four(v, v, v, v)
    }

    #[inline(always)]
    fn load_i8(self, from: &[u8; 16]) -> Four {
        // SAFETY: `Neon` proves the instructions; 16 bytes are one register.
        unsafe {
            let bytes = vreinterpretq_s8_u8(vld1q_u8(from.as_ptr()));
            let (a, b) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            Four(
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(a))),
                vcvtq_f32_s32(vmovl_high_s16(a)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(b))),
                vcvtq_f32_s32(vmovl_high_s16(b)),
            )
        }
    }

    #[inline(always)]
    fn prefetch(self, at: &u8) {
        // SAFETY: `Neon` proves the instructions; a prefetch reads nothing.
        unsafe { asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly)) }
    }

    #[inline(always)]
    fn add(self, a: Four, b: Four) -> Four {
        // SAFETY: `Neon` proves the instructions.
        self.each(a, b, |a, b| unsafe { vaddq_f32(a, b) })
    }

    #[inline(always)]
    fn sub(self, a: Four, b: Four) -> Four {
        // SAFETY: `Neon` proves the instructions.
        self.each(a, b, |a, b| unsafe { vsubq_f32(a, b) })
    }

    #[inline(always)]
    fn mul(self, a: Four, b: Four) -> Four {
        // SAFETY: `Neon` proves the instructions.
        self.each(a, b, |a, b| unsafe { vmulq_f32(a, b) })
    }

    #[inline(always)]
    fn max(self, a: Four, b: Four) -> Four {
        // SAFETY: `Neon` proves the instructions.
        self.each(a, b, |a, b| unsafe { vmaxq_f32(a, b) })
    }

    #[inline(always)]
    fn fma(self, a: Four, b: Four, c: Four) -> Four {
        // SAFETY: `Neon` proves the instructions.
        unsafe {
            Four(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1), vfmaq_f32(c.2, a.2, b.2), vfmaq_f32(c.3, a.3, b.3))
        }
    }

    #[inline(always)]
    fn where_less(self, a: Four, b: Four, yes: Four, no: Four) -> Four {
        // SAFETY: `Neon` proves the instructions.
        unsafe {
            Four(
                vbslq_f32(vcltq_f32(a.0, b.0), yes.0, no.0),
                vbslq_f32(vcltq_f32(a.1, b.1), yes.1, no.1),
                vbslq_f32(vcltq_f32(a.2, b.2), yes.2, no.2),
                vbslq_f32(vcltq_f32(a.3, b.3), yes.3, no.3),
            )
        }
    }

    #[inline(always)]
    fn add_exponent(self, p: Four, t: Four) -> Four {
        // SAFETY: `Neon` proves the instructions.
        self.each(p, t, |p, t| unsafe {
            let shifted = vshlq_n_u32::<23>(vreinterpretq_u32_f32(t));
            vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(p), shifted))
        })
    }

    #[inline(always)]
    fn sum(self, v: Four) -> f32 {
        // SAFETY: `Neon` proves the instructions.
        unsafe {
            // l + 8, then l + 4, then the last four by halves.
            let v = vaddq_f32(vaddq_f32(v.0, v.2), vaddq_f32(v.1, v.3));
            let v = vadd_f32(vget_low_f32(v), vget_high_f32(v));
            vget_lane_f32::<0>(v) + vget_lane_f32::<1>(v)
        }
    }

    #[inline(always)]
    fn largest(self, v: Four) -> f32 {
        // SAFETY: `Neon` proves the instructions.
        unsafe { vmaxvq_f32(vmaxq_f32(vmaxq_f32(v.0, v.1), vmaxq_f32(v.2, v.3))) }
    }
}
