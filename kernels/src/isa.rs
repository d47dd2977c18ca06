//! Which instruction sets this processor has. A value of [`Isa`] is the proof: safe code cannot make one for a set the
//! processor lacks, so a verb that is handed an `Isa` may use its instructions without asking again.

use std::fmt;

/// An instruction set this processor has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isa(pub(crate) Set);

/// The sets there is code for on this architecture, slowest first. Naming one proves nothing; [`Isa`] does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Set {
    /// Plain Rust, one number at a time: the judge of all others.
    Scalar,
    /// AVX2, FMA and F16C (2013 on).
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX2 with the 256-bit byte products of AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// What every 64-bit ARM has.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// NEON with `sdot` (ARMv8.2 on: Cortex-A75, A55, Apple A11 and later).
    #[cfg(target_arch = "aarch64")]
    Dotprod,
    /// NEON with `sdot` and `smmla` (Cortex-A510, X2, Neoverse V1, Apple M2 and later).
    #[cfg(target_arch = "aarch64")]
    I8mm,
}

impl Set {
    /// Slowest first; [`Isa::available`] keeps this order and dispatch walks it downwards.
    #[cfg(target_arch = "x86_64")]
    const ALL: &'static [Set] = &[Set::Scalar, Set::Avx2, Set::AvxVnni, Set::Avx512];
    #[cfg(target_arch = "aarch64")]
    const ALL: &'static [Set] = &[Set::Scalar, Set::Neon, Set::Dotprod, Set::I8mm];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    const ALL: &'static [Set] = &[Set::Scalar];

    fn name(self) -> &'static str {
        match self {
            Set::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::AvxVnni => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Set::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Set::Dotprod => "dotprod",
            #[cfg(target_arch = "aarch64")]
            Set::I8mm => "i8mm",
        }
    }

    /// Whether this processor, under this operating system, can run it. Each set demands all that slower ones demand,
    /// so that a faster set may fall back on any slower one.
    fn detected(self) -> bool {
        match self {
            Set::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Set::AvxVnni => Set::Avx2.detected() && is_x86_feature_detected!("avxvnni"),
            // Not every processor with AVX-512 VNNI has AVX-VNNI: this set falls back on AVX2 alone.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => {
                Set::Avx2.detected()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "aarch64")]
            Set::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Set::Dotprod => Set::Neon.detected() && std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Set::I8mm => Set::Dotprod.detected() && std::arch::is_aarch64_feature_detected!("i8mm"),
        }
    }
}

impl Isa {
    /// Plain Rust, present everywhere.
    pub const SCALAR: Isa = Isa(Set::Scalar);

    /// The fastest set this processor has.
    pub fn best() -> Isa {
        Isa::available().last().unwrap_or(Isa::SCALAR)
    }

    /// The set named by the environment variable `KERNELS_ISA`, or [`Isa::best`] where it is unset or empty. The error
    /// is a sentence that names the variable and the sets there are.
    pub fn from_env() -> Result<Isa, String> {
        match std::env::var("KERNELS_ISA") {
            Ok(name) if !name.is_empty() => Isa::named(&name).map_err(|why| format!("KERNELS_ISA: {why}")),
            Ok(_) | Err(std::env::VarError::NotPresent) => Ok(Isa::best()),
            Err(std::env::VarError::NotUnicode(_)) => Err("KERNELS_ISA is not a name".to_string()),
        }
    }

    /// The set of this name, if the processor has it.
    pub fn named(name: &str) -> Result<Isa, String> {
        let here = || Isa::available().map(Isa::name).collect::<Vec<_>>().join(", ");
        match Set::ALL.iter().find(|set| set.name() == name) {
            Some(set) if set.detected() => Ok(Isa(*set)),
            Some(_) => Err(format!("this processor has no {name}; it has {}", here())),
            None => Err(format!("no instruction set is called {name:?}; this processor has {}", here())),
        }
    }

    /// Every set this processor has, slowest first, scalar included.
    pub fn available() -> impl Iterator<Item = Isa> {
        Set::ALL.iter().filter(|set| set.detected()).map(|set| Isa(*set))
    }

    /// The names of the sets there is code for on this architecture but which this processor lacks. Test suites print
    /// them: a silent skip is a hole.
    pub fn missing() -> impl Iterator<Item = &'static str> {
        Set::ALL.iter().filter(|set| !set.detected()).map(|set| set.name())
    }

    /// The name by which `KERNELS_ISA` knows it.
    pub fn name(self) -> &'static str {
        self.0.name()
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalar_is_always_there_and_first() {
        assert_eq!(Isa::available().next(), Some(Isa::SCALAR));
        assert!(Isa::available().is_sorted());
        assert_eq!(Isa::available().last(), Some(Isa::best()));
    }

    #[test]
    fn names_lead_back_to_the_set() {
        for isa in Isa::available() {
            assert_eq!(Isa::named(isa.name()), Ok(isa));
        }
        assert!(Isa::named("mmx").unwrap_err().contains("scalar"));
    }
}
