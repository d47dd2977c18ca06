//! See `thermocline_fuzz::doors::messages`.
#![no_main]

thermocline_fuzz::target!(thermocline_fuzz::doors::messages, thermocline_fuzz::mutate::json);
