//! See `thermocline_fuzz::doors::session`.
#![no_main]

thermocline_fuzz::target!(thermocline_fuzz::doors::session);
