//! safetensors: one file, or shards and their index.

use super::catalogue::{Catalogue, Entry, check_format, part_bytes};
use super::files::Files;
use super::{DownOrder, Form, Header, Part};
use crate::config::Config;
use crate::config::family::{self, Family, Fields};
use crate::error::{Error, Result};
use kernels::Format;
use safetensors::tensor::{Dtype, TensorInfo};
use serde::de::{Error as _, MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

pub(super) const INDEX: &str = "model.safetensors.index.json";
/// A config has 2 kB.
const MOST_CONFIG: u64 = 1 << 20;
/// The 21B's index has about a megabyte.
const MOST_INDEX: u64 = 64 << 20;
/// The format's own limit on a header.
const MOST_HEADER: u64 = 100_000_000;

/// One tensor of one file.
#[derive(Clone, Debug)]
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    file: u32,
    /// In bytes from the start of the file.
    offset: u64,
    bytes: u64,
}

/// Config and catalogue of a folder of safetensors files. Reads `config.json`, the index and each file's header.
pub(super) fn read(files: &Files<'_>, family: &'static Family, fields: Fields) -> Result<Header> {
    let in_config = |e: String| Error::Model(format!("{}: {e}", files.name_of("config.json")));
    let mut config = (family.from_json)(fields).map_err(in_config)?;
    add_end_tokens(files, &mut config)?;
    config.check().map_err(in_config)?;
    let shards = shards(files)?;
    let mut tensors = HashMap::new();
    for (i, (name, size)) in shards.iter().enumerate() {
        let refuse = |e: String| Error::Model(format!("{}: {e}", files.name_of(name)));
        for (tensor, found) in file_header(files, name, *size, i as u32)? {
            if tensors.contains_key(&tensor) {
                return Err(refuse(format!("tensor {tensor} is in another shard too")));
            }
            tensors.insert(tensor, found);
        }
    }
    let place = |file: u32| files.name_of(&shards[file as usize].0);
    let mut take = |part: Part| -> Result<Option<Entry>, String> {
        let name = (family.tensor)(part);
        let Some(tensor) = tensors.remove(&name) else { return Ok(None) };
        let entry = entry(&config, part, &tensor).map_err(|e| format!("{}: tensor {name}: {e}", place(tensor.file)))?;
        Ok(Some(entry))
    };
    let missing = |part| {
        let because =
            if part == Part::Head { " (config.json says that the head is not tied to the embedding)" } else { "" };
        format!("{}: tensor {} is missing{because}", files.label, (family.tensor)(part))
    };
    let built = Catalogue::build(&config, |part| take(part)?.ok_or_else(|| missing(part)));
    let mut catalogue = built.map_err(Error::Model)?;
    if config.tied {
        catalogue.spare_head = take(Part::Head).map_err(Error::Model)?;
    }
    refuse_surplus(&tensors, family, &mut config).map_err(|(file, e)| Error::Model(format!("{}: {e}", place(file))))?;
    Ok(Header {
        config,
        down: DownOrder::ByOutput,
        text: None,
        container: "safetensors".into(),
        files: shards,
        family,
        catalogue,
        packed: None,
    })
}

/// `generation_config.json`, where there is one, may name more ids that end an answer.
fn add_end_tokens(files: &Files<'_>, config: &mut Config) -> Result<()> {
    const NAME: &str = "generation_config.json";
    if files.size(NAME).is_some() {
        let text = files.text(NAME, MOST_CONFIG)?;
        let ids = Fields::from_json(&text).and_then(|f| f.ids("eos_token_id"));
        for id in ids.map_err(|e| Error::Model(format!("{}: {e}", files.name_of(NAME))))? {
            if !config.eos.contains(&id) {
                config.eos.push(id);
            }
        }
    }
    if config.eos.is_empty() {
        config.notes.push("eos_token_id is absent: only a limit or a stop string ends an answer".into());
    }
    Ok(())
}

/// The files that hold tensors, in order of name.
fn shards(files: &Files<'_>) -> Result<Vec<(String, u64)>> {
    let names: BTreeSet<String> = if files.size(INDEX).is_some() {
        let refuse = |e: String| Error::Model(format!("{}: {e}", files.name_of(INDEX)));
        index_names(&files.text(INDEX, MOST_INDEX)?).map_err(refuse)?
    } else if files.size("model.safetensors").is_some() {
        BTreeSet::from(["model.safetensors".to_string()])
    } else {
        let all: BTreeSet<String> =
            files.list.iter().filter(|(n, _)| n.ends_with(".safetensors")).map(|(n, _)| n.clone()).collect();
        if all.len() > 1 {
            let list = all.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Error::Model(format!("{}: several safetensors files and no {INDEX}: {list}", files.label)));
        }
        all
    };
    let with_size = |name: String| match files.size(&name) {
        Some(size) => Ok((name, size)),
        None => Err(Error::Model(format!("{}: {INDEX} names {name}, which is missing", files.label))),
    };
    names.into_iter().map(with_size).collect()
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The distinct file names of an index.
fn index_names(text: &str) -> Result<BTreeSet<String>, String> {
    let Index { weight_map } = serde_json::from_str(text).map_err(|e| format!("is not an index of shards: {e}"))?;
    let mut names = BTreeSet::new();
    for (tensor, file) in weight_map {
        // A name only: an index must not lead out of its folder.
        if file.contains(['/', '\\']) || !file.ends_with(".safetensors") {
            return Err(format!(
                "weight_map: tensor {tensor}: expected the name of a safetensors file, found {file:?}"
            ));
        }
        names.insert(file);
    }
    if names.is_empty() { Err("weight_map is empty".into()) } else { Ok(names) }
}

/// The checked header of one file: every tensor's range is inside the file, and no two share a byte.
fn file_header(files: &Files<'_>, name: &str, size: u64, file: u32) -> Result<Vec<(String, Tensor)>> {
    let refuse = |e: String| Error::Model(format!("{}: {e}", files.name_of(name)));
    if size < 8 {
        return Err(refuse(format!("expected at least 8 bytes of safetensors, found {size}")));
    }
    let first = (files.read_at)(name, 0, 8)?;
    let header = u64::from_le_bytes(first[..8].try_into().expect("eight bytes were asked for"));
    if header > MOST_HEADER || header > size - 8 {
        return Err(refuse(format!(
            "its first 8 bytes announce a header of {header} bytes, but {} bytes follow: truncated, or not safetensors",
            size - 8
        )));
    }
    let bytes = (files.read_at)(name, 8, header as usize)?;
    parse(&bytes, 8 + header, size, file).map_err(refuse)
}

/// Tensors of a header, whose data begins at `data` in a file of `size` bytes.
fn parse(header: &[u8], data: u64, size: u64, file: u32) -> Result<Vec<(String, Tensor)>, String> {
    let Infos(mut infos) = serde_json::from_slice(header).map_err(|e| format!("the header is damaged: {e}"))?;
    infos.sort_by_key(|(_, info)| info.data_offsets);
    let held = size - data;
    let mut previous: (u64, &str) = (0, "the header");
    let mut tensors = Vec::with_capacity(infos.len());
    for (name, info) in &infos {
        let (start, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        let expected = info.shape.iter().try_fold(info.dtype.bitsize() as u64, |n, &d| n.checked_mul(d as u64));
        let Some(bits) = expected else {
            return Err(format!("tensor {name}: the size of shape {:?} overflows", info.shape));
        };
        if end < start || end - start != bits.div_ceil(8) {
            return Err(format!(
                "tensor {name}: {} of shape {:?} takes {} bytes, but its offsets are {start}..{end}",
                info.dtype,
                info.shape,
                bits.div_ceil(8)
            ));
        }
        if end > held {
            return Err(format!(
                "tensor {name} ends at byte {end} of the data, but the file holds {held}: truncated or damaged"
            ));
        }
        if start < previous.0 {
            return Err(format!("tensors {} and {name} overlap at byte {start} of the data", previous.1));
        }
        if start > previous.0 {
            return Err(format!(
                "{} bytes between {} and tensor {name} belong to no tensor",
                start - previous.0,
                previous.1
            ));
        }
        previous = (end, name);
        let tensor =
            Tensor { dtype: info.dtype, shape: info.shape.clone(), file, offset: data + start, bytes: end - start };
        tensors.push((name.clone(), tensor));
    }
    if previous.0 != held {
        return Err(format!("the last tensor ends at byte {} of the data, but the file holds {held}", previous.0));
    }
    Ok(tensors)
}

/// The members of a header in order, each named in its own error, a name given twice refused.
struct Infos(Vec<(String, TensorInfo)>);

impl<'de> serde::Deserialize<'de> for Infos {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Infos, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Infos;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Infos, A::Error> {
                let (mut infos, mut seen) = (vec![], BTreeSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<serde::de::IgnoredAny>()?;
                        continue;
                    }
                    let info = map.next_value::<TensorInfo>();
                    let info = info.map_err(|e| A::Error::custom(format!("tensor {name}: {e}")))?;
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("tensor {name} is listed twice")));
                    }
                    infos.push((name, info));
                }
                Ok(Infos(infos))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Holds a tensor against the shape its part must have.
fn entry(config: &Config, part: Part, tensor: &Tensor) -> Result<Entry, String> {
    let (rows, width) = config.shape(part, DownOrder::ByOutput);
    let expected = if part.is_norm() { vec![width] } else { vec![rows, width] };
    if tensor.shape != expected {
        return Err(format!("expected shape {expected:?} from config.json, found {:?}", tensor.shape));
    }
    let format = match tensor.dtype {
        Dtype::F32 => Format::F32,
        Dtype::F16 => Format::F16,
        Dtype::BF16 => Format::BF16,
        other => return Err(format!("expected BF16, F16 or F32, found {other}")),
    };
    check_format(part, format)?;
    let bytes = part_bytes(config, part, DownOrder::ByOutput, format)?;
    debug_assert_eq!(bytes, tensor.bytes, "shape and dtype fix the size");
    Ok(Entry { file: tensor.file, offset: tensor.offset, bytes, format, form: Form::FILE })
}

/// A tensor nobody asked for may change the mathematics (a bias, a norm, a layer too many): refused, but for known ones.
fn refuse_surplus(
    tensors: &HashMap<String, Tensor>,
    family: &Family,
    config: &mut Config,
) -> Result<(), (u32, String)> {
    let mut names: Vec<&String> = tensors.keys().collect();
    names.sort();
    for name in names {
        match (family.surplus)(name) {
            Some("") => {}
            Some(note) => config.notes.push(note.into()),
            None => {
                let sentence = format!(
                    "tensor {name} has no place in a {} model of {} layers and {} experts, as config.json describes it",
                    family.name,
                    config.layers.len(),
                    config.experts
                );
                return Err((tensors[name].file, sentence));
            }
        }
    }
    Ok(())
}

/// Config of a folder: which family, and its fields.
pub(super) fn config_fields(files: &Files<'_>) -> Result<(&'static Family, Fields)> {
    let refuse = |e: String| Error::Model(format!("{}: {e}", files.name_of("config.json")));
    let fields = Fields::from_json(&files.text("config.json", MOST_CONFIG)?).map_err(refuse)?;
    let family = family::of_json(&fields).map_err(refuse)?;
    Ok((family, fields))
}
