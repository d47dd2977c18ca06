//! What an operator and a client look at before they ask anything: health, figures, models, settings.

use super::failure::{Failure, Outcome};
use super::words::model_ready;
use super::{FINGERPRINT, House, Served};
use crate::planner::memory;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

/// The document that describes the API.
const DOCUMENT: &str = include_str!("openapi.json");

/// The page with its parts in place.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    let script = concat!(include_str!("page/text.js"), include_str!("page/chat.js"), include_str!("page/map.js"));
    let page = include_str!("page/page.html");
    page.replace("/* style.css */\n", include_str!("page/style.css")).replace("// text.js, chat.js, map.js\n", script)
});
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub async fn health(State(house): State<Arc<House>>) -> Outcome<Json<Value>> {
    model_ready(&house)?;
    Ok(Json(json!({ "status": "ok" })))
}

pub async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}

/// The page people chat on: everything inline, nothing fetched but the API beside it.
pub async fn page() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, PAGE.as_str())
}

pub async fn metrics(State(house): State<Arc<House>>) -> impl IntoResponse {
    let served = house.served.get();
    let settings = &house.settings;
    let mut gauges = vec![
        ("up", "1 once the model is loaded.", f64::from(u8::from(served.is_some()))),
        ("slots", "Answers that can be written at a time.", settings.slots as f64),
        ("queue_places", "Answers that can be written or wait.", house.queue.places() as f64),
        ("queue_places_taken", "Places taken now.", house.queue.taken() as f64),
    ];
    if let Some(held) = memory::held() {
        gauges.push(("resident_bytes", "Memory this process holds.", held.now() as f64));
        gauges.push(("resident_peak_bytes", "The most it ever held.", held.peak as f64));
    }
    if let Some(served) = served {
        let engine = &served.engine;
        gauges.push(("slot_cache_bytes", "Keys and values of one slot.", engine.cache_bytes() as f64));
        gauges.push(("context_positions", "Tokens a slot can hold.", engine.context() as f64));
        gauges.push(("ledger_bytes", "What was promised to suffice.", engine.ledger().total() as f64));
        if let Some(budget) = engine.ledger().budget {
            gauges.push(("budget_bytes", "What this process may hold.", budget.bytes as f64));
        }
        if let Some(accelerator) = engine.accelerator() {
            let (held, peak) = accelerator.held();
            gauges.push(("accelerator_bytes", "Weights and caches on the accelerator.", held as f64));
            gauges.push(("accelerator_peak_bytes", "The most that was held there.", peak as f64));
        }
        if let Some(store) = engine.store_stats() {
            gauges.extend([
                ("experts_slots", "Experts memory has room for.", store.slots as f64),
                ("experts_resident", "Experts in memory.", store.resident as f64),
                ("experts_hits", "Chosen experts that were in memory, since the start.", store.hits as f64),
                ("experts_misses", "Chosen experts that had to be read, since the start.", store.misses as f64),
                ("experts_evictions", "Experts let go, since the start.", store.evictions as f64),
                ("disk_bytes_read", "Bytes of experts read from the disk, since the start.", store.bytes_read as f64),
                ("disk_wait_seconds", "Seconds answers waited for the disk, since the start.", store.waited),
            ]);
        }
        gauges.push(("wait_seconds", "Seconds compute threads waited for each other.", engine.waited()));
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], house.metrics.page(&gauges))
}

pub async fn models(State(house): State<Arc<House>>) -> Outcome<Json<Value>> {
    let served = model_ready(&house)?;
    let names = std::iter::once(&served.id).chain(&served.aliases);
    let data: Vec<Value> = names.map(|name| card(&served, name)).collect();
    Ok(Json(json!({ "object": "list", "data": data })))
}

pub async fn model(State(house): State<Arc<House>>, Path(name): Path<String>) -> Outcome<Json<Value>> {
    let served = model_ready(&house)?;
    match served.answers_to(&name) {
        true => Ok(Json(card(&served, &name))),
        false => Err(Failure::no_model(&name.chars().take(128).collect::<String>(), &served.id)),
    }
}

fn card(served: &Served, name: &str) -> Value {
    let config = served.engine.config();
    json!({
        "id": name,
        "object": "model",
        "created": served.created,
        "owned_by": "thermocline",
        "meta": {
            "n_vocab": config.vocab,
            "n_ctx": served.engine.context(),
            "n_ctx_train": config.context,
            "n_embd": config.width,
        },
    })
}

/// What llama.cpp's page and its friends look for.
pub async fn props(State(house): State<Arc<House>>) -> Outcome<Json<Value>> {
    let served = model_ready(&house)?;
    let (engine, sampling) = (&served.engine, &house.settings.sampling);
    let (_, template) = engine.text().template(); // where it lies is no client's business
    let (busy, waiting) = house.metrics.load();
    Ok(Json(json!({
        "default_generation_settings": {
            "n_ctx": engine.context(),
            "params": {
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
                "min_p": sampling.min_p,
                "repeat_penalty": sampling.repeat_penalty,
                "repeat_last_n": sampling.repeat_last_n,
                "presence_penalty": sampling.presence_penalty,
                "frequency_penalty": sampling.frequency_penalty,
            },
        },
        "total_slots": served.slots,
        "busy_slots": busy,
        "waiting": waiting,
        "model_alias": served.id,
        "chat_template": template,
        "modalities": { "vision": false, "audio": false },
        "build_info": FINGERPRINT,
    })))
}
