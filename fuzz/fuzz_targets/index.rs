//! See `thermocline_fuzz::doors::index`.
#![no_main]

thermocline_fuzz::target!(thermocline_fuzz::doors::index, thermocline_fuzz::mutate::json);
