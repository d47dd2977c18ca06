//! See `thermocline_fuzz::doors::words`.
#![no_main]

thermocline_fuzz::target!(thermocline_fuzz::doors::words, thermocline_fuzz::mutate::json_behind_a_byte);
