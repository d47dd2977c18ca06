//! Conversations saved and restored by clients, also by a server that is killed meanwhile.

use super::client::{Served, serve};
use super::{ask, with};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

fn keeping(folder: &Path) -> Served {
    serve(&["--slot-save-path", folder.to_str().expect("UTF-8"), "--parallel", "2"])
}

fn act(served: &Served, slot: usize, action: &str, name: &str) -> super::client::Reply {
    served.post(&format!("/slots/{slot}?action={action}"), &json!({ "filename": name }))
}

/// A long question, so that there is something to keep.
fn question() -> Value {
    let story = "The small boat went out. ".repeat(20);
    with(ask(&format!("{story} What is 7 + 5?")), json!({ "seed": 1, "temperature": 0.7, "max_tokens": 24 }))
}

#[test]
fn a_conversation_outlives_its_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = keeping(folder.path());
    let first = served.chat(&question());
    let held = served.get("/slots").json()[0]["n_past"].as_u64().expect("a count");
    let saved = act(&served, 0, "save", "mine").json();
    assert_eq!((saved["n_saved"].as_u64(), saved["filename"].as_str()), (Some(held), Some("mine")));
    drop(served);
    let served = keeping(folder.path());
    let restored = act(&served, 1, "restore", "mine").json();
    assert_eq!((restored["n_restored"].as_u64(), restored["n_read"] == saved["n_written"]), (Some(held), true));
    let second = served.chat(&question());
    assert_eq!(second["choices"], first["choices"]);
    assert!(second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64() > Some(50), "{second}");
    assert!(served.post("/slots/1?action=erase", &json!({})).json()["n_erased"].as_u64() >= Some(held));
    assert_eq!(served.get("/slots").json()[1]["n_past"], 0);
}

#[test]
fn what_was_restored_is_not_the_next_to_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = keeping(folder.path());
    assert_eq!(served.chat(&question())["id_slot"], 0);
    assert_eq!(served.chat(&ask("Расскажи сказку о волке."))["id_slot"], 1);
    assert_eq!(act(&served, 0, "save", "mine").status, 200);
    assert_eq!(act(&served, 0, "restore", "mine").status, 200);
    assert_eq!(served.chat(&ask("Who are you?"))["id_slot"], 1);
    let again = served.chat(&question());
    assert!(again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64() > Some(50), "{again}");
}

/// Nothing of it stays, and nobody hears where the folder is.
#[test]
fn a_save_that_fails_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = keeping(folder.path());
    std::fs::create_dir(folder.path().join("taken")).expect("a folder");
    let failed = act(&served, 0, "save", "taken");
    assert!(failed.status == 500 && failed.body.contains("taken cannot be written"), "{failed:?}");
    assert!(!failed.body.contains(folder.path().to_str().expect("UTF-8")), "{failed:?}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("reads").count(), 1);
}

#[test]
fn slots_are_asked_for_what_they_can_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = keeping(folder.path());
    for name in ["", "..", "../x", "a/b", "/etc/passwd", ".x", "a b", &"x".repeat(200)] {
        assert_eq!(act(&served, 0, "save", name).status, 400, "{name}");
        assert_eq!(act(&served, 0, "restore", name).status, 400, "{name}");
    }
    assert_eq!(act(&served, 0, "restore", "nobody").status, 404);
    assert_eq!(act(&served, 2, "save", "x").status, 404);
    assert_eq!(act(&served, 0, "burn", "x").status, 400);
    assert_eq!(served.post("/slots/x?action=save", &json!({ "filename": "x" })).status, 404);
    for body in [json!({ "filename": 5 }), json!({ "odd": 1 }), json!([])] {
        for action in ["save", "restore", "erase"] {
            assert_eq!(served.post(&format!("/slots/0?action={action}"), &body).status, 400, "{action}: {body}");
        }
    }
    std::fs::write(folder.path().join("junk"), b"thermocline session 1\nnot really").expect("writes");
    assert_eq!(act(&served, 0, "restore", "junk").status, 400);
    let closed = serve(&[]);
    for action in ["save", "restore"] {
        let reply = act(&closed, 0, action, "x");
        assert!(reply.status == 403 && reply.body.contains("--slot-save-path"), "{reply:?}");
    }
    assert_eq!(act(&closed, 0, "erase", "x").status, 200);
}

/// Who names no file gets the slot's own, but no page of another origin may do without saying the type of what it sends:
/// its browser would not ask for leave first.
#[test]
fn a_file_need_not_be_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = keeping(folder.path());
    served.chat(&question());
    let bare = |action: &str, more: &str| served.raw(&format!("POST /slots/0?action={action} HTTP/1.1{more}"), b"");
    assert_eq!(bare("restore", "").status, 404, "nothing was saved yet");
    assert_eq!(bare("save", "").json()["filename"], "slot-0");
    assert!(bare("erase", "").json()["n_erased"].as_u64() > Some(0));
    assert!(
        served.post("/slots/1?action=restore", &json!({ "filename": "slot-0" })).json()["n_restored"].as_u64()
            > Some(0)
    );
    assert_eq!(
        served.post("/slots/1?action=restore", &json!({ "filename": null })).status,
        404,
        "slot-1 was not saved"
    );
    for action in ["save", "restore", "erase"] {
        assert_eq!(bare(action, "\r\nOrigin: https://a.example").status, 415, "{action}");
        assert_eq!(bare(action, "\r\nContent-Type: text/plain").status, 415, "{action}");
        assert_eq!(served.raw(&format!("POST /slots/0?action={action} HTTP/1.1"), b"{}").status, 415, "{action}");
    }
}

/// Kills a server while it writes answers and saves, again and again: each next one finds the last whole file, or none.
/// More rounds: `KILLS=100 cargo test --release --test api killed`.
#[test]
fn a_server_that_is_killed_leaves_nothing_broken() {
    let folder = tempfile::tempdir().expect("a folder");
    let expected = serve(&[]).chat(&question())["choices"].clone();
    let kills: u64 = std::env::var("KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(4);
    for kill in 0..kills {
        let served = keeping(folder.path());
        let reply = act(&served, 0, "restore", "mine");
        assert!(reply.status == 200 || reply.status == 404, "{kill}: {reply:?}");
        assert_eq!(served.chat(&question())["choices"], expected, "{kill}");
        let (address, quiet) = (served.address(), Duration::from_millis(7 + 13 * kill % 60));
        let load = std::thread::spawn(move || {
            // The server goes away in the middle of this: no reply is waited for.
            for turn in 0..2000 {
                let (path, body) = match turn % 3 {
                    0 => ("/v1/chat/completions", question()),
                    _ => ("/slots/0?action=save", json!({ "filename": "mine" })),
                };
                if super::client::tell(&address, path, &body).is_err() {
                    return;
                }
            }
        });
        std::thread::sleep(quiet);
        drop(served); // kills it
        load.join().expect("the load ends with the server");
    }
}
