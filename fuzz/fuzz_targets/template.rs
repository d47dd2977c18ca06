//! See `thermocline_fuzz::doors::template`.
#![no_main]

thermocline_fuzz::target!(thermocline_fuzz::doors::template);
