//! What is asked for answers: chats and completions, and the two APIs whose requests become chats.

use super::ask::{Ask, Way};
use super::failure::{Failure, Outcome};
use super::fields::Fields;
use super::look::{Api, Look};
use super::queue::{Caller, Event};
use super::shape::Head;
use super::stream::Flow;
use super::words::{aside, body, discard, model_ready};
use super::{House, MOST_BODY, Served, Settings, messages, responses};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, Request, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Names the tools the model was not told of.
const LEFT_OUT: HeaderName = HeaderName::from_static("x-tools-left-out");

pub async fn chat(State(house): State<Arc<House>>, request: Request<Body>) -> Outcome<Response> {
    answer(house, request, Api::Chat).await
}

pub async fn completion(State(house): State<Arc<House>>, request: Request<Body>) -> Outcome<Response> {
    answer(house, request, Api::Completion).await
}

pub async fn message(State(house): State<Arc<House>>, request: Request<Body>) -> Outcome<Response> {
    answer(house, request, Api::Messages).await
}

pub async fn response(State(house): State<Arc<House>>, request: Request<Body>) -> Outcome<Response> {
    answer(house, request, Api::Responses).await
}

/// The body of a request for answers, read, rendered and tokenised.
pub fn read(settings: &Settings, served: &Served, api: Api, body: &[u8], arrived: Instant) -> Outcome<Ask> {
    let fields = Fields::body(body)?;
    let mut echo = Value::Null;
    let chat = match api {
        Api::Chat => return Ask::read(settings, served, Way::Chat, fields, arrived),
        Api::Completion => return Ask::read(settings, served, Way::Completion, fields, arrived),
        Api::Messages => messages::chat(fields)?,
        Api::Responses => {
            echo = responses::echo(&fields);
            responses::chat(fields)?
        }
    };
    let read = Ask::read(settings, served, Way::Chat, chat.fields, arrived);
    let mut ask = Ask { echo, left_out: chat.left_out, ..read.map_err(|e| e.named(&chat.names))? };
    ask.renamed.extend(chat.renamed);
    Ok(ask)
}

async fn answer(house: Arc<House>, request: Request<Body>, api: Api) -> Outcome<Response> {
    let arrived = Instant::now();
    let served = model_ready(&house)?;
    let full = || Failure::full(house.queue.places());
    // A crowd is turned away before anything is read or worked out for it.
    if house.queue.is_full() {
        discard(request);
        return Err(full());
    }
    let bytes = body(request, MOST_BODY).await?;
    // A place is taken once the body is there, so that nobody holds one by sending slowly, and before it is tokenised.
    let place = house.queue.take(1).ok_or_else(full)?;
    let timeout = house.settings.timeout;
    let deadline = (arrived + timeout).into();
    let (inside, model) = (house.clone(), served.clone());
    let reading = aside(&house, place, bytes.len(), move || read(&inside.settings, &model, api, &bytes, arrived));
    let reading = tokio::time::timeout_at(deadline, reading).await;
    let (ask, mut places) = reading.map_err(|_| Failure::timeout(timeout.as_secs()))??;
    if house.settings.log_prompts {
        for prompt in &ask.batch.prompts {
            tracing::info!(text = served.engine.text().decode(prompt), "prompt");
        }
    }
    let left_out = ask.left_out.join(", ");
    if !left_out.is_empty() {
        tracing::warn!(left_out, "tools nobody here can run were left out of what the model is offered: {left_out}");
    }
    let told = |mut response: Response| {
        if !left_out.is_empty() {
            response.headers_mut().extend(HeaderValue::from_str(&left_out).map(|value| (LEFT_OUT, value)));
        }
        response
    };
    // Who asks for more answers than there are places takes them all.
    let wanted = ask.jobs().min(house.queue.places());
    if wanted > 1 {
        places.merge(house.queue.take(wanted - 1).ok_or_else(full)?);
    }
    let caller = house.queue.send(&ask.batch, places, &house.metrics);
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let look = Look::new(api, served.engine.clone(), Head { created, model: served.id.clone() }, &ask);
    if ask.stream {
        return Ok(told(Flow::new(caller, look, ask.batch.n, deadline, timeout, house.cut()).into_response()));
    }
    let json = tokio::select! {
        json = whole(caller, look, ask.batch.n) => json?,
        () = tokio::time::sleep_until(deadline) => return Err(Failure::timeout(timeout.as_secs())),
        () = house.cut() => return Err(Failure::ending()),
    };
    Ok(told(([(header::CONTENT_TYPE, "application/json")], json).into_response()))
}

/// Waits for every choice: JSON, which may be long enough that others would wait for it to be written.
async fn whole(mut caller: Caller, mut look: Look, n: usize) -> Outcome<String> {
    while !caller.is_done() {
        match caller.next().await {
            Some((choice, Event::Piece(piece))) => look.keep(choice, piece),
            Some((choice, Event::Ended(ended))) => look.keep_end(choice, ended),
            Some((_, Event::Failed(e))) => return Err(e.into()),
            None => return Err(Failure::ending()),
        }
    }
    let written = tokio::task::spawn_blocking(move || look.whole(n).to_string());
    written.await.map_err(|_| Failure::internal("the answer could not be written"))
}
