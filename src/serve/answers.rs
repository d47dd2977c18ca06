//! `/v1/chat/completions` and `/v1/completions`.

use super::ask::{Ask, Way};
use super::failure::{Failure, Outcome};
use super::queue::{Caller, Event};
use super::shape::Shape;
use super::stream::Flow;
use super::words::{body, model_ready};
use super::{House, MOST_BODY};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub async fn chat(State(house): State<Arc<House>>, request: Request<Body>) -> Outcome<Response> {
    answer(house, request, Way::Chat).await
}

pub async fn completion(State(house): State<Arc<House>>, request: Request<Body>) -> Outcome<Response> {
    answer(house, request, Way::Completion).await
}

async fn answer(house: Arc<House>, request: Request<Body>, way: Way) -> Outcome<Response> {
    let arrived = Instant::now();
    let served = model_ready(&house)?;
    let bytes = body(request, MOST_BODY).await?;
    // A place before the work of tokenising, so that a crowd is turned away at no cost.
    let full = || Failure::full(house.queue.places());
    let mut places = house.queue.take(1).ok_or_else(full)?;
    let (inside, model) = (house.clone(), served.clone());
    let reading = tokio::task::spawn_blocking(move || Ask::read(&inside, &model, way, &bytes, arrived));
    let ask = reading.await.map_err(|_| Failure::internal("the request could not be read"))??;
    let jobs = ask.jobs();
    if jobs > house.queue.places() {
        let most = house.queue.places();
        return Err(Failure::field(
            "n",
            format!("and the prompts ask for {jobs} answers; this server has places for {most}"),
        ));
    }
    if jobs > 1 {
        places.merge(house.queue.take(jobs - 1).ok_or_else(full)?);
    }
    let caller = house.queue.send(&ask.batch, places, &house.metrics);
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let shape = Shape::new(way, served.engine.clone(), &served.id, created, jobs, ask.include_usage);
    let timeout = house.settings.timeout;
    let deadline = (arrived + timeout).into();
    if ask.stream {
        return Ok(Flow::new(caller, shape, ask.batch.n, deadline, timeout).into_response());
    }
    match tokio::time::timeout_at(deadline, whole(caller, shape, ask.batch.n)).await {
        Ok(outcome) => outcome.map(|value| Json(value).into_response()),
        Err(_) => Err(Failure::timeout(timeout.as_secs())),
    }
}

/// Waits for every choice.
async fn whole(mut caller: Caller, mut shape: Shape, n: usize) -> Outcome<Value> {
    while !caller.is_done() {
        match caller.next().await {
            Some((choice, Event::Piece(piece))) => shape.keep(choice, piece),
            Some((choice, Event::Ended(ended))) => shape.keep_end(choice, ended),
            Some((_, Event::Failed(e))) => return Err(e.into()),
            None => return Err(Failure::unavailable("the server is ending")),
        }
    }
    Ok(shape.whole(n))
}
