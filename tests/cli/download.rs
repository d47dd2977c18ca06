//! A hub name on the command line: from nothing to an answer, and every way that does not get there.

use super::fake_hub::{Entry, Hub, Repository, Trouble};
use super::program::{Home, With};

/// The bundled model, as a repository.
fn hub() -> Hub {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny");
    let files = std::fs::read_dir(folder).expect("the bundled model").map(|entry| {
        let entry = entry.expect("listed");
        let bytes = std::fs::read(entry.path()).expect("read");
        let entry_of = if bytes.len() > 1_000_000 { Entry::large } else { Entry::small };
        (entry.file_name().into_string().expect("UTF-8"), entry_of(&bytes))
    });
    Hub::start(Repository::new("owner/name", files))
}

const ASK: &[&str] = &["-m", "owner/name", "-p", "What is 2 + 3?", "-n", "12", "--temp", "0", "--no-perf"];

#[test]
fn a_name_is_fetched_once_and_answers() {
    let (home, hub) = (Home::new(), hub());
    let variables = [("HF_ENDPOINT", hub.endpoint.as_str())];
    let with: With = home.with(&variables);
    let bundled = home.run(&ASK[2..]);
    let first = with.run(ASK);
    assert_eq!((first.code, &first.stdout), (0, &bundled.stdout), "{first:?}");
    assert!(
        first.stderr.contains("downloading") && first.stderr.contains("model.safetensors is complete"),
        "{first:?}"
    );
    assert!(!first.stderr.contains('\r') && !first.stderr.contains('\x1b'), "no drawing in a pipe: {first:?}");
    let sent = hub.sent();
    let again = with.run(&[&["-hf", "owner/name"], &ASK[2..]].concat());
    assert_eq!((again.code, &again.stdout, again.stderr.as_str()), (0, &bundled.stdout, ""), "{again:?}");
    assert_eq!(hub.sent(), sent, "nothing is downloaded twice");
    hub.requests();
    let offline = with.run(&[ASK, &["--offline"]].concat());
    assert_eq!((offline.code, &offline.stdout), (0, &bundled.stdout), "{offline:?}");
    assert!(hub.requests().is_empty());
    // A hub that fails is a fallback to the cache: told, and with --strict an error.
    hub.trouble("", "", 100, Trouble::Status(503, ""));
    let fallback = with.run(ASK);
    assert_eq!((fallback.code, &fallback.stdout), (0, &bundled.stdout), "{fallback:?}");
    assert!(fallback.stderr.contains("note: ") && fallback.stderr.contains("in the cache"), "{fallback:?}");
    let strict = with.run(&[ASK, &["--strict"]].concat());
    assert_eq!((strict.code, strict.stdout.as_str()), (4, ""), "{strict:?}");
}

#[test]
fn inspect_reads_headers_only() {
    let (home, hub) = (Home::new(), hub());
    let here = home.run(&["inspect"]);
    let there = home.with(&[("HF_ENDPOINT", hub.endpoint.as_str())]).run(&["inspect", "owner/name"]);
    assert_eq!((there.code, &there.stdout), (0, &here.stdout), "{there:?}");
    assert!(hub.sent() < 200_000, "{} bytes travelled", hub.sent());
}

#[test]
fn what_cannot_be_had_is_4_and_one_sentence() {
    let (home, hub) = (Home::new(), hub());
    let variables = [("HF_ENDPOINT", hub.endpoint.as_str())];
    let with = home.with(&variables);
    let missing = with.run(&["-m", "owner/other", "-p", "x"]);
    assert_eq!(missing.code, 4, "{missing:?}");
    assert_eq!(missing.stderr.lines().count(), 1, "{missing:?}");
    hub.edit(|repository| repository.gated = Some("a-token".into()));
    let gated = with.run(ASK);
    assert_eq!(gated.code, 4, "{gated:?}");
    assert!(gated.stderr.contains("HF_TOKEN"), "{gated:?}");
    let variables = [("HF_ENDPOINT", hub.endpoint.as_str()), ("HF_TOKEN", "a-token")];
    let opened = home.with(&variables).run(ASK);
    assert_eq!(opened.code, 0, "{opened:?}");
    assert!(!format!("{opened:?}").contains("a-token"));
    // Nobody listens there.
    let nobody = home.run(&["-m", "owner/third", "-p", "x"]);
    assert_eq!((nobody.code, nobody.stderr.lines().count()), (4, 1), "{nobody:?}");
}
