//! The folder a hub would hold: config.json, model.safetensors, tokenizer.json and the two small files.

use crate::tokenizer::{END, END_OF_TEXT, START, id};
use anyhow::{Context, Result, anyhow};
use candle_core::{DType, Device, Tensor};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use thermocline::config::Config;
use tokenizers::Tokenizer;

/// ChatML; no system prompt unless the user gives one.
const TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

pub fn write(folder: &Path, config: &Config, tokenizer: &Tokenizer, weights: &BTreeMap<String, Tensor>) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let marks = [id(tokenizer, END_OF_TEXT)?, id(tokenizer, START)?, id(tokenizer, END)?];
    let layout = |on: &dyn Fn(&thermocline::config::Layer) -> bool| -> Vec<u8> {
        config.layers.iter().map(|layer| on(layer) as u8).collect()
    };
    let window = config.layers.iter().find_map(|layer| layer.window);
    put(
        folder,
        "config.json",
        &json!({
            "architectures": ["SmallThinkerForCausalLM"],
            "attention_dropout": 0.0,
            "auto_map": {
                "AutoConfig": "configuration_smallthinker.SmallThinkerConfig",
                "AutoModel": "modeling_smallthinker.SmallThinkerForCausalLM",
                "AutoModelForCausalLM": "modeling_smallthinker.SmallThinkerForCausalLM",
            },
            "bos_token_id": config.bos,
            "eos_token_id": config.eos,
            "head_dim": config.head_width,
            "hidden_size": config.width,
            "initializer_range": 0.02,
            "max_length": null,
            "max_position_embeddings": config.context,
            "model_name": config.name,
            "model_type": "smallthinker",
            "moe_ffn_hidden_size": config.neurons,
            "moe_num_active_primary_experts": config.active,
            "moe_num_primary_experts": config.experts,
            "moe_primary_router_apply_softmax": true,
            "norm_topk_prob": true,
            "num_attention_heads": config.heads,
            "num_hidden_layers": config.layers.len(),
            "num_key_value_heads": config.kv_heads,
            "output_router_logits": false,
            "repetition_penalty": null,
            "rms_norm_eps": 1e-6,
            "rope_layout": layout(&|layer| layer.rotary),
            "rope_scaling": null,
            "rope_theta": config.rope_theta,
            "sliding_window_layout": layout(&|layer| layer.window.is_some()),
            "sliding_window_size": window,
            "temperature": null,
            "tie_word_embeddings": config.tied,
            "tokenizer_class": "Qwen2Tokenizer",
            "top_p": null,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.53.3",
            "use_cache": true,
            "vocab_size": config.vocab,
        }),
    )?;
    put(
        folder,
        "generation_config.json",
        &json!({
            "_from_model_config": true,
            "bos_token_id": config.bos,
            "eos_token_id": config.eos,
            "transformers_version": "4.53.3",
        }),
    )?;
    let added = |content: &str| json!({"content": content, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true});
    put(
        folder,
        "tokenizer_config.json",
        &json!({
            "add_bos_token": false,
            "add_prefix_space": false,
            "added_tokens_decoder": {
                marks[0].to_string(): added(END_OF_TEXT),
                marks[1].to_string(): added(START),
                marks[2].to_string(): added(END),
            },
            "additional_special_tokens": [START, END],
            "bos_token": null,
            "chat_template": TEMPLATE,
            "clean_up_tokenization_spaces": false,
            "eos_token": END,
            "errors": "replace",
            "model_max_length": config.context,
            "pad_token": END_OF_TEXT,
            "split_special_tokens": false,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": null,
        }),
    )?;
    tokenizer.save(folder.join("tokenizer.json"), true).map_err(|e| anyhow!("writing tokenizer.json: {e}"))?;
    let rounded = weights
        .iter()
        .map(|(name, tensor)| Ok((name.clone(), tensor.to_dtype(DType::BF16)?)))
        .collect::<Result<HashMap<_, _>>>()?;
    let note = HashMap::from([("format".to_string(), "pt".to_string())]);
    let bytes = safetensors::serialize(rounded.iter().map(|(name, tensor)| (name.as_str(), tensor)), Some(note))?;
    replace(&folder.join("model.safetensors"), &bytes)
}

fn put(folder: &Path, name: &str, value: &serde_json::Value) -> Result<()> {
    replace(&folder.join(name), (serde_json::to_string_pretty(value)? + "\n").as_bytes())
}

/// Writes beside and renames, so that whoever reads the folder meanwhile sees whole files.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = path.with_extension("part");
    std::fs::write(&beside, bytes).with_context(|| format!("writing {}", beside.display()))?;
    std::fs::rename(&beside, path).with_context(|| format!("renaming {}", beside.display()))
}

/// The folder's weights as f32, as the reference wants them.
pub fn read_weights(folder: &Path) -> Result<BTreeMap<String, Tensor>> {
    let path = folder.join("model.safetensors");
    let stored =
        candle_core::safetensors::load(&path, &Device::Cpu).with_context(|| format!("reading {}", path.display()))?;
    stored.into_iter().map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::F32)?))).collect()
}

pub fn read_tokenizer(folder: &Path) -> Result<Tokenizer> {
    let path = folder.join("tokenizer.json");
    Tokenizer::from_file(&path).map_err(|e| anyhow!("reading {}: {e}", path.display()))
}
