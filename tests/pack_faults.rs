//! Packing and packed files when the world does not play along: nothing is lost, no half file is ever used.
//!
//! A hundred rounds of `kill -9`: `cargo test --release --test pack_faults -- --ignored`

mod tiny;

use kernels::Format;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use thermocline::checkpoint::pack::{self, Event, PackOptions, Progress, Silent, cache};
use thermocline::checkpoint::{Checkpoint, Quant};
use thermocline::{Error, Result};
use tiny::Tiny;

fn serial(n: usize, job: &(dyn Fn(usize) + Sync)) {
    (0..n).for_each(job);
}

fn pack(source: &Path, to: &Path) -> Result<pack::Made> {
    pack::pack(&Checkpoint::open(source)?, to, &PackOptions::default(), &serial, &mut Silent)
}

fn partial(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.partial", path.display()))
}

/// A source and its packed file, made once.
static PACKED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let dir = TempDir::new().unwrap();
    let (source, to) = (dir.path().join("model.gguf"), dir.path().join("packed.gguf"));
    Tiny::wide().write_gguf(&source, Format::Q4_0);
    pack(&source, &to).unwrap();
    fs::read(to).unwrap()
});

/// Where the data of [`PACKED`] begins.
static DATA: LazyLock<usize> = LazyLock::new(|| {
    let file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
    fs::write(file.path(), &*PACKED).unwrap();
    Checkpoint::open(file.path()).unwrap().packed().unwrap().runs[0].range.start as usize
});

fn opened(bytes: &[u8]) -> Result<Checkpoint> {
    let file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
    fs::write(file.path(), bytes).unwrap();
    Checkpoint::open(file.path())
}

#[track_caller]
fn refused(bytes: &[u8], words: &str) {
    let error = opened(bytes).err().expect("it opened");
    assert_eq!(error.exit_code(), 5, "{error}");
    assert!(error.to_string().contains(words) && error.to_string().contains(".gguf"), "{error}");
}

fn find(bytes: &[u8], text: &str) -> usize {
    bytes.windows(text.len()).position(|window| window == text.as_bytes()).expect(text)
}

/// Gives a changed header the hash it should have.
fn seal(bytes: &mut [u8]) {
    let name = "thermocline.header.sha256";
    let at = find(bytes, name) + name.len() + 4 + 4 + 8 + 8;
    bytes[at..at + 64].fill(b'0');
    let hash: String = Sha256::digest(&bytes[..*DATA]).iter().map(|b| format!("{b:02x}")).collect();
    bytes[at..at + 64].copy_from_slice(hash.as_bytes());
}

#[test]
fn truncated_files_are_refused() {
    let whole = &*PACKED;
    for cut in [0, 3, 40, 5000, *DATA - 1, *DATA, *DATA + 1, whole.len() / 2, whole.len() - 4096, whole.len() - 1] {
        let error = opened(&whole[..cut]).err().expect("it opened");
        assert_eq!(error.exit_code(), 5, "{cut}: {error}");
    }
    refused(&whole[..whole.len() - 1], "truncated");
    refused(&[whole, &[0u8; 7][..]].concat(), "expected");
}

#[test]
fn a_damaged_header_is_refused_wherever_it_is_damaged() {
    let mut seed = 11;
    for round in 0..400 {
        let at = ((tiny::uniform(&mut seed) + 1.0) / 2.0 * *DATA as f32) as usize % *DATA;
        let mut bytes = PACKED.clone();
        bytes[at] ^= 1 << (round % 8);
        let error = opened(&bytes).err().unwrap_or_else(|| panic!("byte {at} of the header does not matter"));
        assert_eq!(error.exit_code(), 5, "byte {at}: {error}");
    }
    let mut bytes = PACKED.clone();
    let name = "smallthinker";
    let at = find(&bytes, name);
    bytes[at] = b'X';
    refused(&bytes, "does not have the hash");
}

#[test]
fn another_layout_version_is_refused_by_name() {
    let mut bytes = PACKED.clone();
    let at = find(&bytes, "thermocline.layout_version") + "thermocline.layout_version".len() + 4;
    bytes[at] = 200;
    refused(&bytes, "layout version 200, this program reads version 1: pack it again");
}

/// A header whose hash is right is still not believed.
#[test]
fn a_lying_header_is_refused() {
    let change = |from: &str, to: &str, words: &str| {
        let mut bytes = PACKED.clone();
        let at = find(&bytes, from);
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        seal(&mut bytes);
        refused(&bytes, words);
    };
    change("lanes", "tiles", "cannot lie in the layout");
    change("lanes", "rains", "unknown layout");
    change("Q4_0", "Q4_9", "unknown format");
    change("Q4_0", "Q8_0", "expected");
    change("sigmoid", "digmoid", "expected softmax or sigmoid");
    change("by output", "by inputs", "thermocline.down");
    let mut counts = PACKED.clone();
    let at = find(&counts, "thermocline.expert_count") + "thermocline.expert_count".len() + 4;
    counts[at..at + 4].copy_from_slice(&4000u32.to_le_bytes());
    seal(&mut counts);
    refused(&counts, "expected a format and a layout for each of");
    // Sealed without a change it opens: the lies were what was refused.
    let mut same = PACKED.clone();
    seal(&mut same);
    assert!(same == *PACKED && opened(&same).is_ok());
}

#[test]
fn verify_names_the_damaged_run() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("packed.gguf");
    let mut bytes = PACKED.clone();
    let last = bytes.len() - 5000;
    bytes[last] ^= 4;
    fs::write(&path, &bytes).unwrap();
    let error = pack::verify(&path, &serial, &mut |_, _| {}).unwrap_err();
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("blk.1.expert.2") && error.to_string().contains("damaged"), "{error}");
    Tiny::wide().write_gguf(&path, Format::Q4_0);
    assert!(pack::verify(&path, &serial, &mut |_, _| {}).unwrap_err().to_string().contains("no packed file"));
}

#[test]
fn a_full_disk_is_said_before_anything_is_written() {
    let dir = TempDir::new().unwrap();
    let (source, to) = (dir.path().join("model.gguf"), dir.path().join("packed.gguf"));
    Tiny::wide().write_gguf(&source, Format::Q4_0);
    let options = PackOptions { free_bytes: |_| Ok(1_000_000), ..PackOptions::default() };
    let model = Checkpoint::open(&source).unwrap();
    let error = pack::pack(&model, &to, &options, &serial, &mut Silent).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("are needed there and 977 KiB are free"), "{error}");
    assert!(!to.exists() && !partial(&to).exists());
}

/// A limit on the size of files stands for a disk that fills up while it is written to.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let (source, to) = (dir.path().join("model.gguf"), dir.path().join("packed.gguf"));
    large().write_gguf(&source, Format::Q4_0);
    let program = std::env::current_exe().unwrap();
    let line =
        format!("trap '' XFSZ; ulimit -f 16000; exec '{}' --exact a_child_that_packs --nocapture", program.display());
    let mut command = Command::new("sh");
    command.args(["-c", &line]).env("PACK_FROM", &source).env("PACK_TO", &to);
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("cannot hold a file"), "{said}");
    assert!(!to.exists() && !partial(&to).exists());
}

#[test]
fn a_model_that_changes_meanwhile_is_not_kept() {
    let dir = TempDir::new().unwrap();
    let (source, to) = (dir.path().join("model.gguf"), dir.path().join("packed.gguf"));
    Tiny::wide().write_gguf(&source, Format::Q4_0);
    let model = Checkpoint::open(&source).unwrap();
    let mut touch = |event: &Event<'_>| {
        if matches!(event, Event::Bytes { .. }) {
            let file = fs::File::options().append(true).open(&source).unwrap();
            file.set_modified(std::time::SystemTime::now() + Duration::from_secs(9)).unwrap();
        }
    };
    let error = pack::pack(&model, &to, &PackOptions::default(), &serial, &mut touch).unwrap_err();
    assert!(error.to_string().contains("was changed while it was packed"), "{error}");
    assert!(!to.exists() && !partial(&to).exists());
}

#[test]
fn stopping_leaves_nothing() {
    struct Stopped;
    impl Progress for Stopped {
        fn event(&mut self, _: &Event<'_>) {}
        fn interrupted(&self) -> bool {
            true
        }
    }
    let dir = TempDir::new().unwrap();
    let (source, to) = (dir.path().join("model.gguf"), dir.path().join("packed.gguf"));
    Tiny::wide().write_gguf(&source, Format::Q4_0);
    let model = Checkpoint::open(&source).unwrap();
    let error = pack::pack(&model, &to, &PackOptions::default(), &serial, &mut Stopped).unwrap_err();
    assert!(matches!(error, Error::Interrupted));
    assert!(!to.exists() && !partial(&to).exists());
}

#[test]
fn a_weight_that_is_not_finite_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let tiny = Tiny::wide();
    tiny.write_folder(dir.path(), Format::F32);
    let file = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() - 4000;
    bytes[at / 4 * 4..at / 4 * 4 + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    let to = dir.path().join("packed.gguf");
    let options = PackOptions { quant: Some(Quant::Q4_0), ..PackOptions::default() };
    let model = Checkpoint::open(dir.path()).unwrap();
    let error = pack::pack(&model, &to, &options, &serial, &mut Silent).unwrap_err();
    assert!(error.exit_code() == 5 && error.to_string().contains("NaN"), "{error}");
    assert!(!to.exists() && !partial(&to).exists());
}

#[test]
fn what_an_earlier_attempt_left_is_overwritten() {
    let dir = TempDir::new().unwrap();
    let (source, to) = (dir.path().join("model.gguf"), dir.path().join("packed.gguf"));
    Tiny::wide().write_gguf(&source, Format::Q4_0);
    fs::write(partial(&to), vec![0xaau8; 9_000_000]).unwrap();
    pack(&source, &to).unwrap();
    assert!(fs::read(&to).unwrap() == *PACKED, "nothing of the leftover is in it");
}

/// About 30 MB: long enough to be killed in the midst of it.
fn large() -> Tiny {
    Tiny { layers: 4, width: 512, heads: 8, head_width: 64, experts: 8, neurons: 1024, ..Tiny::default() }
}

/// Not a test but the program the tests below start.
#[test]
fn a_child_that_packs() {
    let (Some(from), Some(to)) = (std::env::var_os("PACK_FROM"), std::env::var_os("PACK_TO")) else { return };
    if let Err(e) = pack(Path::new(&from), Path::new(&to)) {
        panic!("{e}");
    }
}

fn child(from: &Path, to: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_child_that_packs"]).env("PACK_FROM", from).env("PACK_TO", to);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn killed(rounds: usize) {
    let dir = TempDir::new().unwrap();
    let (source, to) = (dir.path().join("model.gguf"), dir.path().join("packed.gguf"));
    large().write_gguf(&source, Format::Q4_0);
    let (mut whole, mut expected) = (Duration::MAX, vec![]);
    for _ in 0..3 {
        let started = Instant::now();
        assert!(child(&source, &to).wait().unwrap().success());
        whole = whole.min(started.elapsed());
        expected = fs::read(&to).unwrap();
        fs::remove_file(&to).unwrap();
    }

    // Moments from the start to somewhat after the usual end.
    let (mut seed, mut finished, mut begun) = (whole.as_nanos() as u64, 0, 0);
    for round in 0..rounds {
        let mut child = child(&source, &to);
        let share = (tiny::uniform(&mut seed) + 1.0) / 2.0 * 1.4;
        std::thread::sleep(Duration::from_secs_f32(whole.as_secs_f32() * share));
        child.kill().unwrap(); // SIGKILL: no handler runs
        child.wait().unwrap();
        begun += usize::from(partial(&to).exists());
        if to.exists() {
            assert!(fs::read(&to).unwrap() == expected, "round {round}: a file that is not whole");
            pack::verify(&to, &serial, &mut |_, _| {}).unwrap();
            fs::remove_file(&to).unwrap();
            finished += 1;
        }
    }
    println!("{rounds} rounds: {finished} finished before, {begun} left a partial file");
    // Whatever was left, the next attempt is clean.
    pack(&source, &to).unwrap();
    assert!(fs::read(&to).unwrap() == expected && !partial(&to).exists());
}

#[test]
fn killed_at_any_moment_there_is_no_file_or_a_whole_one() {
    killed(6);
}

#[test]
#[ignore = "a hundred rounds take a minute"]
fn killed_a_hundred_times() {
    killed(100);
}

#[test]
fn several_processes_make_one_file() {
    let dir = TempDir::new().unwrap();
    let (source, to) = (dir.path().join("model.gguf"), dir.path().join("packed.gguf"));
    large().write_gguf(&source, Format::Q4_0);
    let children: Vec<Child> = (0..3).map(|_| child(&source, &to)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    pack::verify(&to, &serial, &mut |_, _| {}).unwrap();
    assert!(!partial(&to).exists());
}

/// Opens as a run would, and tells what was said.
fn by_itself(
    model: &Path,
    quant: Option<Quant>,
    folder: Option<&Path>,
    options: &PackOptions,
) -> (Checkpoint, Vec<String>) {
    let mut said = vec![];
    let mut hear = |event: &Event<'_>| match event {
        Event::Begin { .. } => said.push("begin".to_string()),
        Event::Note(note) => said.push(note.to_string()),
        _ => {}
    };
    let opened = pack::for_model(model, quant, folder, options, &serial, &mut hear).unwrap();
    (opened, said)
}

#[test]
fn models_are_packed_on_first_use_and_found_on_the_next() {
    let dir = TempDir::new().unwrap();
    let (source, folder) = (dir.path().join("model.gguf"), dir.path().join("cache"));
    Tiny::wide().write_gguf(&source, Format::Q4_0);
    let small = PackOptions::default();
    let (opened, said) = by_itself(&source, None, Some(&folder), &small);
    assert!(opened.packed().is_none() && said.is_empty() && !folder.exists(), "small models stay as they are");

    let all = PackOptions { smallest: 0, ..PackOptions::default() };
    let (first, said) = by_itself(&source, None, Some(&folder), &all);
    assert!(first.packed().is_some() && said == ["begin"]);
    let (again, said) = by_itself(&source, None, Some(&folder), &all);
    assert!(said.is_empty() && again.files() == first.files());
    let path = &first.files()[0].0;
    let (itself, said) = by_itself(path, None, Some(&folder), &all);
    assert!(said.is_empty() && itself.files() == first.files(), "a packed file is not packed");
    // Asked for something else, that is another file.
    let (rounded, said) = by_itself(&source, Some(Quant::Q8_0), Some(&folder), &all);
    assert!(said == ["begin"] && rounded.files() != first.files());

    // Damaged in the cache, it is made again.
    let mut bytes = fs::read(path).unwrap();
    bytes[300] ^= 1;
    fs::write(path, bytes).unwrap();
    let (mended, said) = by_itself(&source, None, Some(&folder), &all);
    assert!(mended.packed().is_some() && said.len() == 2 && said[0].ends_with("it is made again"), "{said:?}");

    let kept = cache::list(&folder).unwrap();
    assert_eq!(kept.len(), 2);
    assert!(kept.iter().all(|k| !k.is_stale()));
    // A changed model is another model.
    Tiny { seed: 2, ..Tiny::wide() }.write_gguf(&source, Format::Q4_0);
    let changed = fs::File::options().append(true).open(&source).unwrap();
    changed.set_modified(std::time::SystemTime::now() + Duration::from_secs(5)).unwrap();
    assert!(cache::list(&folder).unwrap().iter().all(|k| k.is_stale()));
    let (_, said) = by_itself(&source, None, Some(&folder), &all);
    assert!(said == ["begin"]);
    for kept in cache::list(&folder).unwrap().iter().filter(|k| k.is_stale()) {
        assert!(kept.remove().unwrap());
    }
    assert_eq!(cache::list(&folder).unwrap().len(), 1);
}

#[test]
fn where_nothing_can_be_kept_the_model_runs_as_it_lies() {
    let dir = TempDir::new().unwrap();
    let (source, folder) = (dir.path().join("model.gguf"), dir.path().join("cache"));
    Tiny::wide().write_gguf(&source, Format::Q4_0);
    let all = PackOptions { smallest: 0, ..PackOptions::default() };
    let full = PackOptions { free_bytes: |_| Ok(5), ..all.clone() };
    let (opened, said) = by_itself(&source, None, Some(&folder), &full);
    assert!(opened.packed().is_none());
    assert!(said.len() == 1 && said[0].contains("are free; the model runs from its own file"), "{said:?}");
    let (opened, said) = by_itself(&source, None, None, &all);
    assert!(opened.packed().is_none() && said[0].contains("THERMOCLINE_CACHE"), "{said:?}");
    // A file where the folder should be.
    let (opened, said) = by_itself(&source, None, Some(&source), &all);
    assert!(opened.packed().is_none() && said[0].contains("cannot be kept"), "{said:?}");
    // Nothing to gain: K formats have no faster layout, and floats that stay floats are not worth a second file.
    let floats = dir.path().join("floats.gguf");
    Tiny::wide().write_gguf(&floats, Format::BF16);
    let (opened, said) = by_itself(&floats, None, Some(&folder), &all);
    assert!(opened.packed().is_none() && said.is_empty());
    // Rounding has something to gain, and says what its absence costs.
    let (opened, said) = by_itself(&floats, Some(Quant::Q4_0), Some(&folder), &full);
    assert!(opened.packed().is_none() && said[0].contains("rounded at each start"), "{said:?}");
}

#[test]
fn abandoned_partial_files_are_tidied_away() {
    let dir = TempDir::new().unwrap();
    let (source, folder) = (dir.path().join("model.gguf"), dir.path().join("cache"));
    Tiny::wide().write_gguf(&source, Format::Q4_0);
    fs::create_dir(&folder).unwrap();
    let (dead, alive) = (folder.join("dead.gguf.partial"), folder.join("alive.gguf.partial"));
    fs::write(&dead, "x").unwrap();
    fs::write(&alive, "x").unwrap();
    let writer = fs::File::options().write(true).open(&alive).unwrap();
    writer.lock().unwrap();
    let kept = cache::list(&folder).unwrap();
    assert!(kept.len() == 2 && kept.iter().all(|k| k.is_stale()));
    let all = PackOptions { smallest: 0, ..PackOptions::default() };
    by_itself(&source, None, Some(&folder), &all);
    assert!(!dead.exists() && alive.exists());
    assert!(!cache::list(&folder).unwrap().iter().find(|k| k.path == alive).unwrap().remove().unwrap());
    drop(writer);
    assert!(cache::list(&folder).unwrap().iter().find(|k| k.path == alive).unwrap().remove().unwrap());
}
