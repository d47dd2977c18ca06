//! See `thermocline_fuzz::doors::gbnf`.
#![no_main]

thermocline_fuzz::target!(thermocline_fuzz::doors::gbnf);
