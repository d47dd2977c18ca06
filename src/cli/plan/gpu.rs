//! An accelerator that is described rather than present: `--gpu "rtx 4060"`, `--gpu vram=8G,bandwidth=272G`.

use crate::config::size;

/// What a plan has to know of an accelerator. Bytes, and bytes per second.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpu {
    pub name: String,
    pub vram: u64,
    pub bandwidth: f64,
    /// Between it and memory.
    pub link: f64,
}

/// As their makers state them: GiB of memory, GB/s of it.
const KNOWN: [(&str, u64, f64); 12] = [
    ("rtx 3060", 12, 360.0),
    ("rtx 3090", 24, 936.0),
    ("rtx 4060", 8, 272.0),
    ("rtx 4070", 12, 504.0),
    ("rtx 4080", 16, 717.0),
    ("rtx 4090", 24, 1008.0),
    ("rtx 5090", 32, 1792.0),
    ("rx 7900 xtx", 24, 960.0),
    ("a100", 80, 2039.0),
    ("h100", 80, 3350.0),
    ("h200", 141, 4800.0),
    ("l4", 24, 300.0),
];
/// 16 lanes of the fourth generation, as they measure.
const LINK: f64 = 25e9;

pub fn parse(text: &str) -> Result<Gpu, String> {
    let plain = |text: &str| text.to_lowercase().replace(['-', '_'], " ").trim().to_string();
    let named = |wanted: &str| {
        let known = KNOWN.iter().find(|(name, ..)| name.replace(' ', "") == plain(wanted).replace(' ', ""));
        known.map(|(name, gib, gb)| Gpu { name: name.to_string(), vram: gib << 30, bandwidth: gb * 1e9, link: LINK })
    };
    if !text.contains('=') {
        let names = KNOWN.map(|known| known.0).join(", ");
        return named(text).ok_or_else(|| {
            format!(
                "{text:?} is not known here: describe it as vram=8G,bandwidth=272G (bytes per second), or name one of {names}"
            )
        });
    }
    let mut gpu = Gpu { name: "described".into(), vram: 0, bandwidth: 0.0, link: LINK };
    let mut keys: Vec<&str> = vec![];
    for part in text.split(',') {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?}: expected KEY=VALUE"))?;
        if keys.contains(&key.trim()) {
            return Err(format!("{:?} is said twice", key.trim()));
        }
        keys.push(key.trim());
        let bytes = || size::parse(value.trim().trim_end_matches("/s"));
        match key.trim() {
            "name" => gpu.name = value.trim().to_string(),
            "vram" => gpu.vram = bytes()?,
            "bandwidth" => gpu.bandwidth = bytes()? as f64,
            "link" => gpu.link = bytes()? as f64,
            other => return Err(format!("{other:?} is nothing a GPU is described by: name, vram, bandwidth, link")),
        }
    }
    match (gpu.vram, gpu.bandwidth) {
        (0, _) => Err("a GPU is described by its memory too: vram=8G".into()),
        (_, b) if b < 1e6 => {
            Err("a GPU is described by its memory's speed too: bandwidth=272G (bytes per second)".into())
        }
        _ => Ok(gpu),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_descriptions() {
        assert_eq!(parse("RTX-4060").unwrap().vram, 8 << 30);
        assert_eq!(parse("rtx4090").unwrap().bandwidth, 1008e9);
        let gpu = parse("name=mine,vram=6G,bandwidth=100G/s").unwrap();
        assert_eq!((gpu.name.as_str(), gpu.vram, gpu.bandwidth), ("mine", 6 << 30, (100u64 << 30) as f64));
        for (wrong, words) in [
            ("voodoo 2", "vram=8G,bandwidth"),
            ("vram=8G", "bandwidth=272G"),
            ("bandwidth=8G", "vram=8G"),
            ("vram=8G,colour=red", "colour"),
            ("vram=,bandwidth=1G", "a size is expected"),
            ("vram=8G,x", "KEY=VALUE"),
            ("vram=8G,vram=9G,bandwidth=1G", "twice"),
            ("", "not known"),
        ] {
            assert!(parse(wrong).unwrap_err().contains(words), "{wrong}");
        }
    }
}
