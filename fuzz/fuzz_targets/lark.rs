//! See `thermocline_fuzz::doors::lark`.
#![no_main]

thermocline_fuzz::target!(thermocline_fuzz::doors::lark);
