//! The seeds of fuzz/, each through its door: what libFuzzer starts from holds without libFuzzer too. `scripts/fuzz` goes on
//! from there.
#![allow(unsafe_code, reason = "an allocator that watches the sizes asked for")]

#[allow(dead_code, reason = "targets use what this does not")]
#[path = "../fuzz/src/doors/mod.rs"]
mod doors;
mod tiny;
#[path = "../fuzz/src/watch.rs"]
mod watch;

use std::path::{Path, PathBuf};

fn seeds() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds")
}

fn names(folder: &Path) -> Vec<String> {
    let list = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut names: Vec<String> = list.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// One test, since memory is watched for the whole process.
#[test]
fn every_seed_passes_its_door() {
    let mut doors: Vec<&str> = doors::ALL.iter().map(|(name, _)| *name).collect();
    doors.sort();
    assert_eq!(names(&seeds()), doors, "a folder of seeds for each door");
    for (name, door) in doors::ALL {
        let folder = seeds().join(name);
        for seed in names(&folder) {
            println!("{name}/{seed}");
            door(&std::fs::read(folder.join(seed)).unwrap());
        }
    }
}

/// Makes the seeds that are no text: headers of a small model, whole, without the weights behind them.
#[test]
#[ignore = "writes into fuzz/seeds"]
fn binary_seeds() {
    use kernels::Format;
    use thermocline::checkpoint::Checkpoint;
    use thermocline::checkpoint::pack::{self, PackOptions, Silent};
    let model = tiny::Tiny { vocab: 288, window: Some(16), ..tiny::Tiny::default() };
    let folder = tempfile::tempdir().unwrap();
    let path = model.write_gguf(&folder.path().join("tiny.gguf"), Format::Q8_0);
    let written = |path: &Path, unit: usize| {
        let bytes = std::fs::read(path).unwrap();
        let checkpoint = Checkpoint::open(path).unwrap();
        let data = checkpoint.parts().map(|part| checkpoint.place(part).1.start).min().unwrap() as usize;
        // Without the rest of its last page, which whoever reads it puts there again.
        let end = bytes[..data].iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let end = (end + 8).min(data); // the last offset may end in zeros
        let zeros = if unit == 1 { bytes.len() - end } else { (bytes.len() - data) / unit };
        [&(zeros as u32).to_le_bytes(), &bytes[..end]].concat()
    };
    std::fs::write(seeds().join("gguf/tiny"), written(&path, 1)).unwrap();
    let packed = folder.path().join("packed.gguf");
    let source = Checkpoint::open(&path).unwrap();
    let serial = |n: usize, job: &(dyn Fn(usize) + Sync)| (0..n).for_each(job);
    pack::pack(&source, &packed, &PackOptions::default(), &serial, &mut Silent).unwrap();
    std::fs::write(seeds().join("packed/tiny"), written(&packed, 4096)).unwrap();
}
