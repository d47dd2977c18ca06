//! A hub that refuses, is busy, cuts, stalls and sends other bytes than it promised.

use super::*;

#[test]
fn what_the_hub_refuses_is_said_in_a_sentence() {
    let (hub, home) = (gguf_hub(b"x"), Home::new());
    let options = home.options(&hub);
    let sentence = refused("owner/other", &options);
    assert!(sentence.contains("owner/other") && sentence.contains("check the name"), "{sentence}");
    let sentence = refused(REPO, &HubOptions { revision: "v9".into(), ..options.clone() });
    assert!(sentence.contains("no revision `v9`"), "{sentence}");
    for (path, status, code, part) in [
        ("/api/", 404, "RepoNotFound", "no model repository owner/name"),
        ("/api/", 404, "", "no model repository owner/name"),
        ("/api/", 401, "", "HF_TOKEN"),
        ("/api/", 403, "GatedRepo", "gated"),
        ("/api/", 429, "", "slow down (429)"),
        ("/api/", 503, "", "answered 503"),
        ("/resolve/", 404, "EntryNotFound", "no file m.Q4_0.gguf"),
        ("/resolve/", 403, "", "m.Q4_0.gguf"),
        ("/cdn/", 403, "", "m.Q4_0.gguf"),
        ("/cdn/", 500, "", "answered 500"),
    ] {
        hub.trouble("", path, usize::MAX, Trouble::Status(status, code));
        let sentence = refused(REPO, &options);
        assert!(sentence.contains(part), "{path} {status}: {sentence}");
        hub.calm();
    }
    hub.trouble("", "/resolve/", usize::MAX, Trouble::Loop);
    assert!(refused(REPO, &options).contains("redirected more than"));
    let usage = get(REPO, &HubOptions { revision: "../x".into(), ..options }).unwrap_err();
    assert_eq!(usage.exit_code(), 2);
}

#[test]
fn a_busy_hub_is_asked_again() {
    let (hub, home) = (gguf_hub(&bytes(MIB, 1)), Home::new());
    hub.trouble("", "/api/", 1, Trouble::Status(429, ""));
    hub.trouble("HEAD", "/resolve/", 2, Trouble::Status(500, ""));
    hub.trouble("GET", "/cdn/", 1, Trouble::Status(503, ""));
    let found = get(REPO, &home.options(&hub)).unwrap();
    assert_eq!(std::fs::read(found.path).unwrap(), bytes(MIB, 1));
}

#[test]
fn cut_connections_are_resumed_where_they_broke() {
    let content = bytes(10 * MIB, 1);
    let (hub, home) = (gguf_hub(&content), Home::new());
    // More cuts than attempts: each brings a megabyte or more, so none counts for long.
    hub.trouble("GET", "/cdn/", usize::MAX, Trouble::Cut(3 * MIB as u64 / 2));
    let found = get(REPO, &home.options(&hub)).unwrap();
    assert_eq!(std::fs::read(found.path).unwrap(), content);
    assert_eq!(hub.sent_in_all(content.len()), content.len() as u64, "no byte came twice");
    assert_eq!(ranges(&hub.requests()).len(), 7);
}

#[test]
fn a_line_that_brings_nothing_is_given_up() {
    let (hub, home) = (gguf_hub(&bytes(10 * MIB, 1)), Home::new());
    let options = home.options(&hub);
    hub.trouble("GET", "/cdn/", usize::MAX, Trouble::Cut(1000));
    assert!(refused(REPO, &options).contains("kept breaking off"));
    assert_eq!(std::fs::metadata(home.partial(&hub, "m.Q4_0.gguf")).unwrap().len(), 4 * 1000);
    hub.calm();
    get(REPO, &options).unwrap();
}

#[test]
fn a_stalled_connection_is_left_and_made_again() {
    let content = bytes(2 * MIB, 1);
    let (hub, home) = (gguf_hub(&content), Home::new());
    let mut options = home.options(&hub);
    options.stall = Duration::from_secs(3);
    hub.trouble("GET", "/cdn/", 1, Trouble::Stall(MIB as u64));
    let found = get(REPO, &options).unwrap();
    assert_eq!(std::fs::read(found.path).unwrap(), content);
    assert_eq!(hub.sent_in_all(content.len()), content.len() as u64);
    let (hub, home) = (gguf_hub(&content), Home::new());
    hub.trouble("GET", "/cdn/", usize::MAX, Trouble::Stall(0));
    let mut options = home.options(&hub);
    options.stall = Duration::from_millis(100);
    assert!(refused(REPO, &options).contains("no byte"));
}

#[test]
fn damage_never_reaches_the_cache() {
    let content = bytes(3 * MIB, 1);
    for file in ["model.safetensors", "config.json"] {
        let (hub, home) = (folder_hub(&content), Home::new());
        let options = home.options(&hub);
        hub.trouble("GET", file, 2, Trouble::Corrupt(17)); // a small file's redirect counts as one
        let found = get(REPO, &options).unwrap();
        assert_eq!(std::fs::read(found.path.join("model.safetensors")).unwrap(), content);

        let home = Home::new();
        hub.calm();
        hub.trouble("GET", file, usize::MAX, Trouble::Corrupt(17));
        let sentence = refused(REPO, &home.options(&hub));
        assert!(sentence.contains("damaged twice") && sentence.contains(file), "{sentence}");
        let etag = etag(&hub, file);
        assert!(!home.blobs().iter().any(|name| name.starts_with(&etag)), "{:?}", home.blobs());
        assert!(!home.repo().join("refs/main").exists());
    }
}

#[test]
fn a_damaged_beginning_is_found_at_the_end() {
    let content = bytes(3 * MIB, 1);
    let (hub, home) = (gguf_hub(&content), Home::new());
    let mut beginning = content[..MIB].to_vec();
    beginning[5] ^= 1;
    home.leave(&hub, "m.Q4_0.gguf", &beginning);
    let found = get(REPO, &home.options(&hub)).unwrap();
    assert_eq!(std::fs::read(found.path).unwrap(), content);
    assert_eq!(ranges(&hub.requests()), [Some(format!("bytes={MIB}-")), None]);
}

#[test]
fn a_wrong_size_never_reaches_the_cache() {
    let (hub, home) = (gguf_hub(&bytes(MIB, 1)), Home::new());
    hub.trouble("GET", "/cdn/", usize::MAX, Trouble::Longer(5));
    let sentence = refused(REPO, &home.options(&hub));
    assert!(sentence.contains("damaged twice") && sentence.contains("1048581"), "{sentence}");
    assert!(home.blobs().is_empty());
}
