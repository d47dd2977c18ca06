//! GGUF: llama.cpp's files and PowerInfer's, which store `down` by neuron and leave some keys out.

mod parse;
mod write;

use super::catalogue::{Catalogue, Entry, Extent, check_format, part_bytes, refuse_overlap};
use super::files::Files;
use super::pack;
use super::{DownOrder, Form, GgufText, Header, Part, TextSource};
use crate::config::Config;
use crate::config::family::{self, Family, Fields, Value};
use crate::error::{Error, Result};
use kernels::Format;
use parse::Halt;
pub(super) use parse::{Parsed, Tensor, parse};
use std::collections::HashMap;
pub(super) use write::{Key, Vector, write};

/// How much of a file is read first; a header with the real vocabulary has 6 MB.
const FIRST: u64 = 1 << 20;

/// Config and catalogue of one GGUF file, from its header.
pub(super) fn read(files: &Files<'_>, name: &str) -> Result<Header> {
    let refuse = |e: String| Error::Model(format!("{}: {e}", files.name_of(name)));
    let size = files.size(name).ok_or_else(|| refuse("is missing".into()))?;
    let (beginning, parsed) = beginning(files, name, size)?;
    if parsed.architecture() == Some(pack::ARCHITECTURE) {
        return pack::read::header(files, name, &beginning, parsed);
    }
    let container = format!("GGUF version {}", parsed.version);
    let Described { config, down, family, catalogue, text } = describe(&beginning, parsed, size).map_err(refuse)?;
    let text = Some(TextSource::Gguf(text));
    let files = vec![(name.to_string(), size)];
    Ok(Header { config, down, text, container, files, family, catalogue, packed: None })
}

/// Reads a growing beginning of the file until its header is whole.
fn beginning(files: &Files<'_>, name: &str, size: u64) -> Result<(Vec<u8>, Parsed)> {
    let mut bytes: Vec<u8> = vec![];
    let mut wanted = FIRST;
    loop {
        let missing = wanted.min(size) - bytes.len() as u64;
        let more = (files.read_at)(name, bytes.len() as u64, missing as usize)?;
        bytes.reserve_exact(more.len()); // a file that claims to be long takes no more than it is
        bytes.extend_from_slice(&more);
        match parse(&bytes, size) {
            Ok(parsed) => return Ok((bytes, parsed)),
            // Twice as much each time, so that a header is parsed a few times only. `n` is at most `size`.
            Err(Halt::More(n)) => wanted = n.max(2 * wanted),
            Err(Halt::Bad(e)) => return Err(Error::Model(format!("{}: {e}", files.name_of(name)))),
        }
    }
}

struct Described {
    config: Config,
    down: DownOrder,
    family: &'static Family,
    catalogue: Catalogue,
    text: GgufText,
}

/// Everything the header says, checked.
fn describe(beginning: &[u8], mut parsed: Parsed, size: u64) -> Result<Described, String> {
    let fields = Fields::new(std::mem::take(&mut parsed.values));
    fields.refuse_unless(
        "split.count",
        |v| matches!(v, Value::Count(0 | 1)),
        "a model split over several GGUF files",
    )?;
    let family = family::of_gguf(&fields)?;
    let extents = check_extents(&parsed, size)?;
    let mut config = (family.from_gguf)(fields.clone())?;
    let mut tensors: HashMap<&str, (&Tensor, Format)> =
        parsed.tensors.iter().zip(extents).map(|(t, format)| (t.name.as_str(), (t, format))).collect();
    let head = (family.gguf_tensor)(Part::Head);
    config.tied = !tensors.contains_key(head.as_str());
    refuse_missing_experts(&tensors, family)?;
    let down = down_order(&tensors, family, &mut config);

    let text = text(beginning, &parsed, &fields, &config)?;
    for end in family.end_tokens {
        let id = text.tokens.iter().position(|t| t == end);
        config.eos.extend(id.map(|id| id as u32));
    }
    config.eos.extend(fields.ids("tokenizer.ggml.eot_token_id")?);
    config.eos.sort_unstable();
    config.eos.dedup();
    config.check()?;

    let mut used = vec![];
    let catalogue = Catalogue::build(&config, |part| {
        let name = (family.gguf_tensor)(part);
        let (tensor, format) = tensors.get(name.as_str()).ok_or_else(|| format!("tensor {name} is missing"))?;
        used.push(tensor.name.as_str());
        entry(&config, part, down, tensor, *format, parsed.data).map_err(|e| format!("tensor {name}: {e}"))
    })?;
    for name in used {
        tensors.remove(name);
    }
    refuse_surplus(&tensors, family, &mut config)?;
    Ok(Described { config, down, family, catalogue, text })
}

/// Formats of all tensors, after checking that each is whole, inside the file, and shares no byte with another.
fn check_extents(parsed: &Parsed, size: u64) -> Result<Vec<Format>, String> {
    let held = size.saturating_sub(parsed.data);
    let (mut formats, mut extents) = (vec![], vec![]);
    for t in &parsed.tensors {
        let name = &t.name;
        let format = format(t.kind).map_err(|e| format!("tensor {name} is stored as {e}"))?;
        let bytes = tensor_bytes(t, format).map_err(|e| format!("tensor {name}: {e}"))?;
        if !t.offset.is_multiple_of(parsed.alignment) {
            return Err(format!("tensor {name}: offset {} is not a multiple of {}", t.offset, parsed.alignment));
        }
        let end = t.offset.checked_add(bytes).filter(|end| *end <= held).ok_or_else(|| {
            format!(
                "tensor {name} takes {bytes} bytes from byte {} of the data, but the file holds {held}: truncated or damaged",
                t.offset
            )
        })?;
        formats.push(format);
        extents.push(Extent { name, start: t.offset, end });
    }
    refuse_overlap(&mut extents)?;
    Ok(formats)
}

/// Bytes a tensor takes, from its own dimensions.
fn tensor_bytes(tensor: &Tensor, format: Format) -> Result<u64, String> {
    let [width, rows @ ..] = tensor.dims;
    let overflow = || format!("the size of dimensions {:?} overflows", trimmed(&tensor.dims));
    let row = usize::try_from(width).map_err(|_| overflow())?;
    let Some(row) = format.row_bytes(row) else {
        return Err(format!("rows of {width} weights are not whole blocks of {}", format.name()));
    };
    let bytes = rows.iter().try_fold(row as u64, |n, d| n.checked_mul(*d)).ok_or_else(overflow)?;
    if bytes == 0 { Err(format!("dimensions {:?} hold nothing", trimmed(&tensor.dims))) } else { Ok(bytes) }
}

/// Dimensions without the ones that only fill up.
fn trimmed(dims: &[u64; 4]) -> &[u64] {
    let len = dims.iter().rposition(|d| *d != 1).map_or(1, |i| i + 1);
    &dims[..len]
}

/// The format of a GGUF type number, or what it is called and what to use instead.
fn format(kind: u32) -> Result<Format, String> {
    let name = match kind {
        0 => return Ok(Format::F32),
        1 => return Ok(Format::F16),
        2 => return Ok(Format::Q4_0),
        3 => return Ok(Format::Q4_1),
        8 => return Ok(Format::Q8_0),
        11 => return Ok(Format::Q3_K),
        12 => return Ok(Format::Q4_K),
        13 => return Ok(Format::Q5_K),
        14 => return Ok(Format::Q6_K),
        30 => return Ok(Format::BF16),
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return Err(format!("type {kind}, which is unknown; use a {INSTEAD} file of this model")),
    };
    Err(format!("{name}, which is not supported; use a {INSTEAD} file of this model"))
}

const INSTEAD: &str = "Q4_0, Q4_K_M, Q5_K_M, Q6_K, Q8_0, F16 or BF16";

/// PowerInfer's bundles keep the experts elsewhere.
fn refuse_missing_experts(tensors: &HashMap<&str, (&Tensor, Format)>, family: &Family) -> Result<(), String> {
    let names = Part::expert(0, 0).map(family.gguf_tensor);
    if names.iter().any(|n| tensors.contains_key(n.as_str())) {
        return Ok(());
    }
    Err(format!(
        "the file holds no expert weights ({} is missing): it was made to run beside a bundle of experts; use the complete GGUF \
         file, or the folder of safetensors",
        names[0]
    ))
}

/// The first layer's shape tells how `down` is stored; there is no key for it.
fn down_order(tensors: &HashMap<&str, (&Tensor, Format)>, family: &Family, config: &mut Config) -> DownOrder {
    let name = (family.gguf_tensor)(Part::Down(0, 0));
    let Some((tensor, _)) = tensors.get(name.as_str()) else { return DownOrder::ByOutput };
    let (width, neurons) = (config.width as u64, config.neurons as u64);
    if width == neurons {
        config.notes.push(format!("{name} is square, so its order is not known: assumed one row per output"));
        return DownOrder::ByOutput;
    }
    if tensor.dims[..2] == [width, neurons] { DownOrder::ByNeuron } else { DownOrder::ByOutput }
}

/// Holds a tensor against its part, and cuts one expert out of a stack.
fn entry(
    config: &Config,
    part: Part,
    down: DownOrder,
    tensor: &Tensor,
    format: Format,
    data: u64,
) -> Result<Entry, String> {
    let (rows, width) = config.shape(part, down);
    let (rows, width, experts) = (rows as u64, width as u64, config.experts as u64);
    let (expected, index) = match part {
        Part::Gate(_, e) | Part::Up(_, e) | Part::Down(_, e) => ([width, rows, experts, 1], e as u64),
        _ => ([width, rows, 1, 1], 0),
    };
    if tensor.dims != expected {
        return Err(format!(
            "expected dimensions {:?} from the metadata, found {:?}",
            trimmed(&expected),
            trimmed(&tensor.dims)
        ));
    }
    check_format(part, format)?;
    let bytes = part_bytes(config, part, down, format)?;
    // Inside the file: the whole tensor was checked, and this is the index-th of its `experts` equal pieces.
    Ok(Entry { file: 0, offset: data + tensor.offset + index * bytes, bytes, format, form: Form::FILE })
}

fn refuse_surplus(
    tensors: &HashMap<&str, (&Tensor, Format)>,
    family: &Family,
    config: &mut Config,
) -> Result<(), String> {
    let mut names: Vec<&str> = tensors.keys().copied().collect();
    names.sort();
    for name in names {
        match (family.surplus)(name) {
            Some("") => {}
            Some(note) => config.notes.push(note.into()),
            None => {
                return Err(format!(
                    "tensor {name} has no place in a {} model of {} layers, as the metadata describes it",
                    family.name,
                    config.layers.len()
                ));
            }
        }
    }
    Ok(())
}

/// The vocabulary. It may be shorter than the embedding (padding rows), never longer.
pub(super) fn text(beginning: &[u8], parsed: &Parsed, fields: &Fields, config: &Config) -> Result<GgufText, String> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    let count = fields.length(TOKENS)?;
    if count > config.vocab {
        return Err(format!("{TOKENS} has {count} entries, but the embedding has only {} rows", config.vocab));
    }
    let strings = |key: &str| match parsed.lists.get(key) {
        Some(list) => list.strings(beginning).map_err(|e| format!("{key}: {e}")),
        None => Ok(vec![]),
    };
    let types = match parsed.lists.get("tokenizer.ggml.token_type") {
        Some(list) => list.counts(beginning).map_err(|e| format!("tokenizer.ggml.token_type: {e}"))?,
        None => vec![],
    };
    let string = |key| Ok::<_, String>(fields.text_opt(key)?.map(str::to_string));
    let id = |key| Ok::<_, String>(fields.ids(key)?.first().copied());
    Ok(GgufText {
        model: string("tokenizer.ggml.model")?.unwrap_or_default(),
        pre: string("tokenizer.ggml.pre")?.unwrap_or_default(),
        tokens: strings(TOKENS)?,
        token_types: types,
        merges: strings("tokenizer.ggml.merges")?,
        bos: id("tokenizer.ggml.bos_token_id")?,
        eos: id("tokenizer.ggml.eos_token_id")?,
        padding: id("tokenizer.ggml.padding_token_id")?,
        add_bos: fields.bool_opt("tokenizer.ggml.add_bos_token")?.unwrap_or(false),
        chat_template: string("tokenizer.chat_template")?,
    })
}
