//! See `thermocline_fuzz::doors::profile`.
#![no_main]

thermocline_fuzz::target!(thermocline_fuzz::doors::profile, thermocline_fuzz::mutate::json);
