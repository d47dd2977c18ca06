//! See `thermocline_fuzz::doors::schema`.
#![no_main]

thermocline_fuzz::target!(thermocline_fuzz::doors::schema, thermocline_fuzz::mutate::json);
