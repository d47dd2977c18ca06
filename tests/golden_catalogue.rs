//! The same model in two containers is the same model, byte for byte.

use std::path::{Path, PathBuf};
use thermocline::checkpoint::{Checkpoint, DownOrder, Part, TextSource};
use thermocline::config::{Gating, Layer};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

#[test]
fn safetensors_and_gguf_agree() {
    let folder = Checkpoint::open(&golden("hf-small")).unwrap();
    let gguf = Checkpoint::open(&golden("small-f32.gguf")).unwrap();
    let (mut a, mut b) = (folder.config.clone(), gguf.config.clone());
    (a.name, b.name) = (None, None);
    assert_eq!(a, b);
    assert_eq!(folder.down, gguf.down);
    for part in folder.parts() {
        let (a, b) = (folder.stored(part), gguf.stored(part));
        assert_eq!((a.format, a.rows, a.width), (b.format, b.rows, b.width), "{part:?}");
        assert!(a.bytes == b.bytes, "{part:?}: bytes differ");
    }
    assert_eq!(folder.weight_bytes(), gguf.weight_bytes());
}

#[test]
fn the_tied_model_is_what_its_makers_say() {
    let model = Checkpoint::open(&golden("small-f32.gguf")).unwrap();
    let c = &model.config;
    assert_eq!((c.layers.len(), c.width, c.experts, c.active), (5, 128, 8, 2));
    assert_eq!((c.heads, c.kv_heads, c.head_width, c.neurons, c.vocab), (4, 2, 32, 64, 2048));
    assert!(c.layers.iter().all(|l| *l == Layer { rotary: true, window: None }));
    assert_eq!((c.gating, c.tied, c.rope_theta), (Gating::Sigmoid, true, 1.5e6));
    assert_eq!((c.bos, c.eos.as_slice()), (Some(2045), &[2045, 2047][..]));
    assert_eq!(model.down, DownOrder::ByOutput);
    assert_eq!(model.stored(Part::Head).bytes.as_ptr(), model.stored(Part::Embedding).bytes.as_ptr());
    let TextSource::Gguf(text) = &model.text else { panic!("a GGUF carries its vocabulary") };
    assert_eq!((text.tokens.len(), text.token_types.len(), text.model.as_str()), (2048, 2048, "gpt2"));
    assert!(text.chat_template.is_some() && !text.merges.is_empty());
}

#[test]
fn the_windowed_model_has_its_layout() {
    let model = Checkpoint::open(&golden("window.gguf")).unwrap();
    let c = &model.config;
    assert_eq!((c.gating, c.tied, c.layers.len()), (Gating::Softmax, false, 8));
    for (i, layer) in c.layers.iter().enumerate() {
        let windowed = i % 4 != 0;
        assert_eq!(*layer, Layer { rotary: windowed, window: windowed.then_some(4096) }, "layer {i}");
    }
    let summary = model.summary().to_string();
    assert!(summary.contains("every 4: 0 global NoPE, 1-3 window 4096 RoPE"), "{summary}");
}
