//! From a model's name to files, against a hub on loopback that cuts, stalls, corrupts and refuses.

mod fake_hub;
#[path = "hub/processes.rs"]
mod processes;
#[path = "hub/trouble.rs"]
mod trouble;

use fake_hub::{Entry, Hub, Repository, Request, Trouble};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use thermocline::checkpoint::hub::{
    Event, HubOptions, ModelName, Progress, Remote, Resolved, Silent, Token, Weights, resolve,
};
use thermocline::{Error, Result};

const REPO: &str = "owner/name";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const MIB: usize = 1 << 20;

/// Bytes that differ everywhere, so that a piece in the wrong place is seen.
fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(next).collect()
}

fn small(name: &str, text: &str) -> (String, Entry) {
    (name.into(), Entry::small(text.as_bytes()))
}

fn large(name: &str, content: &[u8]) -> (String, Entry) {
    (name.into(), Entry::large(content))
}

/// A safetensors repository with one file of weights, and things nobody should fetch.
fn folder_hub(weights: &[u8]) -> Hub {
    Hub::start(Repository::new(
        REPO,
        [
            small("config.json", "{\"model_type\":\"smallthinker\"}"),
            small("generation_config.json", "{}"),
            small("tokenizer.json", "{\"version\":\"1.0\"}"),
            small("tokenizer_config.json", "{\"a\":1}"),
            small("chat_template.jinja", "{{ messages }}"),
            small("modeling_smallthinker.py", "import os"),
            small("README.md", "hello"),
            large("pytorch_model.bin", b"pickle"),
            large("model.safetensors", weights),
        ],
    ))
}

/// A repository with one GGUF, which is all most tests need.
fn gguf_hub(content: &[u8]) -> Hub {
    Hub::start(Repository::new(REPO, [large("m.Q4_0.gguf", content)]))
}

struct Home(TempDir);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().unwrap())
    }

    /// Quick to give up, and blind to the environment of whoever runs the tests.
    fn options(&self, hub: &Hub) -> HubOptions {
        let home = self.0.path().to_str().unwrap().to_string();
        let mut options = HubOptions::from_vars(|name| match name {
            "HF_ENDPOINT" => Some(hub.endpoint.clone()),
            "HF_HOME" => Some(home.clone()),
            _ => None,
        });
        options.stall = Duration::from_secs(5); // a busy machine is no stall
        options.attempts = 4;
        options.backoff = Duration::from_millis(1);
        options
    }

    fn repo(&self) -> PathBuf {
        self.0.path().join("hub/models--owner--name")
    }

    fn blob(&self, hub: &Hub, file: &str) -> PathBuf {
        self.repo().join("blobs").join(etag(hub, file))
    }

    fn partial(&self, hub: &Hub, file: &str) -> PathBuf {
        self.repo().join("blobs").join(format!("{}.incomplete", etag(hub, file)))
    }

    /// As if an earlier process had been killed after these bytes.
    fn leave(&self, hub: &Hub, file: &str, beginning: &[u8]) {
        std::fs::create_dir_all(self.repo().join("blobs")).unwrap();
        std::fs::write(self.partial(hub, file), beginning).unwrap();
    }

    fn blobs(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.repo().join("blobs")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn etag(hub: &Hub, file: &str) -> String {
    let mut etag = String::new();
    hub.edit(|repository| etag = repository.files[file].etag.clone());
    etag
}

fn get(text: &str, options: &HubOptions) -> Result<Resolved> {
    resolve(&ModelName::hub(text)?, options, &mut Silent)
}

/// The sentence of a lookup that must fail as a download.
fn refused(text: &str, options: &HubOptions) -> String {
    let error = get(text, options).unwrap_err();
    assert_eq!(error.exit_code(), 4, "{error}");
    let sentence = error.to_string();
    assert!(!sentence.contains('\n') && !sentence.contains("hf_"), "{sentence}");
    sentence
}

fn ranges(requests: &[Request]) -> Vec<Option<String>> {
    requests.iter().filter(|r| r.cdn && r.method == "GET").map(|r| r.range.clone()).collect()
}

#[test]
fn a_folder_of_safetensors_arrives_in_the_shared_layout() {
    let (hub, home) = (folder_hub(&bytes(3 * MIB, 1)), Home::new());
    let options = home.options(&hub);
    let found = get(REPO, &options).unwrap();
    assert_eq!(found.path, home.repo().join("snapshots").join(COMMIT));
    assert_eq!(found.revision.as_deref(), Some(COMMIT));
    assert_eq!(std::fs::read_to_string(home.repo().join("refs/main")).unwrap(), COMMIT);
    let mut names: Vec<String> = std::fs::read_dir(&found.path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let want = [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names, want);
    for name in want {
        let target = std::fs::read_link(found.path.join(name)).unwrap();
        assert_eq!(target, Path::new("../../blobs").join(etag(&hub, name)), "{name}");
    }
    assert_eq!(std::fs::read(found.path.join("model.safetensors")).unwrap(), bytes(3 * MIB, 1));
    assert_eq!(home.blobs().len(), want.len(), "nothing half-finished is left");

    // The second time one question is enough, and none when the answer cannot change or must not be asked for.
    hub.requests();
    assert_eq!(get(REPO, &options).unwrap(), found);
    assert_eq!(hub.requests().len(), 1);
    let commit = HubOptions { revision: COMMIT.into(), ..options.clone() };
    assert_eq!(get(REPO, &commit).unwrap(), found);
    let offline = HubOptions { offline: true, ..options };
    assert_eq!(get(REPO, &offline).unwrap(), found);
    assert_eq!(hub.requests().len(), 0);
}

#[test]
fn shards_are_found_through_their_index() {
    let index = r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    let hub = Hub::start(Repository::new(
        REPO,
        [
            small("config.json", "{}"),
            small("tokenizer.json", "{}"),
            small("model.safetensors.index.json", index),
            large("model-1.safetensors", &bytes(MIB, 1)),
            large("model-2.safetensors", &bytes(MIB, 2)),
            large("model-3.safetensors", &bytes(MIB, 3)),
        ],
    ));
    let home = Home::new();
    let mut options = home.options(&hub);
    let found = get(REPO, &options).unwrap();
    assert_eq!(std::fs::read(found.path.join("model-2.safetensors")).unwrap(), bytes(MIB, 2));
    assert!(!found.path.join("model-3.safetensors").exists());
    options.offline = true;
    assert_eq!(get(REPO, &options).unwrap(), found);
    std::fs::remove_file(home.blob(&hub, "model-2.safetensors")).unwrap();
    let sentence = refused(REPO, &options);
    assert!(sentence.contains("model-2.safetensors") && sentence.contains("--offline"), "{sentence}");
    options.offline = false;
    assert_eq!(get(REPO, &options).unwrap(), found, "a pointer to nothing is mended");
    assert_eq!(std::fs::read(found.path.join("model-2.safetensors")).unwrap(), bytes(MIB, 2));
}

#[test]
fn one_gguf_is_picked_and_a_choice_is_told() {
    let hub = Hub::start(Repository::new(
        REPO,
        [
            large("m.Q8_0.gguf", b"eight"),
            large("m.Q4_0.gguf", b"four"),
            large("m.Q4_0.powerinfer.gguf", b"p"),
            large("sub/m with space.Q6_K.gguf", b"six"),
        ],
    ));
    let home = Home::new();
    let mut options = home.options(&hub);
    let found = get("owner/name:q8_0", &options).unwrap();
    assert_eq!(std::fs::read(&found.path).unwrap(), b"eight");
    assert!(found.notes.is_empty());
    assert!(hub.requests().iter().all(|request| !request.path.contains("Q4_0")), "only what was asked for");
    let found = get(REPO, &options).unwrap();
    assert_eq!(found.path.file_name().unwrap(), "m.Q4_0.gguf");
    assert!(found.notes[0].contains("m.Q4_0.gguf"), "{:?}", found.notes);
    let nested = get("owner/name:Q6_K", &options).unwrap();
    assert_eq!(std::fs::read(&nested.path).unwrap(), b"six");
    assert!(std::fs::read_link(&nested.path).unwrap().starts_with("../../../blobs"));
    let error = get("owner/name:Q5_K_M", &options).unwrap_err();
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("m.Q8_0.gguf"), "{error}");
    options.offline = true;
    assert_eq!(get("owner/name:Q6_K", &options).unwrap(), nested);
}

#[test]
fn the_token_stays_with_the_hub() {
    let (hub, home) = (gguf_hub(&bytes(MIB, 1)), Home::new());
    hub.edit(|repository| repository.gated = Some("hf_right".into()));
    let mut options = home.options(&hub);
    let sentence = refused(REPO, &options);
    assert!(sentence.contains("gated") && sentence.contains("licence") && sentence.contains("HF_TOKEN"), "{sentence}");
    options.token = Token::new("hf_wrong");
    let sentence = refused(REPO, &options);
    assert!(sentence.contains("your token has no access"), "{sentence}");
    hub.requests();
    options.token = Token::new("hf_right");
    get(REPO, &options).unwrap();
    let requests = hub.requests();
    for request in &requests {
        assert_eq!(request.authorization.is_some(), !request.cdn, "{request:?}");
    }
    assert!(requests.iter().any(|request| request.cdn));
}

#[test]
fn an_earlier_beginning_is_used_whatever_the_server_can() {
    let content = bytes(3 * MIB, 1);
    let from = Some(format!("bytes={MIB}-"));
    for (trouble, want) in [
        (None, vec![from.clone()]),
        (Some(Trouble::NoRange), vec![from.clone()]),
        (Some(Trouble::RefuseRange), vec![from.clone(), None]),
    ] {
        let (hub, home) = (gguf_hub(&content), Home::new());
        home.leave(&hub, "m.Q4_0.gguf", &content[..MIB]);
        if let Some(trouble) = trouble {
            hub.trouble("GET", "/cdn/", usize::MAX, trouble);
        }
        let found = get(REPO, &home.options(&hub)).unwrap();
        assert_eq!(std::fs::read(found.path).unwrap(), content);
        assert_eq!(ranges(&hub.requests()), want);
    }
    // All of it there but the name; and more than there can be.
    let (hub, home) = (gguf_hub(&content), Home::new());
    home.leave(&hub, "m.Q4_0.gguf", &content);
    get(REPO, &home.options(&hub)).unwrap();
    assert_eq!(hub.sent(), 0);
    let home = Home::new();
    home.leave(&hub, "m.Q4_0.gguf", &bytes(4 * MIB, 9));
    let found = get(REPO, &home.options(&hub)).unwrap();
    assert_eq!(std::fs::read(found.path).unwrap(), content);
}

#[test]
fn a_file_that_changes_at_the_hub_is_begun_anew() {
    let (old, new) = (bytes(3 * MIB, 1), bytes(2 * MIB, 2));
    let (hub, home) = (gguf_hub(&old), Home::new());
    home.leave(&hub, "m.Q4_0.gguf", &old[..MIB]);
    let before = etag(&hub, "m.Q4_0.gguf");
    hub.trouble("GET", "/resolve/", 1, Trouble::Replace(Entry::large(&new)));
    let found = get(REPO, &home.options(&hub)).unwrap();
    assert_eq!(std::fs::read(found.path).unwrap(), new);
    assert!(!home.blobs().iter().any(|name| name.starts_with(&before)), "the old beginning is gone");

    // A hub whose GET and HEAD never agree is believed by the checksum.
    let (hub, home) = (gguf_hub(&old), Home::new());
    hub.trouble("GET", "/resolve/", usize::MAX, Trouble::OddEtag);
    assert_eq!(std::fs::read(get(REPO, &home.options(&hub)).unwrap().path).unwrap(), old);
}

#[test]
fn a_new_commit_is_fetched_and_an_unchanged_file_is_not() {
    let content = bytes(MIB, 1);
    let (hub, home) = (folder_hub(&content), Home::new());
    let options = home.options(&hub);
    get(REPO, &options).unwrap();
    let (before, second) = (hub.sent(), "f".repeat(40));
    hub.edit(|repository| {
        repository.commit = second.clone();
        repository.files.insert("config.json".into(), Entry::small(b"{\"new\":1}"));
    });
    let found = get(REPO, &options).unwrap();
    assert_eq!(found.revision.as_deref(), Some(second.as_str()));
    assert_eq!(std::fs::read(found.path.join("config.json")).unwrap(), b"{\"new\":1}");
    assert_eq!(std::fs::read(found.path.join("model.safetensors")).unwrap(), content);
    assert!(hub.sent() - before < 100, "only the new config came");
    assert_eq!(std::fs::read_to_string(home.repo().join("refs/main")).unwrap(), second);
}

#[test]
fn what_another_tool_left_in_the_cache_is_used() {
    let (hub, home) = (gguf_hub(b"the model"), Home::new());
    let etag = etag(&hub, "m.Q4_0.gguf");
    let snapshot = home.repo().join("snapshots").join(COMMIT);
    std::fs::create_dir_all(home.repo().join("blobs")).unwrap();
    std::fs::create_dir_all(home.repo().join("refs")).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::write(home.blob(&hub, "m.Q4_0.gguf"), b"the model").unwrap();
    std::fs::write(home.repo().join("refs/main"), format!("{COMMIT}\n")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(format!("../../blobs/{etag}"), snapshot.join("m.Q4_0.gguf")).unwrap();
    let mut options = home.options(&hub);
    options.offline = true;
    assert_eq!(get(REPO, &options).unwrap().path, snapshot.join("m.Q4_0.gguf"));
    options.offline = false;
    assert_eq!(get(REPO, &options).unwrap().path, snapshot.join("m.Q4_0.gguf"));
    assert_eq!(hub.sent(), 0);
}

#[test]
fn without_a_network_the_cache_answers_or_a_sentence() {
    let (hub, home) = (gguf_hub(&bytes(1000, 1)), Home::new());
    let mut options = home.options(&hub);
    let offline = HubOptions { offline: true, ..options.clone() };
    let sentence = refused(REPO, &offline);
    assert!(sentence.contains("not in the cache") && sentence.contains("HF_HUB_OFFLINE"), "{sentence}");
    assert!(hub.requests().is_empty());
    let found = get(REPO, &options).unwrap();
    let sentence = refused("owner/name:Q8_0", &offline);
    assert!(sentence.contains("Q8_0"), "{sentence}");

    options.endpoint = "http://127.0.0.1:1".into(); // where nobody listens
    let from_cache = get(REPO, &options).unwrap();
    assert_eq!(from_cache.path, found.path);
    assert!(from_cache.notes[0].contains("in the cache"), "{:?}", from_cache.notes);
    hub.trouble("", "/api/", usize::MAX, Trouble::Status(503, ""));
    assert!(get(REPO, &home.options(&hub)).unwrap().notes[0].contains("503"));
    hub.calm();

    let began = Instant::now();
    options.backoff = Duration::from_secs(60);
    let sentence = refused("owner/missing", &options);
    assert!(sentence.contains("no connection to http://127.0.0.1") && sentence.contains("--offline"), "{sentence}");
    options.endpoint = "http://hub.invalid".into();
    let sentence = refused("owner/missing", &options);
    assert!(sentence.contains("hub.invalid"), "{sentence}");
    assert!(began.elapsed() < Duration::from_secs(45), "who is not there is not asked again");
    options.endpoint = "not an address".into();
    assert!(refused("owner/missing", &options).contains("HF_ENDPOINT"));
}

#[test]
fn a_disk_too_small_is_found_before_the_first_byte() {
    let (hub, home) = (gguf_hub(&bytes(3 * MIB, 1)), Home::new());
    let mut options = home.options(&hub);
    options.free_bytes = |_| Ok(1_000_000);
    let sentence = refused(REPO, &options);
    for part in ["3145728 bytes", "1000000 bytes", "HF_HUB_CACHE"] {
        assert!(sentence.contains(part), "{sentence}");
    }
    assert_eq!(hub.sent(), 0);
    // What is here already need not fit again.
    home.leave(&hub, "m.Q4_0.gguf", &bytes(3 * MIB, 1)[..5 * MIB / 2]);
    get(REPO, &options).unwrap();
}

/// `/dev/full` refuses every write as a full disk does.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_is_said_in_a_sentence() {
    let (hub, home) = (gguf_hub(&bytes(MIB, 1)), Home::new());
    std::fs::create_dir_all(home.repo().join("blobs")).unwrap();
    std::os::unix::fs::symlink("/dev/full", home.partial(&hub, "m.Q4_0.gguf")).unwrap();
    let sentence = refused(REPO, &home.options(&hub));
    assert!(sentence.contains("the disk is full") && sentence.contains("HF_HUB_CACHE"), "{sentence}");
}

#[test]
fn names_that_climb_out_of_the_cache_are_refused() {
    let (hub, home) = (Hub::start(Repository::new(REPO, [large("../../../../evil.Q4_0.gguf", b"x")])), Home::new());
    let error = get(REPO, &home.options(&hub)).unwrap_err();
    assert_eq!(error.exit_code(), 5, "{error}");
    assert_eq!(hub.sent(), 0);
    let hub = Hub::start(Repository::new(REPO, [("m.Q4_0.gguf".into(), Entry::of(b"x", "../../evil".into(), true))]));
    assert!(refused(REPO, &home.options(&hub)).contains("etag"));
    hub.edit(|repository| repository.commit = "../evil".into());
    assert!(refused(REPO, &home.options(&hub)).contains("commit"));
}

/// Collects events; stops after so many bytes.
#[derive(Default)]
struct Watcher {
    lines: Vec<String>,
    done: u64,
    stop_at: Option<u64>,
    stopped: bool,
}

impl Progress for Watcher {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Bytes { total_done, total_bytes, done, bytes, .. } => {
                assert!(total_done <= total_bytes && done <= bytes && done <= total_done);
                self.done = *total_done;
                if self.stop_at.is_some_and(|stop| self.done >= stop) {
                    self.stopped = true;
                }
            }
            Event::Begin { files, bytes, have } => self.lines.push(format!("begin {files} {bytes} {have}")),
            Event::File { name, have, .. } => self.lines.push(format!("file {name} {have}")),
            Event::Retry { name, .. } => self.lines.push(format!("retry {name}")),
            Event::FileDone { name } => self.lines.push(format!("done {name}")),
            Event::Waiting { name } => self.lines.push(format!("waiting {name}")),
            Event::Checking { done, bytes, .. } => assert!(done <= bytes),
            Event::End => self.lines.push("end".into()),
        }
    }

    fn interrupted(&self) -> bool {
        self.stopped
    }
}

#[test]
fn progress_adds_up_and_can_stop_everything() {
    let content = bytes(32 * MIB, 1);
    let (hub, home) = (gguf_hub(&content), Home::new());
    let options = home.options(&hub);
    hub.trouble("GET", "/cdn/", usize::MAX, Trouble::Slow(40 * MIB as u64)); // so that events come in between
    let name = ModelName::hub(REPO).unwrap();
    let mut first = Watcher { stop_at: Some(2 * MIB as u64), ..Watcher::default() };
    let error = resolve(&name, &options, &mut first).unwrap_err();
    assert!(matches!(error, Error::Interrupted));
    let kept = std::fs::metadata(home.partial(&hub, "m.Q4_0.gguf")).unwrap().len();
    assert!(kept >= 2 * MIB as u64 && kept < content.len() as u64);

    hub.calm();
    hub.trouble("GET", "/cdn/", 1, Trouble::Cut(MIB as u64));
    hub.trouble("GET", "/cdn/", 2, Trouble::Corrupt(kept + 5));
    let mut second = Watcher::default();
    resolve(&name, &options, &mut second).unwrap();
    let file = "m.Q4_0.gguf";
    let want = [
        format!("begin 1 {} {kept}", content.len()),
        format!("file {file} {kept}"),
        format!("retry {file}"),
        format!("retry {file}"),
        format!("file {file} 0"),
        format!("done {file}"),
        "end".into(),
    ];
    assert_eq!(second.lines, want);
    assert_eq!(second.done, content.len() as u64, "bytes that came twice count once");
}

#[test]
fn a_process_that_does_not_get_on_is_not_waited_for_for_ever() {
    let (hub, home) = (gguf_hub(&bytes(MIB, 1)), Home::new());
    let locks = home.0.path().join("hub/.locks/models--owner--name");
    std::fs::create_dir_all(&locks).unwrap();
    let other = std::fs::File::create(locks.join(format!("{}.lock", etag(&hub, "m.Q4_0.gguf")))).unwrap();
    other.lock().unwrap();
    let mut options = home.options(&hub);
    options.stall = Duration::from_millis(300);
    assert!(refused(REPO, &options).contains("another process holds the lock"));
    other.unlock().unwrap();
    options.stall = Duration::from_secs(1);
    get(REPO, &options).unwrap();
}

#[test]
fn headers_are_read_without_the_weights() {
    let header = br#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let mut weights = (header.len() as u64).to_le_bytes().to_vec();
    weights.extend_from_slice(header);
    weights.extend(bytes(5 * MIB, 1));
    let (hub, home) = (folder_hub(&weights), Home::new());
    let options = home.options(&hub);
    let name = ModelName::hub(REPO).unwrap();
    let remote = Remote::open(&name, &options).unwrap();
    assert_eq!(remote.weights(), &Weights::Safetensors(vec!["model.safetensors".into()]));
    assert_eq!(remote.revision(), COMMIT);
    assert!(remote.files().iter().any(|file| file == "README.md"));
    assert_eq!(remote.read("config.json").unwrap(), b"{\"model_type\":\"smallthinker\"}");
    hub.trouble("GET", "/cdn/", 1, Trouble::Cut(3)); // eight bytes were asked for
    assert_eq!(remote.safetensors_header("model.safetensors").unwrap(), (header.to_vec(), weights.len() as u64));
    let file = remote.file("model.safetensors").unwrap();
    assert_eq!(file.size(), weights.len() as u64);
    assert_eq!(file.read_at(1000, 10).unwrap(), weights[1000..1010]);
    assert_eq!(file.read_at(weights.len() as u64 - 4, 10).unwrap(), weights[weights.len() - 4..]);
    assert!(file.read_at(weights.len() as u64, 10).unwrap().is_empty());
    assert!(hub.sent() < 10_000, "{} bytes", hub.sent());
    assert!(home.blobs().is_empty());
    hub.trouble("GET", "/cdn/", 1, Trouble::NoRange);
    assert_eq!(file.read_at(1000, 10).unwrap(), weights[1000..1010]);
    assert_eq!(remote.file("nothing.json").err().unwrap().exit_code(), 5);

    // Once downloaded, looking needs no hub.
    let offline = HubOptions { offline: true, ..options.clone() };
    assert_eq!(Remote::open(&name, &offline).err().unwrap().exit_code(), 4);
    get(REPO, &options).unwrap();
    hub.requests();
    let remote = Remote::open(&name, &offline).unwrap();
    assert_eq!(remote.safetensors_header("model.safetensors").unwrap().0, header);
    assert!(hub.requests().is_empty());
    hub.trouble("", "/api/", usize::MAX, Trouble::Status(503, ""));
    let remote = Remote::open(&name, &options).unwrap();
    assert!(remote.notes()[0].contains("in the cache"));
}

#[test]
fn a_header_longer_than_its_file_is_refused() {
    for content in [&u64::MAX.to_le_bytes()[..], b"\xff\0\0\0\0\0\0\0{}", b"short"] {
        let hub = folder_hub(content);
        let remote = Remote::open(&ModelName::hub(REPO).unwrap(), &Home::new().options(&hub)).unwrap();
        assert_eq!(remote.safetensors_header("model.safetensors").unwrap_err().exit_code(), 5);
    }
}
