//! `/slots`: what each slot holds, and its conversation saved, restored or erased. The only names of a request that come
//! near the file system: checked here.

use super::failure::{Failure, Outcome};
use super::fields::Fields;
use super::words::{body, model_ready};
use super::{House, MOST_BODY};
use crate::engine::Session;
use axum::Json;
use axum::body::{Body, HttpBody};
use axum::extract::{Path, State};
use axum::http::{Request, header};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// Letters of a file's name, at most.
const MOST_NAME: usize = 128;

/// Something to be done between two steps of the model.
pub struct Errand {
    /// `None`: say what there is in all of them.
    pub act: Option<(usize, Act)>,
    reply: oneshot::Sender<Outcome<Value>>,
}

impl Errand {
    pub fn done(self, outcome: Outcome<Value>) {
        let _ = self.reply.send(outcome); // whoever asked may have gone
    }
}

/// What is done to a slot; files by name and path.
pub enum Act {
    Save(String, PathBuf),
    Restore(String, PathBuf),
    Erase,
}

impl Act {
    /// Does it to the session of slot `id`.
    pub fn carry_out(&self, id: usize, session: &mut Session) -> Outcome<Value> {
        let started = Instant::now();
        let millis = || started.elapsed().as_secs_f64() * 1e3;
        Ok(match self {
            Act::Save(name, path) => {
                let bytes = session.save(path).map_err(|e| Failure::of_file(e, path))?;
                json!({ "id_slot": id, "filename": name, "n_saved": session.tokens().len(), "n_written": bytes,
                        "timings": { "save_ms": millis() } })
            }
            Act::Restore(name, path) if !path.exists() => {
                return Err(Failure::no_file(name));
            }
            Act::Restore(name, path) => {
                let bytes = session.restore(path).map_err(|e| Failure::of_file(e, path))?;
                json!({ "id_slot": id, "filename": name, "n_restored": session.tokens().len(), "n_read": bytes,
                        "timings": { "restore_ms": millis() } })
            }
            Act::Erase => {
                let tokens = session.tokens().len();
                session.truncate(0);
                json!({ "id_slot": id, "n_erased": tokens })
            }
        })
    }
}

pub async fn list(State(house): State<Arc<House>>) -> Outcome<Json<Value>> {
    model_ready(&house)?;
    send(&house, None).await
}

pub async fn act(
    State(house): State<Arc<House>>,
    Path(slot): Path<String>,
    request: Request<Body>,
) -> Outcome<Json<Value>> {
    let slots = model_ready(&house)?.slots;
    let id = slot.parse().ok().filter(|id| *id < slots);
    let id = id.ok_or_else(|| Failure::no_slot(slots))?;
    let query = request.uri().query().unwrap_or_default();
    let action = query.split('&').find_map(|pair| pair.strip_prefix("action=")).unwrap_or_default().to_string();
    let name = named(request).await?.unwrap_or_else(|| format!("slot-{id}"));
    let make = match action.as_str() {
        "erase" => return send(&house, Some((id, Act::Erase))).await, // no file is touched
        "save" => Act::Save,
        "restore" => Act::Restore,
        _ => return Err(Failure::request("the query says what to do: ?action=save, restore or erase")),
    };
    let Some(folder) = &house.settings.slot_folder else {
        return Err(Failure::closed(
            "this server keeps no conversations; started with --slot-save-path FOLDER it does",
        ));
    };
    let path = folder.join(&name);
    send(&house, Some((id, make(name, path)))).await
}

/// What the body names, checked. There may be no body, unless a browser asks: pages of others can send what has none.
async fn named(request: Request<Body>) -> Outcome<Option<String>> {
    let headers = request.headers();
    let untyped = !headers.contains_key(header::CONTENT_TYPE) && !headers.contains_key(header::ORIGIN);
    if untyped && request.body().is_end_stream() {
        return Ok(None);
    }
    let bytes = body(request, MOST_BODY).await?;
    if bytes.is_empty() { Ok(None) } else { file_name(Fields::body(&bytes)?) }
}

/// The file a body names, if it names one.
pub fn file_name(mut fields: Fields) -> Outcome<Option<String>> {
    let name = fields.text("filename")?;
    fields.end()?;
    name.map(|name| checked(&name).map(str::to_string)).transpose()
}

/// A name that is a name in one folder and nowhere else, and is not hidden there.
fn checked(name: &str) -> Outcome<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match (1..=MOST_NAME).contains(&name.len()) && name.chars().all(plain) && !name.starts_with('.') {
        true => Ok(name),
        false => Err(Failure::field(
            "filename",
            format!(
                "is expected to be 1 to {MOST_NAME} letters, digits, dots, dashes and underscores, not beginning with a dot"
            ),
        )),
    }
}

async fn send(house: &House, act: Option<(usize, Act)>) -> Outcome<Json<Value>> {
    let (reply, answer) = oneshot::channel();
    house.queue.visit(Errand { act, reply });
    match answer.await {
        Ok(outcome) => outcome.map(Json),
        Err(_) => Err(Failure::ending()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_folder() {
        for name in ["a", "chat-1.bin", "A_b.c", &"x".repeat(MOST_NAME)] {
            assert!(checked(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", ".hidden", "a/b", "a\\b", "/etc/passwd", "a\0", "ä", "a b", "C:x", &"x".repeat(129)]
        {
            assert!(checked(name).is_err(), "{name}");
        }
    }
}
