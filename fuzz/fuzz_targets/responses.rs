//! See `thermocline_fuzz::doors::responses`.
#![no_main]

thermocline_fuzz::target!(thermocline_fuzz::doors::responses, thermocline_fuzz::mutate::json);
