//! What an operator and a client look at before they ask anything: health, models, settings.

use super::failure::{Failure, Outcome};
use super::words::model_ready;
use super::{FINGERPRINT, House, Served};
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

pub async fn models(State(house): State<Arc<House>>) -> Outcome<Json<Value>> {
    let served = model_ready(&house)?;
    let names = std::iter::once(&served.id).chain(&served.aliases);
    let data: Vec<Value> = names.map(|name| card(&served, name)).collect();
    let (first, last) = (data.first().map(|card| card["id"].clone()), data.last().map(|card| card["id"].clone()));
    Ok(Json(json!({ "object": "list", "data": data, "has_more": false, "first_id": first, "last_id": last })))
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
        // As Anthropic has it; the time stands for an unknown one there.
        "type": "model",
        "display_name": name,
        "created_at": "1970-01-01T00:00:00Z",
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
