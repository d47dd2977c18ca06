//! The flags that say what goes to an accelerator, as a wish.

use super::args::PlaceArgs;
use crate::config::placement::Wanted;
use crate::error::{Error, Result};

/// What the flags ask for; `None`: everything on the processor.
///
/// Errors (usage): flags that contradict each other, and devices there are none of.
pub fn wanted(place: &PlaceArgs) -> Result<Option<Wanted>> {
    let asks = place.vram.is_some() || place.gpu_layers.is_some_and(|count| count > 0);
    let named = place.device.as_deref().filter(|name| !["cpu", "none"].contains(&name.to_lowercase().as_str()));
    let processor = place.cpu || (place.device.is_some() && named.is_none());
    if processor && (asks || named.is_some()) {
        return Err(Error::Usage(
            "--cpu (or --device cpu) says that everything runs on the processor: leave it out, or leave out the other \
             device, --vram and --gpu-layers"
                .into(),
        ));
    }
    if place.cpu_moe && place.n_cpu_moe.is_some() {
        return Err(Error::Usage("--cpu-moe means all layers and --n-cpu-moe only some: leave one out".into()));
    }
    if processor || place.gpu_layers == Some(0) {
        return Ok(None);
    }
    Ok(Some(Wanted {
        name: named.map(str::parse).transpose()?,
        memory: place.vram,
        layers: place.gpu_layers,
        experts_from: if place.cpu_moe { usize::MAX } else { place.n_cpu_moe.unwrap_or(0) },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::placement::DeviceName;

    fn none() -> PlaceArgs {
        PlaceArgs { vram: None, gpu_layers: None, cpu_moe: false, n_cpu_moe: None, cpu: false, device: None }
    }

    #[test]
    fn flags_become_a_wish_or_a_sentence() {
        let of = |place: PlaceArgs| wanted(&place).map(|wanted| wanted.map(|w| (w.name, w.layers, w.experts_from)));
        assert_eq!(of(none()).unwrap(), Some((None, None, 0)));
        assert_eq!(of(PlaceArgs { cpu: true, ..none() }).unwrap(), None);
        assert_eq!(of(PlaceArgs { gpu_layers: Some(0), ..none() }).unwrap(), None);
        assert_eq!(of(PlaceArgs { device: Some("CPU".into()), ..none() }).unwrap(), None);
        let stand_in = PlaceArgs { device: Some("stand-in".into()), ..none() };
        let some = PlaceArgs { n_cpu_moe: Some(3), gpu_layers: Some(9), ..stand_in.clone() };
        assert_eq!(of(some).unwrap(), Some((Some(DeviceName::StandIn), Some(9), 3)));
        let all = PlaceArgs { cpu_moe: true, ..stand_in.clone() };
        assert_eq!(of(all).unwrap(), Some((Some(DeviceName::StandIn), None, usize::MAX)));
        for (wrong, words) in [
            (PlaceArgs { cpu: true, ..stand_in }, "--cpu"),
            (PlaceArgs { cpu: true, vram: Some(1), ..none() }, "--vram"),
            (PlaceArgs { device: Some("cpu".into()), gpu_layers: Some(1), ..none() }, "--gpu-layers"),
            (PlaceArgs { cpu_moe: true, n_cpu_moe: Some(1), ..none() }, "--n-cpu-moe"),
            (PlaceArgs { device: Some("tpu".into()), ..none() }, "stand-in"),
        ] {
            let said = wanted(&wrong).unwrap_err();
            assert!(said.exit_code() == 2 && said.to_string().contains(words), "{said}");
        }
    }
}
