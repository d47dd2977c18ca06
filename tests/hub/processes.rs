//! Downloads by processes that are killed, and by two at once.

use super::*;
use std::process::{Child, Command};

/// Runs as a process of its own, told by its environment what to fetch. See `child`.
#[test]
#[ignore = "the other end of the tests that need a process to kill"]
fn download_in_a_child() {
    let Ok(repo) = std::env::var("HUB_TEST_REPO") else { return };
    let options = HubOptions::from_env();
    let found = resolve(&ModelName::hub(&repo).unwrap(), &options, &mut Silent).unwrap();
    assert!(found.path.exists());
}

fn child(hub: &Hub, home: &Home) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::download_in_a_child", "--ignored", "-q"])
        .env("HUB_TEST_REPO", REPO)
        .env("HF_ENDPOINT", &hub.endpoint)
        .env("HF_HOME", home.0.path())
        .env_remove("HF_HUB_CACHE")
        .env_remove("HUGGINGFACE_HUB_CACHE")
        .env_remove("HF_HUB_OFFLINE")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_process_loses_less_than_sixteen_mib() {
    let (content, home) = (bytes(48 * MIB, 1), Home::new());
    let served = home.0.path().join("served.gguf");
    std::fs::write(&served, &content).unwrap();
    let hub = Hub::start(Repository::new(REPO, [("m.Q4_0.gguf".into(), Entry::file(&served).unwrap())]));
    hub.trouble("GET", "/cdn/", usize::MAX, Trouble::Slow(30 * MIB as u64));
    for stop in [5 * MIB as u64, 24 * MIB as u64] {
        let mut process = child(&hub, &home);
        let began = Instant::now();
        while hub.sent() < stop {
            assert!(began.elapsed() < Duration::from_secs(20), "the child fetches");
            std::thread::sleep(Duration::from_millis(2));
        }
        process.kill().unwrap(); // SIGKILL
        process.wait().unwrap();
        std::thread::sleep(Duration::from_millis(50)); // the hub notices
        let kept = std::fs::metadata(home.partial(&hub, "m.Q4_0.gguf")).unwrap().len();
        let lost = hub.sent() - kept; // what was on its way counts as lost
        println!("{lost} bytes lost of {} sent", hub.sent());
        assert!(lost < 16 * MIB as u64, "{lost} of {} bytes were lost", hub.sent());
        assert!(kept > 0);
        assert!(!home.blob(&hub, "m.Q4_0.gguf").exists());
        assert_eq!(std::fs::read(home.partial(&hub, "m.Q4_0.gguf")).unwrap(), content[..kept as usize]);
    }
    hub.calm();
    hub.requests();
    let kept = std::fs::metadata(home.partial(&hub, "m.Q4_0.gguf")).unwrap().len();
    let found = get(REPO, &home.options(&hub)).unwrap();
    assert_eq!(std::fs::read(found.path).unwrap(), content);
    assert_eq!(ranges(&hub.requests()), [Some(format!("bytes={kept}-"))]);
}

#[test]
fn two_processes_share_one_download() {
    let content = bytes(16 * MIB, 1);
    let (hub, home) = (gguf_hub(&content), Home::new());
    hub.trouble("GET", "/cdn/", usize::MAX, Trouble::Slow(40 * MIB as u64));
    let mut both = [child(&hub, &home), child(&hub, &home)];
    for process in &mut both {
        assert!(process.wait().unwrap().success());
    }
    assert_eq!(hub.sent_in_all(content.len()), content.len() as u64, "one of them waited");
    let blob = std::fs::read(home.blob(&hub, "m.Q4_0.gguf")).unwrap();
    assert_eq!(blob, content);
}
