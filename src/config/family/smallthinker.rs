//! SmallThinker: 4B-A0.6B and 21B-A3B, and anything of their shape.
//!
//! The specification's sections 1 (config.json), 2 (names and GGUF keys) and 7 (sharp edges) are the source.

use super::fields::{is_number, off, on};
use super::{Family, Fields, Value};
use crate::config::{Config, Gating, Layer, Part};

pub static FAMILY: Family = Family {
    name: "smallthinker",
    architectures: &["SmallThinkerForCausalLM"],
    gguf_architecture: "smallthinker",
    from_json,
    from_gguf,
    tensor,
    gguf_tensor,
    surplus,
    end_tokens: &["<|endoftext|>", "<|im_end|>"],
};

/// Where config.json is silent, the values of the family's configuration class.
fn from_json(mut fields: Fields) -> Result<Config, String> {
    refuse_json_features(&fields)?;
    let layers = fields.layers("num_hidden_layers")?;
    let (width, vocab) = (fields.count("hidden_size")?, fields.count("vocab_size")?);
    let (heads, kv_heads) = (fields.count("num_attention_heads")?, fields.count("num_key_value_heads")?);
    let (experts, active) = (fields.count("moe_num_primary_experts")?, fields.count("moe_num_active_primary_experts")?);
    let neurons = fields.count("moe_ffn_hidden_size")?;
    let head_width = head_width(&mut fields, "head_dim", width, heads)?;
    let context = fields.count_or("max_position_embeddings", 131_072)?;
    let epsilon = fields.real_or("rms_norm_eps", 1e-6)?;
    let theta = fields.real_or("rope_theta", 1e6)?;
    let rotary = flags_or(&mut fields, "rope_layout", layers, true)?;
    let windowed = flags_or(&mut fields, "sliding_window_layout", layers, false)?;
    let window = if windowed.contains(&true) { fields.count_or("sliding_window_size", 4096)? } else { 0 };
    let softmax = fields.bool_opt("moe_primary_router_apply_softmax")?.unwrap_or(false);
    let tied = match fields.bool_opt("tie_word_embeddings")? {
        Some(tied) => tied,
        None => {
            fields.note("tie_word_embeddings is absent: assumed true");
            true
        }
    };
    let layer = |(&rotary, &windowed): (&bool, &bool)| Layer { rotary, window: windowed.then_some(window) };
    Ok(Config {
        family: FAMILY.name,
        name: fields.text_opt("model_name")?.map(str::to_string),
        layers: rotary.iter().zip(&windowed).map(layer).collect(),
        width,
        heads,
        kv_heads,
        head_width,
        vocab,
        context,
        norm_epsilon: epsilon as f32,
        rope_theta: theta,
        experts,
        active,
        neurons,
        gating: if softmax { Gating::Softmax } else { Gating::Sigmoid },
        tied,
        bos: fields.ids("bos_token_id")?.first().copied(),
        eos: fields.ids("eos_token_id")?,
        notes: fields.notes,
    })
}

/// Flags whose mathematics is not in the decoder. `use_cache` and `norm_topk_prob` are not consulted, on purpose: the
/// cache is ours, and chosen weights are always normalised.
fn refuse_json_features(fields: &Fields) -> Result<(), String> {
    for (key, feature) in [
        ("rope_scaling", "scaling of rotary positions"),
        ("moe_enable_secondary_experts", "a second set of experts"),
        ("moe_num_secondary_experts", "a second set of experts"),
        ("moe_secondary_expert_size", "a second set of experts"),
        ("moe_num_shared_experts", "a shared expert"),
        ("moe_shared_primary_experts", "a shared expert"),
        ("n_shared_experts", "a shared expert"),
        ("num_shared_experts", "a shared expert"),
        ("use_qk_norm", "normalisation of queries and keys"),
        ("qk_norm", "normalisation of queries and keys"),
        ("use_query_key_norm", "normalisation of queries and keys"),
        ("attention_bias", "a bias in attention"),
        ("mlp_bias", "a bias in experts"),
        ("use_bias", "a bias"),
        ("attn_logit_softcapping", "a cap on attention scores"),
        ("final_logit_softcapping", "a cap on logits"),
        ("quantization_config", "weights quantised by this method (use a GGUF file, or the bf16 weights)"),
    ] {
        fields.refuse_unless(key, off, feature)?;
    }
    for (key, feature) in [
        ("moe_enable_early_router", "a router that reads anything but the input of its layer"),
        ("moe_layer_layout", "a layer without experts"),
    ] {
        fields.refuse_unless(key, on, feature)?;
    }
    let relu = |v: &Value| matches!(v, Value::Text(t) if t == "relu");
    fields.refuse_unless("hidden_act", relu, "a gate other than relu")?;
    fields.refuse_unless("hidden_activation", relu, "a gate other than relu")?;
    fields.refuse_unless("partial_rotary_factor", |v| is_number(v, 1.0), "rotating a part of each head")
}

/// Keys of llama.cpp's files and of PowerInfer's, which differ in what they leave out.
fn from_gguf(mut fields: Fields) -> Result<Config, String> {
    refuse_gguf_features(&fields)?;
    let layers = fields.layers("smallthinker.block_count")?;
    let (width, heads) =
        (fields.count("smallthinker.embedding_length")?, fields.count("smallthinker.attention.head_count")?);
    let (experts, active) =
        (fields.count("smallthinker.expert_count")?, fields.count("smallthinker.expert_used_count")?);
    let context = fields.count("smallthinker.context_length")?;
    let kv_heads = fields.count_or("smallthinker.attention.head_count_kv", heads)?;
    let neurons = match fields.count_opt("smallthinker.expert_feed_forward_length")? {
        Some(neurons) => neurons,
        None => fields.count("smallthinker.feed_forward_length")?,
    };
    let head_width = head_width(&mut fields, "smallthinker.attention.key_length", width, heads)?;
    for key in ["smallthinker.attention.value_length", "smallthinker.rope.dimension_count"] {
        fields.refuse_unless(key, |v| is_number(v, head_width as f64), "a width other than that of the keys")?;
    }
    let theta = fields.real_or("smallthinker.rope.freq_base", 1.5e6)?;
    fields.refuse_unless("smallthinker.rope.freq_base_swa", |v| is_number(v, theta), "a second base of rotation")?;
    let epsilon = fields.real_or("smallthinker.attention.layer_norm_rms_epsilon", 1e-6)?;
    let layer_list = gguf_layers(&mut fields, layers)?;
    let gating = gguf_gating(&mut fields, layers, experts, layer_list.iter().any(|l| l.window.is_some()))?;
    let vocab = match fields.count_opt("smallthinker.vocab_size")? {
        Some(n) => n,
        None => fields.length("tokenizer.ggml.tokens")?,
    };
    Ok(Config {
        family: FAMILY.name,
        name: fields.text_opt("general.name")?.map(str::to_string),
        layers: layer_list,
        width,
        heads,
        kv_heads,
        head_width,
        vocab,
        context,
        norm_epsilon: epsilon as f32,
        rope_theta: theta,
        experts,
        active,
        neurons,
        gating,
        tied: false,
        bos: fields.ids("tokenizer.ggml.bos_token_id")?.first().copied(),
        eos: fields.ids("tokenizer.ggml.eos_token_id")?,
        notes: fields.notes,
    })
}

fn refuse_gguf_features(fields: &Fields) -> Result<(), String> {
    let scaling = "smallthinker.rope.scaling.type";
    let factor_one =
        fields.get("smallthinker.rope.scaling.factor").is_none_or(|v| is_number(v, 1.0) || is_number(v, 0.0));
    let plain = |v: &Value| matches!(v, Value::Text(t) if t == "none" || (t == "linear" && factor_one));
    fields.refuse_unless(scaling, plain, "scaling of rotary positions")?;
    for (key, feature) in [
        ("expert_shared_count", "a shared expert"),
        ("expert_shared_feed_forward_length", "a shared expert"),
        ("leading_dense_block_count", "a layer without experts"),
        ("attn_logit_softcapping", "a cap on attention scores"),
        ("final_logit_softcapping", "a cap on logits"),
    ] {
        fields.refuse_unless(&format!("smallthinker.{key}"), off, feature)?;
    }
    let one = |v: &Value| is_number(v, 1.0) || is_number(v, 0.0);
    fields.refuse_unless("smallthinker.expert_weights_scale", one, "a scale on the weights of experts")
}

/// GGUF files carry no layouts. A window means: every period-th layer, from the first, is global and unrotated, the others
/// are windowed and rotated; the period is 4 unless the pattern key says otherwise. No window: all global, all rotated.
fn gguf_layers(fields: &mut Fields, layers: usize) -> Result<Vec<Layer>, String> {
    const WINDOW: &str = "smallthinker.attention.sliding_window";
    const PATTERN: &str = "smallthinker.attention.sliding_window_pattern";
    let window = match fields.count_opt(WINDOW)? {
        None | Some(0) => return Ok(vec![Layer { rotary: true, window: None }; layers]),
        Some(window) => window,
    };
    let windowed: Vec<bool> = match fields.get(PATTERN) {
        Some(Value::List(_)) => fields.flags_opt(PATTERN, layers)?.expect("the key is present"),
        _ => {
            let period = fields.count_opt(PATTERN)?.unwrap_or(4);
            if period == 0 {
                return Err(format!("{PATTERN}: expected a period of at least 1, found 0"));
            }
            (0..layers).map(|i| i % period != 0).collect()
        }
    };
    Ok(windowed.into_iter().map(|w| Layer { rotary: w, window: w.then_some(window) }).collect())
}

/// PowerInfer's converter writes the gating key only for softmax, llama.cpp's always. Where it is absent, the sizes of the
/// two published models decide, and failing that the window (only the softmax model has one).
fn gguf_gating(fields: &mut Fields, layers: usize, experts: usize, windowed: bool) -> Result<Gating, String> {
    const KEY: &str = "smallthinker.expert_gating_func";
    let assumed = match (fields.count_opt(KEY)?, layers, experts) {
        (Some(1), ..) => return Ok(Gating::Softmax),
        (Some(2), ..) => return Ok(Gating::Sigmoid),
        (Some(n @ 3..), ..) => return Err(format!("{KEY}: expected 1 (softmax) or 2 (sigmoid), found {n}")),
        (None | Some(0), 32, 32) => (Gating::Sigmoid, "sigmoid, as in the 4B model (32 layers, 32 experts)"),
        (None | Some(0), 52, _) => (Gating::Softmax, "softmax, as in the 21B model (52 layers)"),
        _ if windowed => (Gating::Softmax, "softmax, since the model has a sliding window"),
        _ => (Gating::Sigmoid, "sigmoid, since the model has no sliding window"),
    };
    fields.note(format!("{KEY} is absent: assumed {}", assumed.1));
    Ok(assumed.0)
}

/// The head width cannot be derived for the 21B (2560 over 28 heads), so it is derived only where it divides, and noted.
fn head_width(fields: &mut Fields, key: &str, width: usize, heads: usize) -> Result<usize, String> {
    match fields.count_opt(key)? {
        Some(n) => Ok(n),
        None if heads > 0 && width.is_multiple_of(heads) => {
            fields.note(format!("{key} is absent: assumed {}, the hidden width over the heads", width / heads));
            Ok(width / heads)
        }
        None => Err(format!("the key {key} is missing, and {heads} heads do not divide the hidden width {width}")),
    }
}

fn flags_or(fields: &mut Fields, key: &str, layers: usize, assumed: bool) -> Result<Vec<bool>, String> {
    Ok(match fields.flags_opt(key, layers)? {
        Some(flags) => flags,
        None => {
            fields.note(format!("{key} is absent: assumed {} for every layer", assumed as u8));
            vec![assumed; layers]
        }
    })
}

fn tensor(part: Part) -> String {
    let layer = |l: u16, name: &str| format!("model.layers.{l}.{name}.weight");
    let expert = |l: u16, e: u16, name: &str| format!("model.layers.{l}.block_sparse_moe.experts.{e}.{name}.weight");
    match part {
        Part::Embedding => "model.embed_tokens.weight".into(),
        Part::OutputNorm => "model.norm.weight".into(),
        Part::Head => "lm_head.weight".into(),
        Part::NormIn(l) => layer(l, "input_layernorm"),
        Part::Query(l) => layer(l, "self_attn.q_proj"),
        Part::Key(l) => layer(l, "self_attn.k_proj"),
        Part::Value(l) => layer(l, "self_attn.v_proj"),
        Part::AttentionOut(l) => layer(l, "self_attn.o_proj"),
        Part::NormFfn(l) => layer(l, "post_attention_layernorm"),
        Part::Router(l) => layer(l, "block_sparse_moe.primary_router"),
        Part::Gate(l, e) => expert(l, e, "gate"),
        Part::Up(l, e) => expert(l, e, "up"),
        Part::Down(l, e) => expert(l, e, "down"),
    }
}

fn gguf_tensor(part: Part) -> String {
    let layer = |l: u16, name: &str| format!("blk.{l}.{name}.weight");
    match part {
        Part::Embedding => "token_embd.weight".into(),
        Part::OutputNorm => "output_norm.weight".into(),
        Part::Head => "output.weight".into(),
        Part::NormIn(l) => layer(l, "attn_norm"),
        Part::Query(l) => layer(l, "attn_q"),
        Part::Key(l) => layer(l, "attn_k"),
        Part::Value(l) => layer(l, "attn_v"),
        Part::AttentionOut(l) => layer(l, "attn_output"),
        Part::NormFfn(l) => layer(l, "ffn_norm"),
        Part::Router(l) => layer(l, "ffn_gate_inp"),
        Part::Gate(l, _) => layer(l, "ffn_gate_exps"),
        Part::Up(l, _) => layer(l, "ffn_up_exps"),
        Part::Down(l, _) => layer(l, "ffn_down_exps"),
    }
}

fn surplus(name: &str) -> Option<&'static str> {
    match name {
        "lm_head_profiler.weight" | "model.lm_head_profiler.weight" => Some(
            "a predictor for the output head (lm_head_profiler.weight) is present and not used: the whole head is computed",
        ),
        // Frequencies of rotation, recomputed from their base.
        _ if name.ends_with("rotary_emb.inv_freq") => Some(""),
        _ => None,
    }
}
