//! See `thermocline_fuzz::doors::completions`.
#![no_main]

thermocline_fuzz::target!(thermocline_fuzz::doors::completions, thermocline_fuzz::mutate::json);
