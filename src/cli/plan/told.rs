//! Where a user wants parts of the model: llama.cpp's flags as constraints on the plan. The first `-ot` that names a tensor
//! decides over it, then `--cpu-moe` and `--n-cpu-moe`, then `--gpu-layers`.

use super::Model;
use crate::checkpoint::Part;
use crate::cli::args::PlanArgs;
use crate::engine::text::Pattern;
use crate::error::{Error, Result};
use crate::planner::plan::LayerProblem;

/// A device of `-ot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The processor: memory, or the disk where that is short.
    Cpu,
    Accelerator,
    Disk,
}

/// `REGEX=DEV`: tensors by name, as in GGUF files.
#[derive(Clone, Debug)]
pub struct Rule {
    pattern: Pattern,
    device: Device,
}

impl Rule {
    pub fn parse(text: &str) -> Result<Rule, String> {
        let Some((pattern, device)) = text.rsplit_once('=') else {
            return Err(format!("{text:?}: expected REGEX=DEV, like exps=CPU"));
        };
        if pattern.is_empty() {
            return Err(format!("{text:?}: there is no regular expression before the ="));
        }
        let device = match device.trim().to_lowercase().as_str() {
            "cpu" | "cuda_host" => Device::Cpu,
            "cuda0" | "metal" | "metal0" | "gpu" | "gpu0" => Device::Accelerator,
            "disk" => Device::Disk,
            other => return Err(format!("there is no device {other:?} here: CPU, CUDA0, METAL or DISK are meant")),
        };
        Ok(Rule { pattern: Pattern::new(pattern).map_err(|e| e.to_string())?, device })
    }
}

/// What was said of one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    pub experts: Option<Device>,
    pub dense: Option<Device>,
}

impl Layer {
    /// Narrows what the plan may choose.
    pub fn bind(&self, problem: &mut LayerProblem) {
        let all = problem.heat.len();
        match self.experts {
            Some(Device::Cpu) => problem.on_gpu = (0, 0),
            Some(Device::Accelerator) => problem.on_gpu = (all, all),
            Some(Device::Disk) => (problem.on_gpu, problem.on_disk) = ((0, 0), (all, all)),
            None => {}
        }
        if let Some(device) = self.dense {
            problem.dense_on_gpu = Some(device == Device::Accelerator);
        }
    }
}

/// What all flags together say, by layer; notes on what they cannot have.
pub fn told(args: &PlanArgs, model: &Model) -> Result<(Vec<Layer>, Vec<String>)> {
    let (place, gpu) = (&args.place, args.gpu.is_some());
    let layers = model.config.layers.len();
    let mut notes = vec![];
    let mut told = vec![Layer::default(); layers];
    // As llama.cpp counts: the last layers go to the accelerator first, the first ones' experts stay.
    if let Some(n) = place.gpu_layers {
        for (l, layer) in told.iter_mut().enumerate() {
            let device = if l + n.min(layers) >= layers { Device::Accelerator } else { Device::Cpu };
            *layer = Layer { experts: Some(device), dense: Some(device) };
        }
    }
    let kept = match (place.cpu_moe, place.n_cpu_moe) {
        (true, Some(n)) if n < layers => {
            return Err(Error::Usage(format!(
                "--cpu-moe means all {layers} layers and --n-cpu-moe {n} only some: leave one out"
            )));
        }
        (true, _) => layers,
        (false, Some(n)) => {
            if n > layers {
                notes.push(format!("--n-cpu-moe {n}: this model has {layers} layers, and all of them are meant"));
            }
            n.min(layers)
        }
        (false, None) => 0,
    };
    told[..kept].iter_mut().for_each(|layer| layer.experts = Some(Device::Cpu));
    override_tensors(&args.override_tensor, model, gpu, &mut told, &mut notes)?;
    if kept > 0
        && let Some(l) = told[..kept].iter().position(|layer| layer.experts == Some(Device::Accelerator))
    {
        return Err(Error::Usage(format!(
            "-ot has the experts of layer {l} on the accelerator and --cpu-moe or --n-cpu-moe on the CPU: leave one out"
        )));
    }
    Ok((told, notes))
}

fn override_tensors(
    rules: &[Rule],
    model: &Model,
    gpu: bool,
    told: &mut [Layer],
    notes: &mut Vec<String>,
) -> Result<()> {
    let mut met = vec![false; rules.len()];
    // The first rule that names a tensor decides.
    let mut of = |part: Part| -> Option<Device> {
        let name = (model.tensor)(part);
        let at = rules.iter().position(|rule| rule.pattern.is_in(&name))?;
        met[at] = true;
        Some(rules[at].device)
    };
    for (l, layer) in told.iter_mut().enumerate() {
        let l16 = l as u16;
        let experts = Part::expert(l16, 0).map(&mut of);
        if let Some(device) =
            together(&experts, &format!("an expert's three matrices lie together, those of layer {l}"))?
        {
            layer.experts = Some(device);
        }
        let dense = [Part::Query(l16), Part::Key(l16), Part::Value(l16), Part::AttentionOut(l16), Part::Router(l16)];
        let norms = [Part::NormIn(l16), Part::NormFfn(l16)];
        let dense: Vec<Option<Device>> = dense.into_iter().chain(norms).map(&mut of).collect();
        if let Some(device) = together(&dense, &format!("attention and router of layer {l} lie together, they"))? {
            layer.dense = Some(device);
        }
    }
    let beside = [Part::Embedding, Part::OutputNorm, Part::Head].map(&mut of);
    if beside.contains(&Some(Device::Accelerator)) {
        notes.push("-ot: the embedding and the head are planned in memory, whatever is said".into());
    }
    if let Some(at) = met.iter().position(|met| !met) {
        let rule = &rules[at];
        return Err(Error::Usage(format!(
            "-ot {}: names no tensor of this model, or only such as another -ot named before; names are like {}",
            rule.pattern.as_str(),
            (model.tensor)(Part::Gate(0, 0))
        )));
    }
    let any = |device| told.iter().any(|layer| layer.experts == Some(device) || layer.dense == Some(device));
    if told.iter().any(|layer| layer.dense == Some(Device::Disk)) || beside.contains(&Some(Device::Disk)) {
        return Err(Error::Usage("-ot: only experts can stay on the disk; all else is needed for every token".into()));
    }
    if !gpu && rules.iter().any(|rule| rule.device == Device::Accelerator) {
        return Err(Error::Usage(
            "-ot: this program has no accelerator to use: describe one with --gpu to plan for it, or name CPU".into(),
        ));
    }
    if !gpu && any(Device::Disk) {
        return Err(Error::Usage(
            "-ot: without an accelerator experts are kept by use, so none is bound to the disk: --ram says how many stay in memory"
                .into(),
        ));
    }
    Ok(())
}

/// What several parts that share a place are told.
fn together(said: &[Option<Device>], whose: &str) -> Result<Option<Device>> {
    let mut devices = said.iter().flatten();
    let Some(first) = devices.next() else { return Ok(None) };
    match devices.all(|device| device == first) {
        true => Ok(Some(*first)),
        false => Err(Error::Usage(format!("-ot: {whose} cannot be on different devices"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_or_refused_in_words() {
        assert_eq!(Rule::parse("exps=CPU").unwrap().device, Device::Cpu);
        assert_eq!(Rule::parse(r"blk\.(1|2)\..*=cuda0").unwrap().device, Device::Accelerator);
        assert_eq!(Rule::parse("a=b=disk").unwrap().pattern.as_str(), "a=b");
        for (wrong, words) in [
            ("exps", "REGEX=DEV"),
            ("=CPU", "no regular expression"),
            ("exps=TPU", "no device"),
            ("blk.(=CPU", "is no regular expression"),
            ("exps=", "no device"),
        ] {
            assert!(Rule::parse(wrong).unwrap_err().contains(words), "{wrong}");
        }
    }

    #[test]
    fn parts_of_one_place_are_told_the_same() {
        use Device::*;
        assert_eq!(together(&[None, None], "").unwrap(), None);
        assert_eq!(together(&[None, Some(Cpu), Some(Cpu)], "").unwrap(), Some(Cpu));
        assert!(together(&[Some(Disk), Some(Cpu)], "experts").unwrap_err().to_string().contains("experts cannot be"));
    }
}
