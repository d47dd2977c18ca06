//! See `thermocline_fuzz::doors::safetensors`.
#![no_main]

thermocline_fuzz::target!(thermocline_fuzz::doors::safetensors, thermocline_fuzz::mutate::json_behind_a_number);
