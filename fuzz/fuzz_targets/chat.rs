//! See `thermocline_fuzz::doors::chat`.
#![no_main]

thermocline_fuzz::target!(thermocline_fuzz::doors::chat, thermocline_fuzz::mutate::json);
