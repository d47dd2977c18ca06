//! A plan for a model on the hub reads its headers and none of its weights.

#[allow(dead_code, reason = "made for the tests of downloads")]
mod fake_hub;
#[allow(dead_code, reason = "made for the tests of the whole program")]
#[path = "cli/program.rs"]
mod program;
mod tiny;

use fake_hub::{Entry, Hub, Repository};
use kernels::Format;
use program::Home;
use thermocline::checkpoint::Checkpoint;
use tiny::Tiny;

#[test]
fn no_byte_of_a_weight_travels() {
    let home = Home::new();
    let folder = home.path("model");
    std::fs::create_dir(&folder).expect("makes a folder");
    let model = Tiny { vocab: 60_000, tied: false, ..Tiny::default() };
    model.write_sharded(&folder, Format::BF16, 2);
    std::fs::write(folder.join("tokenizer.json"), "{}").expect("writes");
    let weights = Checkpoint::open(&folder).expect("opens").weight_bytes();
    let files = std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    // Where the weights begin in each file: eight bytes that say how long the header is, and the header.
    let mut begins = vec![];
    let entries: Vec<(String, Entry)> = files
        .map(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_string();
            let bytes = std::fs::read(&path).expect("reads");
            if name.ends_with(".safetensors") {
                let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
                begins.push((name.clone(), 8 + header));
            }
            (name, Entry::large(&bytes))
        })
        .collect();
    let hub = Hub::start(Repository::new("owner/name", entries));
    let flags = ["plan", "owner/name", "--json", "--disk", "1G"];
    let outcome = home.with(&[("HF_ENDPOINT", &hub.endpoint)]).run(&flags);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let plan: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert!(plan["tokens_per_second"]["expected"].as_f64().expect("a number") > 0.0, "{plan}");
    assert!(hub.sent() < 100_000 && weights > 14_000_000, "{} of {weights} bytes travelled", hub.sent());
    let requests = hub.requests();
    for (name, begin) in &begins {
        for request in requests.iter().filter(|r| r.method == "GET" && r.path.ends_with(name.as_str())) {
            let range = request.range.as_deref().unwrap_or_else(|| panic!("{name} was read whole"));
            let end = range.rsplit('-').next().and_then(|end| end.parse::<u64>().ok()).expect("a range that ends");
            assert!(end < *begin, "{name}: {range} goes beyond its header of {begin} bytes");
        }
    }
    assert!(begins.len() == 2);
    // Nothing of it was put into the cache of downloads.
    assert!(!home.path("hub/hub").exists() || home.path("hub/hub").read_dir().expect("a folder").next().is_none());
}
