//! `/tokenize`, `/detokenize` and `/apply-template`: what the model reads, without its answer. And the reading of bodies.

use super::ask;
use super::failure::{Failure, Outcome};
use super::fields::Fields;
use super::{House, MOST_BODY, Served, conversation, messages, tools};
use axum::Json;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::State;
use axum::http::{Request, header};
use futures_core::Stream;
use serde_json::{Value, json};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// For a body to arrive.
const BODY: Duration = Duration::from_secs(30);

/// Texts that are worked on or wait for that; more are turned away.
pub const MOST_WORDS: usize = 64;

/// Bytes of a text that takes long enough for others to notice.
const LONG: usize = 256 << 10;

/// Bytes of a refused body that are waited for.
const MOST_DISCARDED: usize = 8 * MOST_BODY;

/// The model, or 503 while it is being loaded.
pub fn model_ready(house: &House) -> Outcome<Arc<Served>> {
    house.served.get().cloned().ok_or_else(|| Failure::unavailable("the model is being loaded"))
}

/// A JSON body of at most `most` bytes. The type must be said: pages of others can send what needs no type.
pub async fn body(request: Request<Body>, most: usize) -> Outcome<Vec<u8>> {
    let kind = request.headers().get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or_default());
    let essence = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    if essence.as_deref() != Some("application/json") {
        let failure = Failure::media(kind);
        discard(request);
        return Err(failure);
    }
    let coding = request.headers().get(header::CONTENT_ENCODING).map(|coding| coding.to_str().unwrap_or_default());
    if let Some(coding) = coding.filter(|coding| !coding.eq_ignore_ascii_case("identity")) {
        let failure = Failure::coding(coding);
        discard(request);
        return Err(failure);
    }
    let said = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if said.is_some_and(|length: u64| length > most as u64) {
        discard(request);
        return Err(Failure::large_body(most));
    }
    let mut coming = request.into_body().into_data_stream();
    let whole = async {
        let mut bytes = Vec::new();
        while let Some(piece) = next(&mut coming).await {
            let piece = piece.map_err(|e| Failure::request(format!("the body did not come whole: {e}")))?;
            if bytes.len() + piece.len() > most {
                return Err(Failure::large_body(most));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    };
    tokio::time::timeout(BODY, whole).await.unwrap_or_else(|_| Err(Failure::slow_body(BODY.as_secs())))
}

async fn next(coming: &mut BodyDataStream) -> Option<Result<Bytes, axum::Error>> {
    poll_fn(|context| Pin::new(&mut *coming).poll_next(context)).await
}

/// Lets the body of a request come that was refused before it was read, and forgets it: who sends all of it before listening
/// would find the connection broken instead of an answer.
pub fn discard(request: Request<Body>) {
    let mut rest = request.into_body().into_data_stream();
    tokio::spawn(tokio::time::timeout(BODY, async move {
        let mut seen = 0;
        while let Some(Ok(piece)) = next(&mut rest).await {
            seen += piece.len();
            if seen > MOST_DISCARDED {
                return;
            }
        }
    }));
}

/// Works on `bytes` of text away from the thread that serves connections; on long ones one at a time, so that short ones seldom
/// wait for them. The place is held until that is done, whoever has left meanwhile, and is handed back; for who left before it
/// began nothing is done.
pub async fn aside<T: Send + 'static>(
    house: &House,
    place: OwnedSemaphorePermit,
    bytes: usize,
    work: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Outcome<(T, OwnedSemaphorePermit)> {
    let turn = match bytes > LONG {
        true => Some(house.long.clone().acquire_owned().await.expect("nobody closes it")),
        false => None,
    };
    let caller = Arc::new(());
    let left = Arc::downgrade(&caller);
    let working = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        match left.strong_count() {
            0 => Err(Failure::internal("nobody waits for it")),
            _ => work().map(|done| (done, place)),
        }
    });
    let done = working.await;
    drop(caller); // held until here, or until this is dropped unfinished
    done.map_err(|_| Failure::internal("the request could not be read"))?
}

/// Reads a body and works on it away from the thread that serves connections.
async fn work(
    house: Arc<House>,
    request: Request<Body>,
    job: fn(&Served, Fields) -> Outcome<Value>,
) -> Outcome<Json<Value>> {
    let served = model_ready(&house)?;
    let bytes = body(request, MOST_BODY).await?;
    let place = house.words.clone().try_acquire_owned().map_err(|_| Failure::full_of_words(MOST_WORDS))?;
    let read = aside(&house, place, bytes.len(), move || job(&served, Fields::body(&bytes)?));
    read.await.map(|(reply, _)| Json(reply))
}

pub async fn tokenize(State(house): State<Arc<House>>, request: Request<Body>) -> Outcome<Json<Value>> {
    work(house, request, tokenized).await
}

pub fn tokenized(served: &Served, mut fields: Fields) -> Outcome<Value> {
    ask::model(&mut fields, served)?;
    let content = fields.needed("content")?;
    let leading = fields.flag("add_special")?.unwrap_or(false);
    let special = fields.flag("parse_special")?.unwrap_or(true);
    let pieces = fields.flag("with_pieces")?.unwrap_or(false);
    fields.end()?;
    let text = served.engine.text();
    let mut tokens: Vec<u32> = text.leading().into_iter().filter(|_| leading).collect();
    tokens.extend(text.encode(&content, special)?);
    let shown = |id: &u32| match std::str::from_utf8(text.spelling(*id)) {
        Ok(piece) => json!({ "id": id, "piece": piece }),
        Err(_) => json!({ "id": id, "piece": text.spelling(*id) }),
    };
    Ok(match pieces {
        true => json!({ "tokens": tokens.iter().map(shown).collect::<Vec<_>>() }),
        false => json!({ "tokens": tokens }),
    })
}

pub async fn detokenize(State(house): State<Arc<House>>, request: Request<Body>) -> Outcome<Json<Value>> {
    work(house, request, detokenized).await
}

pub fn detokenized(served: &Served, mut fields: Fields) -> Outcome<Value> {
    ask::model(&mut fields, served)?;
    let Some(list) = fields.list("tokens")? else { return Err(Failure::field("tokens", "is missing")) };
    fields.end()?;
    let text = served.engine.text();
    let ids = ask::tokens(&list, served, "tokens")?;
    let bytes: Vec<u8> = ids.iter().flat_map(|id| text.spelling(*id)).copied().collect();
    Ok(json!({ "content": String::from_utf8_lossy(&bytes) }))
}

/// Anthropic's way to ask how long a prompt is.
pub async fn count_tokens(State(house): State<Arc<House>>, request: Request<Body>) -> Outcome<Json<Value>> {
    work(house, request, counted).await
}

pub fn counted(served: &Served, fields: Fields) -> Outcome<Value> {
    let chat = messages::counted(fields)?;
    let tokens = messages::prompt(chat.fields, served).map_err(|e| e.named(&chat.names))?;
    Ok(json!({ "input_tokens": tokens }))
}

pub async fn apply_template(State(house): State<Arc<House>>, request: Request<Body>) -> Outcome<Json<Value>> {
    work(house, request, rendered).await
}

pub fn rendered(served: &Served, mut fields: Fields) -> Outcome<Value> {
    ask::model(&mut fields, served)?;
    let tools = tools::read(&mut fields)?;
    let messages = conversation::messages(&mut fields)?;
    let open = fields.flag("add_generation_prompt")?.unwrap_or(true);
    fields.end()?;
    Ok(json!({ "prompt": match open {
        true => conversation::written(served, &messages, &tools.shown)?,
        false => served.engine.text().render_with_tools(&messages, &tools.shown, false)?,
    } }))
}
