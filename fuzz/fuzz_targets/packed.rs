//! See `thermocline_fuzz::doors::packed`.
#![no_main]

thermocline_fuzz::target!(thermocline_fuzz::doors::packed);
