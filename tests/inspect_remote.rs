//! What a model on the hub is, from its headers alone.

#[allow(dead_code, reason = "made for the tests of downloads")]
mod fake_hub;
mod tiny;

use fake_hub::{Entry, Hub, Repository};
use kernels::Format;
use thermocline::checkpoint::hub::{HubOptions, ModelName, Remote};
use thermocline::checkpoint::{Checkpoint, Header};
use tiny::Tiny;

#[test]
fn a_summary_without_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let model = Tiny { vocab: 60_000, tied: false, ..Tiny::default() };
    model.write_sharded(folder.path(), Format::BF16, 2);
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    let local = Checkpoint::open(folder.path()).unwrap();
    let files = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path());
    let entry = |path: std::path::PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        (name, Entry::large(&std::fs::read(&path).unwrap()))
    };
    let hub = Hub::start(Repository::new("owner/name", files.map(entry)));
    let home = tempfile::tempdir().unwrap();
    let options = HubOptions::from_vars(|name| match name {
        "HF_ENDPOINT" => Some(hub.endpoint.clone()),
        "HF_HOME" => Some(home.path().to_str().unwrap().to_string()),
        _ => None,
    });
    let remote = Remote::open(&ModelName::parse("owner/name").unwrap(), &options).unwrap();
    let header = Header::remote(&remote, "owner/name").unwrap();
    assert_eq!(header.summary().to_string(), local.summary().to_string());
    assert!(hub.sent() < 100_000, "{} bytes travelled", hub.sent());
    assert!(local.weight_bytes() > 14_000_000);
}
