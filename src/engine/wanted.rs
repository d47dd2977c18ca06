//! What is asked of an accelerator: llama.cpp's flags as bounds on the plan. The first `-ot` that names a tensor decides over
//! it, then `--cpu-moe` and `--n-cpu-moe`, then `--gpu-layers`.

use super::text::Pattern;
use crate::checkpoint::Part;
use crate::config::Config;
use crate::config::placement::DeviceName;
use crate::error::{Error, Result};
use crate::planner::hybrid::{Ground, LayerTold, Told};
use crate::planner::plan::Place;
use std::sync::Arc;

/// What is asked of an accelerator; the rest is decided by what is fastest.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// No accelerator at all: what is laid down is looked through, and that is all.
    pub processor: bool,
    /// `None`: whichever there is.
    pub name: Option<DeviceName>,
    /// Most bytes of its memory; `None`: what is free, less a margin.
    pub memory: Option<u64>,
    /// So many layers, the last ones, whole and no others; one more than there are: the head too.
    pub layers: Option<usize>,
    /// No experts there, or none of the first so many layers.
    pub cpu_moe: bool,
    pub n_cpu_moe: Option<usize>,
    pub rules: Vec<Rule>,
    /// What is known of model and machine; `None`: usual speeds are assumed of the processor, every expert is as likely as
    /// any other, and the accelerator is measured.
    pub ground: Option<Arc<Ground>>,
}

/// `REGEX=DEV`: tensors by name, as in GGUF files.
#[derive(Clone, Debug)]
pub struct Rule {
    pattern: Pattern,
    place: Place,
}

impl Rule {
    /// Why it is none, in words.
    pub fn parse(text: &str) -> Result<Rule, String> {
        let Some((pattern, device)) = text.rsplit_once('=') else {
            return Err(format!("{text:?}: expected REGEX=DEV, like exps=CPU"));
        };
        if pattern.is_empty() {
            return Err(format!("{text:?}: there is no regular expression before the ="));
        }
        let place = match device.trim().to_lowercase().as_str() {
            "cpu" | "cuda_host" => Place::Processor,
            "cuda0" | "metal" | "metal0" | "gpu" | "gpu0" | "stand-in" => Place::Accelerator,
            "disk" => Place::Disk,
            other => return Err(format!("there is no device {other:?} here: CPU, CUDA0 or METAL is meant")),
        };
        Ok(Rule { pattern: Pattern::new(pattern).map_err(|e| e.to_string())?, place })
    }
}

impl Wanted {
    /// Whether `-ot` names an accelerator.
    pub fn overrides_to_accelerator(&self) -> bool {
        self.rules.iter().any(|rule| rule.place == Place::Accelerator)
    }

    /// Whether something was to go to an accelerator, so that a machine without one is worth a word.
    pub fn asks(&self) -> bool {
        self.name.is_some() || self.memory.is_some() || self.layers.is_some() || self.overrides_to_accelerator()
    }

    /// What all of it says of a model whose tensors GGUF files call `tensor`, and notes on what it cannot have.
    ///
    /// Errors (usage): what contradicts itself, tears apart what lies together, or names nothing.
    pub fn told(&self, config: &Config, tensor: fn(Part) -> String) -> Result<(Told, Vec<String>)> {
        let layers = config.layers.len();
        let (mut notes, mut told) = (vec![], Told { layers: vec![LayerTold::default(); layers], head: None });
        // As llama.cpp counts: the last layers go to the accelerator first, the head is one layer more.
        if let Some(n) = self.layers {
            for (l, layer) in told.layers.iter_mut().enumerate() {
                let place = if l + n.min(layers) >= layers { Place::Accelerator } else { Place::Processor };
                *layer = LayerTold { experts: Some(place), dense: Some(place) };
            }
            told.head = Some(n > layers);
        }
        let kept = self.kept(layers, &mut notes)?;
        told.layers[..kept].iter_mut().for_each(|layer| layer.experts = Some(Place::Processor));
        self.override_tensors(tensor, &mut told, &mut notes)?;
        if kept > 0
            && let Some(l) = told.layers[..kept].iter().position(|layer| layer.experts == Some(Place::Accelerator))
        {
            return Err(Error::Usage(format!(
                "-ot has the experts of layer {l} on the accelerator and --cpu-moe or --n-cpu-moe on the CPU: leave one out"
            )));
        }
        Ok((told, notes))
    }

    /// Layers, from the first on, whose experts stay with the processor.
    fn kept(&self, layers: usize, notes: &mut Vec<String>) -> Result<usize> {
        match (self.cpu_moe, self.n_cpu_moe) {
            (true, Some(n)) if n < layers => Err(Error::Usage(format!(
                "--cpu-moe means all {layers} layers and --n-cpu-moe {n} only some: leave one out"
            ))),
            (true, _) => Ok(layers),
            (false, Some(n)) if n > layers => {
                notes.push(format!("--n-cpu-moe {n}: this model has {layers} layers, and all of them are meant"));
                Ok(layers)
            }
            (false, n) => Ok(n.unwrap_or(0)),
        }
    }

    fn override_tensors(&self, tensor: fn(Part) -> String, told: &mut Told, notes: &mut Vec<String>) -> Result<()> {
        let rules = &self.rules;
        let mut met = vec![false; rules.len()];
        // The first rule that names a tensor decides.
        let mut of = |part: Part| -> Option<Place> {
            let name = tensor(part);
            let at = rules.iter().position(|rule| rule.pattern.is_in(&name))?;
            met[at] = true;
            Some(rules[at].place)
        };
        for (l, layer) in told.layers.iter_mut().enumerate() {
            let experts = Part::expert(l as u16, 0).map(&mut of);
            let whose = format!("an expert's three matrices lie together, those of layer {l}");
            layer.experts = together(&experts, &whose)?.or(layer.experts);
            let dense: Vec<Option<Place>> = Part::dense(l as u16).into_iter().map(&mut of).collect();
            let whose = format!("attention and router of layer {l} lie together, they");
            layer.dense = together(&dense, &whose)?.or(layer.dense);
        }
        let head =
            together(&[Part::OutputNorm, Part::Head].map(&mut of), "the last norm and the head lie together, they")?;
        let embedding = of(Part::Embedding);
        if let Some(at) = met.iter().position(|met| !met) {
            return Err(Error::Usage(format!(
                "-ot {}: names no tensor of this model, or only such as another -ot named before; names are like {}",
                rules[at].pattern.as_str(),
                tensor(Part::Gate(0, 0))
            )));
        }
        if embedding == Some(Place::Accelerator) {
            notes.push("-ot: the embedding stays in memory, whatever is said: single rows of it are read".into());
        }
        let beside = told.layers.iter().map(|layer| layer.dense).chain([head, embedding]);
        if beside.into_iter().any(|place| place == Some(Place::Disk)) {
            return Err(Error::Usage(
                "-ot: only experts can stay on the disk; all else is needed for every token".into(),
            ));
        }
        told.head = head.map(|place| place == Place::Accelerator).or(told.head);
        Ok(())
    }
}

/// Errors where something was told to lie on the disk though experts are kept by use.
pub fn none_on_disk(told: &Told) -> Result<()> {
    match told.layers.iter().any(|layer| layer.experts == Some(Place::Disk)) {
        false => Ok(()),
        true => Err(Error::Usage(
            "-ot: the processor's experts are kept by use, so none is bound to the disk: --ram says how many stay in memory"
                .into(),
        )),
    }
}

/// What several parts that share a place are told.
fn together(said: &[Option<Place>], whose: &str) -> Result<Option<Place>> {
    let mut places = said.iter().flatten();
    let Some(first) = places.next() else { return Ok(None) };
    match places.all(|place| place == first) {
        true => Ok(Some(*first)),
        false => Err(Error::Usage(format!("-ot: {whose} cannot be on different devices"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_or_refused_in_words() {
        assert_eq!(Rule::parse("exps=CPU").unwrap().place, Place::Processor);
        assert_eq!(Rule::parse(r"blk\.(1|2)\..*=cuda0").unwrap().place, Place::Accelerator);
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
        use Place::*;
        assert_eq!(together(&[None, None], "").unwrap(), None);
        assert_eq!(together(&[None, Some(Processor), Some(Processor)], "").unwrap(), Some(Processor));
        assert!(
            together(&[Some(Disk), Some(Processor)], "experts").unwrap_err().to_string().contains("experts cannot be")
        );
    }
}
