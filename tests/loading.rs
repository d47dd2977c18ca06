//! Loaded weights: every container and quantisation gives the numbers its rule says, wherever they lie in memory.

mod tiny;

use kernels::{Format, Rows};
use std::sync::Arc;
use tempfile::TempDir;
use thermocline::checkpoint::{Checkpoint, DownOrder, Header, Matrix, Part, Quant, Relay, Summary, Weights};
use tiny::{Gguf, Key, Tiny};

fn serial(n: usize, job: &(dyn Fn(usize) + Sync)) {
    (0..n).for_each(job);
}

/// Jobs from last to first on two threads: no order may matter.
fn backwards(n: usize, job: &(dyn Fn(usize) + Sync)) {
    std::thread::scope(|s| {
        s.spawn(|| (0..n).rev().filter(|i| i % 2 == 0).for_each(job));
        (0..n).rev().filter(|i| i % 2 == 1).for_each(job);
    });
}

fn load(model: &Arc<Checkpoint>, quant: Option<Quant>, relay: Relay) -> Weights {
    let (mut last, mut whole) = (0, 0);
    let mut progress = |done, total| {
        assert!(done > last && done <= total, "progress goes up to its total");
        (last, whole) = (done, total);
    };
    let weights = Weights::load(model.clone(), quant, relay, &backwards, &mut progress).unwrap();
    assert_eq!(last, whole, "progress reaches its total");
    weights
}

fn decoded(rows: Rows<'_>) -> Vec<f32> {
    let mut all = vec![0f32; rows.len() * rows.width()];
    all.chunks_exact_mut(rows.width()).enumerate().for_each(|(i, row)| rows.decode_row(i, row));
    all
}

/// The numbers of a matrix as a file would have it.
fn numbers(matrix: &Matrix) -> Vec<f32> {
    if let Some(rows) = matrix.neurons() {
        let (neurons, turned) = (rows.len(), decoded(rows));
        return (0..turned.len()).map(|i| turned[i % neurons * matrix.len() + i / neurons]).collect();
    }
    let Some(tiles) = matrix.tiles() else { return decoded(matrix.rows()) };
    let (format, mut file) = (matrix.format(), vec![0u8; matrix.bytes().len()]);
    kernels::file_from_tiles(format, tiles.neurons(), tiles.width(), matrix.bytes(), &mut file).unwrap();
    decoded(Rows::new(format, kernels::Layout::File, matrix.width(), &file).unwrap())
}

/// `weights` as `format` keeps them.
fn kept(weights: &[f32], format: Format) -> Vec<f32> {
    let mut bytes = vec![0u8; format.row_bytes(weights.len()).unwrap()];
    let mut back = vec![0f32; weights.len()];
    format.encode(weights, &mut bytes);
    format.decode(&bytes, &mut back);
    back
}

fn weights_of(model: &Checkpoint, part: Part) -> Vec<f32> {
    let stored = model.stored(part);
    let mut all = vec![0f32; stored.rows * stored.width];
    stored.format.decode(stored.bytes, &mut all);
    all
}

#[test]
fn safetensors_rounded_while_loading() {
    let dir = TempDir::new().unwrap();
    for (stored, tied) in [(Format::F32, true), (Format::BF16, false), (Format::F16, true)] {
        let tiny = Tiny { tied, ..Tiny::wide() };
        tiny.write_folder(dir.path(), stored);
        let model = Arc::new(Checkpoint::open(dir.path()).unwrap());
        for quant in Quant::ALL {
            let format = match quant {
                Quant::Q4_0 => Format::Q4_0,
                Quant::Q8_0 => Format::Q8_0,
                Quant::F16 => Format::F16,
                Quant::None => stored,
            };
            for relay in [Relay::Never, Relay::Rounded, Relay::All] {
                let loaded = load(&model, Some(quant), relay);
                for part in model.parts() {
                    let matrix = loaded.matrix(part);
                    let expected = if part.stays_f32() { Format::F32 } else { format };
                    assert_eq!(matrix.format(), expected, "{part:?} {quant}");
                    let file = weights_of(&model, part);
                    assert!(numbers(&matrix) == kept(&file, expected), "{part:?} from {stored} to {quant}, {relay:?}");
                    let tiled = matches!(part, Part::Down(..)) && relay != Relay::Never;
                    let tiled = tiled && matches!(quant, Quant::Q4_0 | Quant::Q8_0);
                    assert_eq!(matrix.tiles().is_some(), tiled, "{part:?} {quant} {relay:?}");
                    if !std::ptr::eq(matrix.bytes().as_ptr(), model.stored(part).bytes.as_ptr()) {
                        assert_eq!(matrix.bytes().as_ptr() as usize % 64, 0, "{part:?} is aligned");
                    }
                }
                if quant == Quant::None && relay != Relay::All {
                    let vectors = |p: &Part| p.stays_f32() && stored != Format::F32;
                    assert_eq!(loaded.owned_bytes() == 0, !model.parts().any(|p| vectors(&p)));
                } else if quant != Quant::None && (quant != Quant::F16 || stored != Format::F16) {
                    assert_eq!(loaded.mapped_bytes() == 0, stored != Format::F32, "{stored} {quant}");
                }
            }
        }
    }
}

#[test]
fn a_shared_head_is_held_once() {
    let dir = TempDir::new().unwrap();
    Tiny::wide().write_folder(dir.path(), Format::BF16);
    let model = Arc::new(Checkpoint::open(dir.path()).unwrap());
    let loaded = load(&model, Some(Quant::Q4_0), Relay::Never);
    let (head, embedding) = (loaded.matrix(Part::Head), loaded.matrix(Part::Embedding));
    assert_eq!(head.bytes().as_ptr(), embedding.bytes().as_ptr());
}

#[test]
fn every_format_of_gguf_is_used_as_it_lies() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    for format in [Format::F32, Format::F16, Format::BF16, Format::Q4_0, Format::Q8_0] {
        for down_by_neuron in [false, true] {
            let tiny = Tiny { down_by_neuron, tied: false, softmax: true, window: Some(16), ..Tiny::wide() };
            tiny.write_gguf(&path, format);
            let model = Arc::new(Checkpoint::open(&path).unwrap());
            let order = if down_by_neuron { DownOrder::ByNeuron } else { DownOrder::ByOutput };
            assert_eq!(model.down, order);
            let loaded = load(&model, None, Relay::Never);
            assert_eq!((loaded.owned_bytes(), loaded.mapped_bytes()), (0, model.weight_bytes()));
            for tensor in tiny.tensors() {
                let part = part_of(&tensor.name);
                let stored = model.stored(part);
                let turned = down_by_neuron && matches!(part, Part::Down(..));
                let expected = if turned { transposed(&tensor.weights, stored.width) } else { tensor.weights };
                let format = if part.stays_f32() { Format::F32 } else { format };
                assert_eq!(stored.format, format);
                assert!(weights_of(&model, part) == kept(&expected, format), "{} in {format}", tensor.name);
                assert_eq!(loaded.matrix(part).bytes().as_ptr(), stored.bytes.as_ptr());
            }
        }
    }
}

/// `weights` has `width` rows; the result has rows of `width`.
fn transposed(weights: &[f32], width: usize) -> Vec<f32> {
    let neurons = weights.len() / width;
    (0..weights.len()).map(|i| weights[i % width * neurons + i / width]).collect()
}

fn part_of(name: &str) -> Part {
    let pieces: Vec<&str> = name.split('.').collect();
    let number = |i: usize| pieces[i].parse::<u16>().unwrap();
    match pieces[..] {
        ["model", "embed_tokens", _] => Part::Embedding,
        ["model", "norm", _] => Part::OutputNorm,
        ["lm_head", _] => Part::Head,
        [_, _, _, "input_layernorm", _] => Part::NormIn(number(2)),
        [_, _, _, "post_attention_layernorm", _] => Part::NormFfn(number(2)),
        [_, _, _, _, "q_proj", _] => Part::Query(number(2)),
        [_, _, _, _, "k_proj", _] => Part::Key(number(2)),
        [_, _, _, _, "v_proj", _] => Part::Value(number(2)),
        [_, _, _, _, "o_proj", _] => Part::AttentionOut(number(2)),
        [_, _, _, _, "primary_router", _] => Part::Router(number(2)),
        [_, _, _, _, _, _, "gate", _] => Part::Gate(number(2), number(5)),
        [_, _, _, _, _, _, "up", _] => Part::Up(number(2), number(5)),
        _ => Part::Down(number(2), number(5)),
    }
}

#[test]
fn k_formats_in_any_mixture() {
    let mut gguf = Tiny::wide().gguf(Format::Q8_0);
    let formats = [Format::Q3_K, Format::Q4_K, Format::Q5_K, Format::Q6_K, Format::Q4_1, Format::F16];
    let mut seed = 7;
    let mut expected = vec![];
    let matrices = gguf.tensors.iter_mut().filter(|t| t.shape.len() > 1 && !t.name.contains("gate_inp"));
    for (i, t) in matrices.enumerate() {
        t.format = formats[i % formats.len()];
        let bytes = t.format.row_bytes(t.shape.iter().product()).unwrap();
        t.bytes = (0..bytes).map(|_| (tiny::uniform(&mut seed) * 100.0) as i32 as u8 & 0x3f).collect();
        expected.push((t.name.clone(), t.format));
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, gguf.bytes()).unwrap();
    let model = Arc::new(Checkpoint::open(&path).unwrap());
    for part in model.parts().filter(|p| !p.stays_f32() && *p != Part::Head) {
        let name = model.tensor_name(part);
        let (_, format) = expected.iter().find(|(n, _)| name.starts_with(n.as_str())).unwrap();
        let stored = model.stored(part);
        assert_eq!(stored.format, *format, "{name}");
        assert_eq!(stored.bytes.len(), stored.rows * format.row_bytes(stored.width).unwrap());
    }
    // Expert e is the e-th piece of its stack.
    let stack = gguf.tensor("blk.1.ffn_up_exps.weight").bytes.clone();
    let piece = stack.len() / 3;
    for e in 0..3u16 {
        assert!(model.stored(Part::Up(1, e)).bytes == &stack[e as usize * piece..(e as usize + 1) * piece]);
    }
    // Asked for, even these are rounded anew.
    let loaded = load(&model, Some(Quant::Q8_0), Relay::Rounded);
    let part = Part::Gate(0, 2);
    assert!(numbers(&loaded.matrix(part)) == kept(&weights_of(&model, part), Format::Q8_0));
}

#[test]
fn shards_are_one_model() {
    let (one, three) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let tiny = Tiny { window: Some(8), softmax: true, tied: false, layers: 5, ..Tiny::default() };
    let one = Checkpoint::open(&tiny.write_folder(one.path(), Format::BF16)).unwrap();
    let three = Checkpoint::open(&tiny.write_sharded(three.path(), Format::BF16, 3)).unwrap();
    assert_eq!(one.config, three.config);
    assert_eq!((one.files().len(), three.files().len()), (1, 3));
    for part in one.parts() {
        assert!(one.stored(part).bytes == three.stored(part).bytes, "{part:?}");
        let (file, range) = three.place(part);
        let file = std::fs::read(&three.files()[file].0).unwrap();
        assert!(&file[range.start as usize..range.end as usize] == three.stored(part).bytes, "{part:?}");
    }
}

#[test]
fn both_containers_of_a_tiny_model_agree() {
    let dir = TempDir::new().unwrap();
    for (window, softmax, tied) in [(None, false, true), (Some(16), true, false)] {
        let tiny = Tiny { window, softmax, tied, layers: 9, ..Tiny::default() };
        let folder = Checkpoint::open(&tiny.write_folder(dir.path(), Format::F32)).unwrap();
        let gguf = Checkpoint::open(&tiny.write_gguf(&dir.path().join("model.bin"), Format::F32)).unwrap();
        assert_eq!(folder.config, gguf.config);
        for part in folder.parts() {
            assert!(folder.stored(part).bytes == gguf.stored(part).bytes, "{part:?}");
        }
    }
}

#[test]
fn defaults() {
    let dir = TempDir::new().unwrap();
    let small = Checkpoint::open(&Tiny::default().write_folder(dir.path(), Format::BF16)).unwrap();
    assert_eq!(Quant::default_for(&small), Quant::None);
    // 65 MB: a large vocabulary makes a large model quickly.
    let large = Tiny { vocab: 510_000, experts: 2, layers: 1, ..Tiny::default() };
    let large = Checkpoint::open(&large.write_folder(dir.path(), Format::BF16)).unwrap();
    assert_eq!(Quant::default_for(&large), Quant::Q4_0);
}

fn open(gguf: &Gguf) -> (TempDir, Checkpoint) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, gguf.bytes()).unwrap();
    let model = Checkpoint::open(&path).unwrap();
    (dir, model)
}

#[test]
fn powerinfer_files_leave_things_out() {
    use thermocline::config::Gating::{Sigmoid, Softmax};
    let gating = |tiny: Tiny| {
        let mut gguf = tiny.gguf(Format::Q4_0);
        gguf.remove("smallthinker.expert_gating_func");
        let (_dir, model) = open(&gguf);
        assert!(
            model.config.notes.iter().any(|n| n.contains("expert_gating_func is absent")),
            "{:?}",
            model.config.notes
        );
        model.config.gating
    };
    assert_eq!(gating(Tiny { layers: 32, experts: 32, ..Tiny::default() }), Sigmoid);
    assert_eq!(gating(Tiny { layers: 52, window: Some(64), ..Tiny::default() }), Softmax);
    assert_eq!(gating(Tiny { window: Some(64), ..Tiny::default() }), Softmax);
    assert_eq!(gating(Tiny::default()), Sigmoid);

    let mut gguf = Tiny { down_by_neuron: true, ..Tiny::default() }.gguf(Format::Q4_0);
    gguf.remove("smallthinker.rope.freq_base");
    let mut profiler = gguf.tensor("token_embd.weight").clone();
    (profiler.name, profiler.shape) = ("lm_head_profiler.weight".into(), vec![profiler.shape.iter().product()]);
    gguf.tensors.push(profiler);
    let (_dir, model) = open(&gguf);
    assert_eq!((model.config.rope_theta, model.down, model.config.tied), (1.5e6, DownOrder::ByNeuron, true));
    for word in ["rope.freq_base is absent: assumed 1500000", "lm_head_profiler.weight"] {
        assert!(model.config.notes.iter().any(|n| n.contains(word)), "{word}: {:?}", model.config.notes);
    }
}

#[test]
fn a_square_down_is_taken_by_output() {
    let (_dir, model) = open(&Tiny { neurons: 64, ..Tiny::default() }.gguf(Format::Q4_0));
    assert_eq!(model.down, DownOrder::ByOutput);
    assert!(model.config.notes.iter().any(|n| n.contains("blk.0.ffn_down_exps.weight is square")));
}

#[test]
fn patterns_of_windows() {
    let windows = |change: fn(&mut Gguf)| {
        let mut gguf = Tiny { layers: 6, window: Some(64), ..Tiny::default() }.gguf(Format::Q4_0);
        change(&mut gguf);
        let (_dir, model) = open(&gguf);
        assert!(model.config.layers.iter().all(|l| l.rotary == l.window.is_some()));
        model.config.layers.iter().map(|l| l.window.map_or('g', |_| 'w')).collect::<String>()
    };
    const PATTERN: &str = "smallthinker.attention.sliding_window_pattern";
    assert_eq!(windows(|_| {}), "gwwwgw");
    assert_eq!(windows(|g| g.set(PATTERN, Key::Count(3))), "gwwgww");
    assert_eq!(windows(|g| g.set(PATTERN, Key::Bools(vec![true, true, false, false, true, true]))), "wwggww");
    assert_eq!(windows(|g| g.set(PATTERN, Key::Counts(vec![0, 1, 1, 1, 1, 1]))), "gwwwww");
}

#[test]
fn a_config_with_little_in_it() {
    let dir = TempDir::new().unwrap();
    let tiny = Tiny { layers: 3, ..Tiny::default() };
    tiny.write_folder(dir.path(), Format::BF16);
    let mut config = tiny.config_json();
    for key in [
        "model_name",
        "head_dim",
        "max_position_embeddings",
        "moe_primary_router_apply_softmax",
        "rms_norm_eps",
        "rope_layout",
        "rope_scaling",
        "rope_theta",
        "sliding_window_layout",
        "sliding_window_size",
        "tie_word_embeddings",
        "use_cache",
        "eos_token_id",
        "bos_token_id",
    ] {
        config.remove(key);
    }
    tiny::write_config(dir.path(), &config);
    std::fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": 5}"#).unwrap();
    let c = Checkpoint::open(dir.path()).unwrap().config;
    assert_eq!((c.head_width, c.context, c.rope_theta, c.tied), (16, 131_072, 1e6, true));
    assert_eq!((c.gating, c.norm_epsilon), (thermocline::config::Gating::Sigmoid, 1e-6));
    assert!(c.layers.iter().all(|l| l.rotary && l.window.is_none()));
    assert_eq!((c.bos, c.eos.as_slice()), (None, &[5][..]));
    for key in ["head_dim", "max_position_embeddings", "rope_theta", "rope_layout", "sliding_window_layout"] {
        assert!(c.notes.iter().any(|n| n.contains(key)), "{key} is assumed silently: {:?}", c.notes);
    }
}

#[test]
fn summaries_count_everything() {
    let dir = TempDir::new().unwrap();
    let tiny = Tiny { tied: false, ..Tiny::wide() };
    let path = tiny.write_gguf(&dir.path().join("model.gguf"), Format::Q4_0);
    let model = Checkpoint::open(&path).unwrap();
    let summary: Summary = model.summary();
    let weights: usize = tiny.tensors().iter().map(|t| t.weights.len()).sum();
    assert_eq!(summary.weights(), weights as u64);
    assert_eq!(summary.bytes(), model.parts().map(|p| model.stored(p).bytes.len() as u64).sum::<u64>());
    let gate = summary.groups.iter().find(|g| g.name == "gate").unwrap();
    assert_eq!((gate.tensors, gate.bytes), (2 * 3, 2 * 3 * 512 * 144));
    let text = summary.to_string();
    for word in ["tiny", "smallthinker", "GGUF version 3", "model.gguf", "3 per layer, 2 active", "Q4_0", "own head"] {
        assert!(text.contains(word), "{word} in\n{text}");
    }
}

/// A repository read by ranges: the same figures, from little more than the header.
#[test]
fn headers_are_enough_for_a_summary() {
    use std::cell::Cell;
    use thermocline::checkpoint::Files;
    let dir = TempDir::new().unwrap();
    let mut big = Tiny { vocab: 100_000, ..Tiny::default() };
    big.tied = false;
    big.write_sharded(dir.path(), Format::BF16, 2);
    let gguf = TempDir::new().unwrap();
    big.write_gguf(&gguf.path().join("model.gguf"), Format::Q4_0);
    for dir in [dir.path(), gguf.path()] {
        let list: Vec<(String, u64)> = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| (e.file_name().into_string().unwrap(), e.metadata().unwrap().len()))
            .collect();
        let read = Cell::new(0);
        let read_at = Box::new(|name: &str, offset: u64, len: usize| {
            read.set(read.get() + len);
            let bytes = std::fs::read(dir.join(name)).unwrap();
            Ok(bytes[offset as usize..offset as usize + len].to_vec())
        });
        let header = Header::read(&Files { label: "owner/model".into(), list, read_at }).unwrap();
        let whole = Checkpoint::open(dir).unwrap();
        assert_eq!(header.summary().to_string(), whole.summary().to_string());
        // A vocabulary of 100,000 takes a second look, and a file is fetched in pieces of a megabyte and its doubles.
        assert!(read.get() < 2_100_000, "{} bytes were read", read.get());
        assert!(whole.weight_bytes() > 4_000_000);
    }
}

#[test]
fn loading_serially_gives_the_same_bytes() {
    let dir = TempDir::new().unwrap();
    Tiny::wide().write_folder(dir.path(), Format::BF16);
    let model = Arc::new(Checkpoint::open(dir.path()).unwrap());
    let one = Weights::load(model.clone(), Some(Quant::Q4_0), Relay::All, &serial, &mut |_, _| {}).unwrap();
    let two = load(&model, Some(Quant::Q4_0), Relay::All);
    assert!(model.parts().all(|p| one.matrix(p).bytes() == two.matrix(p).bytes()));
}
