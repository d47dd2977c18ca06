//! Which files of a repository make a model: a safetensors folder, or one GGUF.
//!
//! Weights come as safetensors or GGUF only: the other containers (`.bin`, `.pt`) are programs in disguise,
//! and code (`.py`) is never fetched.

use crate::error::{Error, Result};

pub(super) const CONFIG: &str = "config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// Fetched where the repository has them.
const OPTIONAL: [&str; 3] = ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"];

/// The order of preference when a repository of GGUFs is named without a quantisation: the format the fast
/// kernels are written for, then the usual ones by how well they keep the model for their size.
const PREFERRED: [&str; 14] = [
    "Q4_0", "Q4_K_M", "Q8_0", "Q5_K_M", "Q6_K", "Q4_K_S", "Q4_1", "Q5_K_S", "Q3_K_M", "Q3_K_L", "Q3_K_S", "BF16",
    "F16", "F32",
];
/// Beginnings of quantisations that no kernel here reads: refused before gigabytes travel.
const FOREIGN: [&str; 7] = ["IQ", "Q2_K", "Q5_0", "Q5_1", "TQ1", "TQ2", "MXFP4"];

/// What to fetch, file names as the repository spells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// `config.json` and texts, plus one file of weights or an index that names its shards.
    Safetensors { texts: Vec<String>, sharded: bool },
    /// One file; `chosen` when nobody asked for this one in particular.
    Gguf { file: String, chosen: bool },
}

/// Chooses among `files` of `repo`. Errors name what is missing and what there is.
pub(super) fn choose(repo: &str, files: &[String], pick: Option<&str>) -> Result<Choice> {
    let has = |name: &str| files.iter().any(|file| file == name);
    let weights = has(SINGLE) || has(INDEX);
    if pick.is_none() && weights {
        for name in [CONFIG, TOKENIZER] {
            if !has(name) {
                return Err(Error::Model(format!(
                    "{repo} has safetensors weights but no {name}, without which they cannot be run"
                )));
            }
        }
        let texts =
            [CONFIG, TOKENIZER].into_iter().chain(OPTIONAL).filter(|name| has(name)).map(str::to_string).collect();
        return Ok(Choice::Safetensors { texts, sharded: !has(SINGLE) });
    }
    let ggufs: Vec<&str> = files.iter().map(String::as_str).filter(|file| is_model_gguf(file)).collect();
    if ggufs.is_empty() {
        return Err(Error::Model(no_gguf(repo, files, pick, weights)));
    }
    let file = match pick {
        Some(pick) => picked(repo, &ggufs, pick)?,
        None => preferred(repo, &ggufs)?,
    };
    Ok(Choice::Gguf { file: file.to_string(), chosen: pick.is_none() })
}

/// The shards an index names, in order of name. `index` is the file's bytes.
pub(super) fn shards(repo: &str, files: &[String], index: &[u8]) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::HashMap<String, String>,
    }
    let bad = |what: String| Error::Model(format!("{repo}: {INDEX} {what}"));
    let parsed: Index = serde_json::from_slice(index).map_err(|e| bad(format!("is not an index of shards: {e}")))?;
    let mut shards: Vec<String> = parsed.weight_map.into_values().collect();
    shards.sort();
    shards.dedup();
    if shards.is_empty() {
        return Err(bad("names no shard".into()));
    }
    for shard in &shards {
        if !shard.ends_with(".safetensors") || shard.contains('/') {
            return Err(bad(format!("names `{shard}`, which is not a .safetensors file beside it")));
        }
        if !files.contains(shard) {
            return Err(bad(format!("names {shard}, which is not there")));
        }
    }
    Ok(shards)
}

/// True for a name that stays inside the folder it is joined to. The hub's list is foreign text.
pub(super) fn is_safe(file: &str) -> bool {
    !file.is_empty()
        && !file.contains(['\\', '\0', ':'])
        && file.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Vision projectors and importance matrices are GGUFs too, but no models.
fn is_model_gguf(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase();
    name.strip_suffix(".gguf").is_some_and(|stem| !stem.starts_with("mmproj") && !stem.ends_with("imatrix"))
}

/// The one GGUF that `pick` names: a whole file name, or a quantisation standing between `.`, `-` or `/`.
fn picked<'f>(repo: &str, ggufs: &[&'f str], pick: &str) -> Result<&'f str> {
    let same = |file: &&&str| {
        file.eq_ignore_ascii_case(pick) || file.rsplit('/').next().is_some_and(|name| name.eq_ignore_ascii_case(pick))
    };
    if let Some(file) = ggufs.iter().find(same) {
        return whole(repo, file);
    }
    let label = pick.to_ascii_uppercase();
    if FOREIGN.iter().any(|foreign| label.starts_with(foreign)) {
        return Err(Error::Model(format!(
            "{repo}:{pick}: {label} is a quantisation this program does not run; use Q4_0, Q4_K_M or Q8_0. {}",
            there_are(ggufs)
        )));
    }
    let found = carrying(ggufs, &label);
    match found.as_slice() {
        [] => Err(Error::Model(format!("{repo} has no GGUF of {pick}. {}", there_are(ggufs)))),
        _ => one(repo, &found, pick),
    }
}

fn preferred<'f>(repo: &str, ggufs: &[&'f str]) -> Result<&'f str> {
    for label in PREFERRED {
        let found = carrying(ggufs, label);
        if !found.is_empty() {
            return one(repo, &found, label);
        }
    }
    match ggufs {
        [file] => whole(repo, file),
        _ => Err(Error::Model(format!("{repo}: say which GGUF, as in {repo}:Q4_0. {}", there_are(ggufs)))),
    }
}

/// The one of `found`, where the ordinary file goes before PowerInfer's layout of the same weights.
fn one<'f>(repo: &str, found: &[&'f str], label: &str) -> Result<&'f str> {
    let ordinary: Vec<&str> =
        found.iter().copied().filter(|file| !file.to_ascii_lowercase().contains(".powerinfer.")).collect();
    match if ordinary.is_empty() { found } else { &ordinary[..] } {
        [file] => whole(repo, file),
        several if several.iter().all(|file| part_of_several(file)) => whole(repo, several[0]),
        several => Err(Error::Model(format!(
            "{repo} has {} GGUFs of {label}; name the file after the colon. {}",
            several.len(),
            there_are(several)
        ))),
    }
}

fn whole<'f>(repo: &str, file: &'f str) -> Result<&'f str> {
    if part_of_several(file) {
        return Err(Error::Model(format!(
            "{repo}: {file} is one part of a GGUF split in several, which this program does not read; use a file in one piece or join the parts"
        )));
    }
    Ok(file)
}

/// The files that carry `label` (upper case) whole; where none does, those that carry it after a `_`.
fn carrying<'f>(ggufs: &[&'f str], label: &str) -> Vec<&'f str> {
    let with = |before: &str| ggufs.iter().copied().filter(|file| carries(file, label, before)).collect();
    let whole: Vec<&str> = with(".-/");
    if whole.is_empty() { with(".-/_") } else { whole }
}

/// Whether the path, less `.gguf`, carries `label` between one of `before` and one of `.-/`, or its own ends.
fn carries(file: &str, label: &str, before: &str) -> bool {
    let upper = file.to_ascii_uppercase();
    let stem = upper.strip_suffix(".GGUF").unwrap_or(&upper);
    stem.match_indices(label).any(|(at, _)| {
        let left = stem[..at].chars().next_back();
        let right = stem[at + label.len()..].chars().next();
        left.is_none_or(|c| before.contains(c)) && right.is_none_or(|c| ".-/".contains(c))
    })
}

/// `...-00001-of-00003.gguf`
fn part_of_several(file: &str) -> bool {
    let stem = &file[..file.len() - ".gguf".len()];
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    stem.rsplit_once("-of-").is_some_and(|(before, count)| {
        digits(count) && before.rsplit_once('-').is_some_and(|(_, number)| digits(number))
    })
}

fn no_gguf(repo: &str, files: &[String], pick: Option<&str>, weights: bool) -> String {
    if let (Some(pick), true) = (pick, weights) {
        return format!(
            "{repo} has no GGUF, so no {pick} in it; it holds safetensors: leave `:{pick}` away and see --quant"
        );
    }
    let pickled = |file: &&String| [".bin", ".pt", ".pth", ".ckpt"].iter().any(|ending| file.ends_with(ending));
    match files.iter().find(pickled) {
        Some(file) => format!(
            "{repo} has its weights only as {file}, a kind of file that can run code; this program opens safetensors and GGUF"
        ),
        None => format!("{repo} holds no model: neither {SINGLE} nor {INDEX} nor a .gguf file is in it"),
    }
}

fn there_are(ggufs: &[&str]) -> String {
    const SHOWN: usize = 20; // a screen; some repositories hold sixty
    let mut text = format!("There are: {}", ggufs[..ggufs.len().min(SHOWN)].join(", "));
    if ggufs.len() > SHOWN {
        text += &format!(" and {} more", ggufs.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| name.to_string()).collect()
    }

    fn gguf(list: &[&str], pick: Option<&str>) -> std::result::Result<String, String> {
        match choose("o/r", &names(list), pick) {
            Ok(Choice::Gguf { file, .. }) => Ok(file),
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert_eq!(error.exit_code(), 5);
                Err(error.to_string())
            }
        }
    }

    #[test]
    fn a_safetensors_repository() {
        let all = [
            "README.md",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "modeling.py",
            "pytorch_model.bin",
            "tokenizer.json",
            "tokenizer_config.json",
            "x.Q4_0.gguf",
        ];
        let texts = names(&["config.json", "tokenizer.json", "generation_config.json", "tokenizer_config.json"]);
        let want = Choice::Safetensors { texts, sharded: false };
        assert_eq!(choose("o/r", &names(&all), None).unwrap(), want);
        assert_eq!(gguf(&all, Some("q4_0")).unwrap(), "x.Q4_0.gguf");
        let sharded = names(&["config.json", "tokenizer.json", INDEX, "chat_template.jinja"]);
        let texts = names(&["config.json", "tokenizer.json", "chat_template.jinja"]);
        assert_eq!(choose("o/r", &sharded, None).unwrap(), Choice::Safetensors { texts, sharded: true });
    }

    #[test]
    fn a_quantisation_is_matched_whole_and_in_any_case() {
        let list = [
            "m.Q4_0.gguf",
            "m.Q4_0.powerinfer.gguf",
            "m-bf16_q8_0.gguf",
            "m-q8_0.gguf",
            "UD/m-UD-Q4_K_XL.gguf",
            "m_Q6_K.gguf",
            "mmproj-m.Q4_0.gguf",
        ];
        for (pick, want) in [
            ("Q4_0", "m.Q4_0.gguf"),
            ("q4_0", "m.Q4_0.gguf"),
            ("Q4_0.powerinfer", "m.Q4_0.powerinfer.gguf"),
            ("m.Q4_0.powerinfer.gguf", "m.Q4_0.powerinfer.gguf"),
            ("Q8_0", "m-q8_0.gguf"),
            ("BF16_Q8_0", "m-bf16_q8_0.gguf"),
            ("Q4_K_XL", "UD/m-UD-Q4_K_XL.gguf"),
            ("UD-Q4_K_XL", "UD/m-UD-Q4_K_XL.gguf"),
            ("m-UD-Q4_K_XL.gguf", "UD/m-UD-Q4_K_XL.gguf"),
            ("Q6_K", "m_Q6_K.gguf"),
        ] {
            assert_eq!(gguf(&list, Some(pick)).as_deref(), Ok(want), "{pick}");
        }
        let missing = gguf(&list, Some("Q4_K")).unwrap_err();
        assert!(missing.contains("no GGUF of Q4_K") && missing.contains("m.Q4_0.gguf"), "{missing}");
        assert_eq!(gguf(&["m.Q4_0.powerinfer.gguf"], Some("Q4_0")).unwrap(), "m.Q4_0.powerinfer.gguf");
    }

    #[test]
    fn without_a_quantisation_the_preferred_one() {
        assert_eq!(gguf(&["m.Q8_0.gguf", "m.Q4_K_M.gguf", "m.Q4_0.gguf"], None).unwrap(), "m.Q4_0.gguf");
        assert_eq!(gguf(&["m.Q8_0.gguf", "m.Q4_K_M.gguf"], None).unwrap(), "m.Q4_K_M.gguf");
        assert_eq!(gguf(&["odd.gguf"], None).unwrap(), "odd.gguf");
        assert!(gguf(&["a.gguf", "b.gguf"], None).unwrap_err().contains("say which GGUF"));
    }

    #[test]
    fn each_refusal_has_its_sentence() {
        for (list, pick, part) in [
            (&["a.Q4_0.gguf", "b.Q4_0.gguf"][..], Some("Q4_0"), "2 GGUFs of Q4_0"),
            (&["a-Q4_0-00001-of-00002.gguf", "a-Q4_0-00002-of-00002.gguf"], Some("Q4_0"), "split in several"),
            (&["a-Q4_0-00001-of-00002.gguf", "a-Q4_0-00002-of-00002.gguf"], None, "split in several"),
            (&["a.IQ2_S.gguf", "a.Q4_0.gguf"], Some("IQ2_S"), "does not run"),
            (&["config.json", "tokenizer.json", "model.safetensors"], Some("Q4_0"), "holds safetensors"),
            (&["config.json", "pytorch_model.bin"], None, "can run code"),
            (&["README.md"], None, "holds no model"),
            (&["model.safetensors", "config.json"], None, "no tokenizer.json"),
            (&["model.safetensors", "tokenizer.json"], None, "no config.json"),
        ] {
            let sentence = gguf(list, pick).unwrap_err();
            assert!(sentence.contains(part), "{list:?}: {sentence}");
        }
    }

    #[test]
    fn shards_are_named_files_beside_the_index() {
        let files = names(&["a-1.safetensors", "a-2.safetensors"]);
        let index = br#"{"weight_map":{"x":"a-2.safetensors","y":"a-1.safetensors","z":"a-2.safetensors"}}"#;
        assert_eq!(shards("o/r", &files, index).unwrap(), files);
        for bad in [
            &br#"{"weight_map":{"x":"../../a.safetensors"}}"#[..],
            br#"{"weight_map":{"x":"a-1.bin"}}"#,
            br#"{"weight_map":{"x":"a-3.safetensors"}}"#,
            br#"{"weight_map":{}}"#,
            br#"{}"#,
            b"\xff",
        ] {
            assert_eq!(shards("o/r", &files, bad).unwrap_err().exit_code(), 5);
        }
    }

    #[test]
    fn names_that_climb_are_not_safe() {
        for (name, safe) in [
            ("a.json", true),
            ("a/b.gguf", true),
            ("../a", false),
            ("/a", false),
            ("a//b", false),
            ("a/./b", false),
            ("", false),
            ("a\\b", false),
            ("C:x", false),
        ] {
            assert_eq!(is_safe(name), safe, "{name}");
        }
    }
}
