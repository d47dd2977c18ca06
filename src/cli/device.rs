//! The flags that say what goes to an accelerator, as a wish.

use super::args::PlaceArgs;
use crate::device::Accelerator;
use crate::engine::Wanted;
use crate::error::{Error, Result};

/// What the flags ask for.
///
/// Errors (usage): flags that contradict each other, and devices there are none of.
pub fn wanted(place: &PlaceArgs) -> Result<Wanted> {
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
    let wanted = Wanted {
        processor: processor || place.gpu_layers == Some(0),
        name: named.map(str::parse).transpose()?,
        memory: place.vram,
        layers: place.gpu_layers,
        cpu_moe: place.cpu_moe,
        n_cpu_moe: place.n_cpu_moe,
        rules: place.override_tensor.clone(),
        ground: None,
    };
    if wanted.processor && wanted.overrides_to_accelerator() {
        return Err(Error::Usage(
            "-ot has tensors on an accelerator and --cpu, --device cpu or --gpu-layers 0 everything on the processor: leave \
             one out"
                .into(),
        ));
    }
    // Said now, before a model is downloaded and packed for it.
    if let (false, Some(name)) = (wanted.processor, wanted.name) {
        Accelerator::open(name, None)?;
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::placement::DeviceName;
    use crate::engine::Rule;

    fn none() -> PlaceArgs {
        PlaceArgs {
            vram: None,
            gpu_layers: None,
            cpu_moe: false,
            n_cpu_moe: None,
            override_tensor: vec![],
            cpu: false,
            device: None,
        }
    }

    #[test]
    fn flags_become_a_wish_or_a_sentence() {
        let of = |place: PlaceArgs| wanted(&place).map(|w| (w.processor, w.name, w.layers, w.n_cpu_moe));
        assert_eq!(of(none()).unwrap(), (false, None, None, None));
        assert!(!wanted(&none()).unwrap().asks());
        assert!(of(PlaceArgs { cpu: true, ..none() }).unwrap().0);
        assert!(of(PlaceArgs { gpu_layers: Some(0), ..none() }).unwrap().0);
        assert!(of(PlaceArgs { device: Some("CPU".into()), ..none() }).unwrap().0);
        let stand_in = PlaceArgs { device: Some("stand-in".into()), ..none() };
        let some = PlaceArgs { n_cpu_moe: Some(3), gpu_layers: Some(9), ..stand_in.clone() };
        assert_eq!(of(some).unwrap(), (false, Some(DeviceName::StandIn), Some(9), Some(3)));
        let there = vec![Rule::parse("exps=CUDA0").unwrap()];
        let here = vec![Rule::parse("exps=CPU").unwrap()];
        assert!(of(PlaceArgs { cpu: true, override_tensor: here, ..none() }).unwrap().0);
        for (wrong, words) in [
            (PlaceArgs { cpu: true, ..stand_in }, "--cpu"),
            (PlaceArgs { cpu: true, vram: Some(1), ..none() }, "--vram"),
            (PlaceArgs { device: Some("cpu".into()), gpu_layers: Some(1), ..none() }, "--gpu-layers"),
            (PlaceArgs { cpu: true, override_tensor: there.clone(), ..none() }, "-ot"),
            (PlaceArgs { gpu_layers: Some(0), override_tensor: there, ..none() }, "-ot"),
            (PlaceArgs { device: Some("tpu".into()), ..none() }, "stand-in"),
            (PlaceArgs { device: Some("cuda:77".into()), ..none() }, "cuda"),
        ] {
            let said = wanted(&wrong).unwrap_err();
            assert!(said.exit_code() == 2 && said.to_string().contains(words), "{said}");
        }
    }
}
