//! See `thermocline_fuzz::doors::config`.
#![no_main]

thermocline_fuzz::target!(thermocline_fuzz::doors::config, thermocline_fuzz::mutate::json);
