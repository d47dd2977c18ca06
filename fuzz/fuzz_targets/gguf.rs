//! See `thermocline_fuzz::doors::gguf`.
#![no_main]

thermocline_fuzz::target!(thermocline_fuzz::doors::gguf);
