//! The live thermocline: where every expert lies, how hot it is and which of them the last step used, with the figures
//! beside it. A picture is made when somebody asks, at most every [`FRAME`], and is the same for all who watch: nobody pays
//! for it while nobody does.

use super::failure::{Failure, Outcome};
use super::words::model_ready;
use super::{House, Served};
use crate::engine::{LayerMap, Lies};
use crate::planner::memory;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::fmt::Write;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Between two pictures.
const FRAME: Duration = Duration::from_millis(125);
/// How long a stream stays silent while nothing changes.
const SILENCE: Duration = Duration::from_secs(10);
/// Streams at a time.
const MOST_WATCHERS: usize = 32;

/// The last picture, and who may look.
pub struct Scene {
    last: Mutex<Option<(Instant, Arc<str>)>>,
    watchers: Arc<Semaphore>,
}

impl Default for Scene {
    fn default() -> Scene {
        Scene { last: Mutex::new(None), watchers: Arc::new(Semaphore::new(MOST_WATCHERS)) }
    }
}

impl Scene {
    /// The picture as JSON, made now unless the last one is as good as new.
    fn picture(&self, house: &House, served: &Served) -> Arc<str> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, picture)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRAME / 2) {
            return picture.clone();
        }
        let picture: Arc<str> = picture(house, served).to_string().into();
        *last = Some((Instant::now(), picture.clone()));
        picture
    }
}

/// The picture once.
pub async fn now(State(house): State<Arc<House>>) -> Outcome<Response> {
    let served = model_ready(&house)?;
    let picture = house.scene.picture(&house, &served);
    Ok(([(header::CONTENT_TYPE, "application/json")], picture.to_string()).into_response())
}

/// The picture whenever it has changed, as server-sent events, until the server is told to end.
pub async fn stream(State(house): State<Arc<House>>) -> Outcome<Response> {
    let served = model_ready(&house)?;
    let watching = house.scene.watchers.clone().try_acquire_owned();
    let watching = watching.map_err(|_| {
        Failure::unavailable(format!("{MOST_WATCHERS} streams of the thermocline are open, which is all there may be"))
    })?;
    let (frames, receiver) = channel(1);
    tokio::spawn(draw(house, served, frames, watching));
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, [("x-accel-buffering", "no")], Body::from_stream(Frames(receiver))).into_response())
}

/// Sends pictures until nobody takes them. One that the last is still in the way of is left out.
async fn draw(house: Arc<House>, served: Arc<Served>, frames: Sender<Bytes>, _watching: OwnedSemaphorePermit) {
    let mut ending = house.ending.clone();
    let mut tick = tokio::time::interval(FRAME);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut shown, mut spoke): (Arc<str>, Instant) = ("".into(), Instant::now());
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = ending.wait_for(|end| *end) => return,
            () = frames.closed() => return,
        }
        let picture = house.scene.picture(&house, &served);
        let event = if picture != shown {
            Bytes::from(format!("data: {picture}\n\n"))
        } else if spoke.elapsed() >= SILENCE {
            Bytes::from_static(b": nothing new\n\n")
        } else {
            continue;
        };
        if frames.try_send(event).is_ok() {
            (shown, spoke) = (picture, Instant::now());
        }
    }
}

struct Frames(Receiver<Bytes>);

impl Stream for Frames {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}

fn picture(house: &House, served: &Served) -> Value {
    let engine = &served.engine;
    let map = engine.map();
    let heat: Vec<String> = map.heat().iter().map(|layer| hex(layer)).collect();
    let places: Vec<String> = map.layers.iter().map(|layer| digits(&layer.places)).collect();
    let now: Vec<&[u16]> = map.layers.iter().map(|layer| &layer.now[..]).collect();
    let (busy, waiting) = house.metrics.load();
    let (written, pace) = house.metrics.pace();
    let store = engine.store_stats().map(|store| {
        json!({
            "slots": store.slots, "hits": store.hits, "misses": store.misses, "bytes_read": store.bytes_read,
            "busy_seconds": store.busy, "wait_seconds": store.waited,
        })
    });
    json!({
        "model": served.id,
        "layers": map.layers.len(),
        "experts": engine.config().experts,
        "active": engine.config().active,
        "tokens": map.layers.first().map_or(0, |layer: &LayerMap| layer.tokens),
        "heat": heat,
        "places": places,
        "now": now,
        "store": store,
        "written": written,
        "tokens_per_second": pace,
        "predicted_tokens_per_second": served.predicted,
        "slots": { "busy": busy, "waiting": waiting, "all": served.slots },
        "memory": memory_of(served),
    })
}

/// What the process holds beside what it promised.
fn memory_of(served: &Served) -> Value {
    let ledger = served.engine.ledger();
    let lines: Vec<Value> = ledger
        .lines
        .iter()
        .filter(|line| line.bytes > 0)
        .map(|line| json!({ "name": line.name, "bytes": line.bytes, "mapped": line.mapped }))
        .collect();
    let held = memory::held();
    json!({
        "held": held.map(|held| held.now()),
        "peak": held.map(|held| held.peak),
        "budget": ledger.budget.map(|budget| budget.bytes),
        "asked": ledger.budget.is_some_and(|budget| budget.asked),
        "ledger": lines,
    })
}

/// Two digits for each expert: ff is the hottest of all.
fn hex(heat: &[f64]) -> String {
    heat.iter().fold(String::with_capacity(2 * heat.len()), |mut out, heat| {
        let _ = write!(out, "{:02x}", (heat * 255.0).round() as u8); // writing to a string does not fail
        out
    })
}

/// A digit for each expert: 0 on the disk, 1 in memory, 2 on an accelerator.
fn digits(places: &[Lies]) -> String {
    let digit = |lies: &Lies| match lies {
        Lies::OnDisk => '0',
        Lies::InMemory => '1',
        Lies::OnAccelerator => '2',
    };
    places.iter().map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_a_line_of_digits() {
        assert_eq!(hex(&[0.0, 0.5, 1.0]), "0080ff");
        assert_eq!(digits(&[Lies::OnDisk, Lies::InMemory, Lies::OnAccelerator]), "012");
    }
}
