//! A packed file's header back into what every container gives: config, catalogue, text.

use super::header::{HEX, SELF, TEXT};
use super::plan::Plan;
use super::{ALIGNMENT, I8, LAYOUT_VERSION, Packed, Run, Source, hex};
use crate::checkpoint::catalogue::{Catalogue, Entry, check_format};
use crate::checkpoint::gguf::{self, Parsed};
use crate::checkpoint::{DownOrder, Files, Form, Header, Part, TextFiles, TextSource};
use crate::config::family::{self, Family, Fields, Value};
use crate::config::{Config, Gating, Layer};
use crate::error::{Error, Result};
use kernels::Format;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The header of the packed file `name`, of which `beginning` was read and parsed.
pub(in crate::checkpoint) fn header(files: &Files<'_>, name: &str, beginning: &[u8], parsed: Parsed) -> Result<Header> {
    let size = files.size(name).unwrap_or(0);
    let place = files.name_of(name);
    let refuse = |e: String| Error::Model(format!("{place}: {e}"));
    let read = || {
        refuse_other_version(&parsed)?;
        // The rest of the header is padding; a file cut there is shorter than its data begins.
        let data = usize::try_from(parsed.data).ok().filter(|data| *data as u64 <= size);
        let data = data.ok_or("it ends within its header: truncated")?;
        let mut whole = beginning.to_vec();
        if whole.len() < data {
            whole.extend((files.read_at)(name, whole.len() as u64, data - whole.len()).map_err(|e| e.to_string())?);
        }
        whole.truncate(data);
        check_hash(&whole, &parsed)?;
        describe(&whole, &parsed, size, &place)
    };
    let Described { config, down, family, catalogue, text, packed } = read().map_err(refuse)?;
    Ok(Header {
        config,
        down,
        text: Some(text),
        container: format!("packed file from {} ({})", packed.source.name, packed.source.container),
        files: vec![(name.to_string(), size)],
        family,
        catalogue,
        packed: Some(packed),
    })
}

fn refuse_other_version(parsed: &Parsed) -> Result<(), String> {
    match parsed.values.get("thermocline.layout_version") {
        Some(Value::Count(n)) if *n == LAYOUT_VERSION as u64 => Ok(()),
        Some(Value::Count(n)) => Err(format!(
            "it was packed with layout version {n}, this program reads version {LAYOUT_VERSION}: pack it again from its source"
        )),
        _ => Err("the key thermocline.layout_version is missing: no packed file, or a damaged one".into()),
    }
}

fn check_hash(header: &[u8], parsed: &Parsed) -> Result<(), String> {
    let list = parsed.lists.get(SELF).ok_or_else(|| format!("the key {SELF} is missing"))?;
    let said = list.strings(header).map_err(|e| format!("{SELF}: {e}"))?;
    let [said] = &said[..] else { return Err(format!("{SELF}: expected one hash, found {}", said.len())) };
    if said.len() != HEX {
        return Err(format!("{SELF}: expected {HEX} digits, found {}", said.len()));
    }
    let end = list.range.end;
    let mut hash = Sha256::new();
    hash.update(&header[..end - HEX]);
    hash.update([b'0'; HEX]);
    hash.update(&header[end..]);
    if hex(&hash.finalize()) != *said {
        return Err("the header does not have the hash it was written with: the file is damaged; pack it again".into());
    }
    Ok(())
}

struct Described {
    config: Config,
    down: DownOrder,
    family: &'static Family,
    catalogue: Catalogue,
    text: TextSource,
    packed: Packed,
}

/// `header` is what `parsed` was read from. The hash says that one of us wrote it; nothing is believed all the same.
fn describe(header: &[u8], parsed: &Parsed, size: u64, place: &str) -> Result<Described, String> {
    let fields = Fields::new(parsed.values.clone());
    let strings = |key: &str| {
        let list = parsed.lists.get(key).ok_or_else(|| format!("the key {key} is missing"))?;
        list.strings(header).map_err(|e| format!("{key}: {e}"))
    };
    let (config, family) = config(&fields, strings("thermocline.notes")?)?;
    config.check()?;
    let down = match fields.text_opt("thermocline.down")? {
        Some("by output") => DownOrder::ByOutput,
        Some("by neuron") => DownOrder::ByNeuron,
        found => return Err(format!("thermocline.down: expected by output or by neuron, found {found:?}")),
    };
    let kinds = kinds(&config, down, &strings("thermocline.part.format")?, &strings("thermocline.part.layout")?)?;
    let kind = |part| kinds[config.part_index(part).expect("asked for parts of this config")];
    let plan = Plan::new(&config, family, down, kind)?;
    let runs = runs(parsed, &plan, strings("thermocline.run.sha256")?, size)?;

    let mut entries = BTreeMap::new();
    for (run, piece) in plan.pieces() {
        let offset = parsed.data + plan.runs[run].offset + piece.offset;
        let entry = Entry { file: 0, offset, bytes: piece.bytes, format: piece.format, form: piece.form };
        entries.insert(piece.part, entry);
    }
    let catalogue = Catalogue::build(&config, |part| Ok(entries[&part]))?;
    let text = match fields.text_opt("tokenizer.ggml.model")? {
        Some(_) => TextSource::Gguf(gguf::text(header, parsed, &fields, &config)?),
        None => TextSource::Kept(kept(parsed, place)),
    };
    let string = |key: &str| Ok::<_, String>(fields.text_opt(key)?.unwrap_or_default().to_string());
    let packed = Packed {
        quant: string("thermocline.quant")?,
        source: Source {
            name: string("thermocline.source.name")?,
            container: string("thermocline.source.container")?,
            bytes: fields.count("thermocline.source.bytes")? as u64,
            sha256: string("thermocline.source.sha256")?,
            key: fields.text_opt("thermocline.source.key")?.map(str::to_string),
            path: fields.text_opt("thermocline.source.path")?.map(PathBuf::from),
        },
        slot_bytes: plan.slot_bytes,
        runs,
    };
    Ok(Described { config, down, family, catalogue, text, packed })
}

fn config(fields: &Fields, notes: Vec<String>) -> Result<(Config, &'static Family), String> {
    let count = |name: &str| fields.count(&format!("thermocline.{name}"));
    let text = |name: &str| fields.text_opt(name)?.ok_or_else(|| format!("the key {name} is missing"));
    let real = |name: &str| fields.real_opt(name)?.ok_or_else(|| format!("the key {name} is missing"));
    let name = text("thermocline.family")?;
    let family = family::ALL.iter().copied().find(|f| f.name == name);
    let family = family.ok_or_else(|| format!("thermocline.family: {name} is not a family this program runs"))?;
    let layers = fields.layers("thermocline.block_count")?;
    let rotary = fields.flags_opt("thermocline.layer.rotary", layers)?;
    let rotary = rotary.ok_or("the key thermocline.layer.rotary is missing")?;
    let windows = match fields.get("thermocline.layer.window") {
        Some(Value::List(list)) if list.len() == layers => list,
        _ => return Err(format!("thermocline.layer.window: expected a list of {layers}")),
    };
    let window = |value: &Value| match value {
        Value::Count(0) => Ok(None),
        Value::Count(n) => usize::try_from(*n).map(Some).map_err(|_| format!("a window of {n} is too large")),
        _ => Err("thermocline.layer.window: expected whole numbers".to_string()),
    };
    let layer = |(&rotary, w): (&bool, &Value)| Ok::<_, String>(Layer { rotary, window: window(w)? });
    let gating = match text("thermocline.expert_gating")? {
        "softmax" => Gating::Softmax,
        "sigmoid" => Gating::Sigmoid,
        other => return Err(format!("thermocline.expert_gating: expected softmax or sigmoid, found {other:?}")),
    };
    let config = Config {
        family: family.name,
        name: fields.text_opt("general.name")?.map(str::to_string),
        layers: rotary.iter().zip(windows).map(layer).collect::<Result<_, _>>()?,
        width: count("embedding_length")?,
        heads: count("attention.head_count")?,
        kv_heads: count("attention.head_count_kv")?,
        head_width: count("attention.key_length")?,
        vocab: count("vocab_size")?,
        context: count("context_length")?,
        norm_epsilon: real("thermocline.attention.layer_norm_rms_epsilon")? as f32, // written as one: exact
        rope_theta: real("thermocline.rope.freq_base")?,
        experts: count("expert_count")?,
        active: count("expert_used_count")?,
        neurons: count("expert_feed_forward_length")?,
        gating,
        tied: fields.bool_opt("thermocline.tied")?.ok_or("the key thermocline.tied is missing")?,
        bos: fields.ids("thermocline.bos")?.first().copied(),
        eos: fields.ids("thermocline.eos")?,
        notes,
    };
    Ok((config, family))
}

/// Format and form of every part, checked against what such a part can be.
fn kinds(
    config: &Config,
    down: DownOrder,
    formats: &[String],
    layouts: &[String],
) -> Result<Vec<(Format, Form)>, String> {
    let count = config.part_count();
    if formats.len() != count || layouts.len() != count {
        return Err(format!(
            "expected a format and a layout for each of {count} parts, found {} and {}",
            formats.len(),
            layouts.len()
        ));
    }
    let kind = |((part, format), layout): ((Part, &String), &String)| {
        let known = Format::ALL.into_iter().find(|f| f.name() == format);
        let format = known.ok_or_else(|| format!("{part:?} has the unknown format {format:?}"))?;
        check_format(part, format)?;
        let form = Form::of_name(layout).ok_or_else(|| format!("{part:?} has the unknown layout {layout:?}"))?;
        if !form.holds(part, down, format) {
            return Err(format!("{part:?}: {} cannot lie in the layout {form}", format.name()));
        }
        Ok((format, form))
    };
    config.parts().zip(formats).zip(layouts).map(kind).collect()
}

/// Holds the tensors of the file against the plan.
fn runs(parsed: &Parsed, plan: &Plan, hashes: Vec<String>, size: u64) -> Result<Vec<Run>, String> {
    if parsed.alignment != ALIGNMENT {
        return Err(format!("general.alignment: expected {ALIGNMENT}, found {}", parsed.alignment));
    }
    if parsed.tensors.len() != plan.runs.len() || hashes.len() != plan.runs.len() {
        return Err(format!(
            "expected {} runs and their hashes, found {} and {}",
            plan.runs.len(),
            parsed.tensors.len(),
            hashes.len()
        ));
    }
    let expected = parsed.data + plan.data_bytes;
    if size != expected {
        return Err(format!("expected {expected} bytes, found {size}: truncated or damaged"));
    }
    let run = |((found, planned), sha256): ((&gguf::Tensor, &super::plan::RunPlan), String)| {
        let place = (found.name.as_str(), found.dims, found.kind, found.offset);
        if place != (planned.name.as_str(), [planned.bytes, 1, 1, 1], I8, planned.offset) {
            return Err(format!(
                "run {}: expected {} bytes from byte {} of the data, found {} ({:?} from byte {})",
                planned.name, planned.bytes, planned.offset, found.name, found.dims, found.offset
            ));
        }
        let start = parsed.data + planned.offset;
        Ok(Run { name: planned.name.clone(), range: start..start + planned.bytes, sha256 })
    };
    parsed.tensors.iter().zip(&plan.runs).zip(hashes).map(run).collect()
}

fn kept(parsed: &Parsed, place: &str) -> TextFiles {
    let file = |(key, value): (&String, &Value)| match (key.strip_prefix(TEXT), value) {
        (Some(name), Value::Text(text)) => Some((name.to_string(), text.clone())),
        _ => None,
    };
    TextFiles { place: PathBuf::from(place), files: parsed.values.iter().filter_map(file).collect() }
}
