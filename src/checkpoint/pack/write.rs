//! Making a packed file: convert a batch of runs, hash it, write it, next. Peak memory is one batch.

use super::header::{Facts, HEX};
use super::partial::Partial;
use super::plan::Plan;
use super::{Event, Progress, Source, hex};
use crate::checkpoint::convert::jobs::{Job, add_jobs, run};
use crate::checkpoint::convert::{SMALL_MODEL_BYTES, target};
use crate::checkpoint::hub::free_bytes;
use crate::checkpoint::{Checkpoint, Quant, Relay, Spread};
use crate::config::size;
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// Everything that packing may vary in.
#[derive(Clone, Debug)]
pub struct PackOptions {
    /// What weights are rounded to; `None`: as when the model is loaded.
    pub quant: Option<Quant>,
    /// Remembered in the file: how the cache finds it, and what it was made from.
    pub key: Option<String>,
    pub path: Option<PathBuf>,
    /// Models of fewer bytes are not packed by themselves: they are quick enough as they are.
    pub smallest: u64,
    /// Bytes that must stay free beside the file.
    pub spare: u64,
    /// Bytes a user may still write at a path (an existing one). A field so that a full disk can be tested.
    pub free_bytes: fn(&Path) -> io::Result<u64>,
}

impl Default for PackOptions {
    fn default() -> Self {
        PackOptions { quant: None, key: None, path: None, smallest: SMALL_MODEL_BYTES, spare: 0, free_bytes }
    }
}

/// A packed file that is in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    pub bytes: u64,
    pub seconds: f64,
}

/// Why there is no file: what a model can do without, or what it cannot.
pub(super) enum Stop {
    /// The disk is full, or may not be written to.
    Disk(String),
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(e: Error) -> Stop {
        Stop::Failed(e)
    }
}

/// Packs `source` to `target`, whose folder must exist; a file of that name is replaced when the new one is whole.
///
/// Errors: runtime where the disk is full or refuses, model where a weight is not finite or does not fit the format.
pub fn pack(
    source: &Checkpoint,
    target: &Path,
    options: &PackOptions,
    spread: &Spread<'_>,
    progress: &mut dyn Progress,
) -> Result<Made> {
    make(source, target, options, spread, progress).map_err(|stop| match stop {
        Stop::Disk(sentence) => Error::Runtime(sentence),
        Stop::Failed(e) => e,
    })
}

/// Converted at a time, at least.
const BATCH: u64 = 32 << 20;
/// Runs larger than this are converted in pieces of rows.
const SPLIT: u64 = 4 << 20;
/// What is assumed of a disk until it has shown its speed, in bytes per second.
const DISK: f64 = 500e6;

pub(super) fn make(
    source: &Checkpoint,
    target: &Path,
    options: &PackOptions,
    spread: &Spread<'_>,
    progress: &mut dyn Progress,
) -> Result<Made, Stop> {
    let started = Instant::now();
    let quant = options.quant.unwrap_or_else(|| Quant::default_for(source));
    let plan = plan(source, quant)?;
    let from = Source {
        name: source_name(source),
        container: source.container.clone(),
        bytes: source.files.iter().map(|(_, size)| size).sum(),
        sha256: String::new(),
        key: options.key.clone(),
        path: options.path.clone(),
    };
    let facts = Facts::of(source, &plan, quant.name(), &from)?;
    let blank = vec!["0".repeat(HEX); plan.runs.len()];
    let header = facts.bytes(&plan, &blank[0], &blank);
    let bytes = header.len() as u64 + plan.data_bytes;
    check_room(target, bytes, options)?;

    let disk = |doing: &str, e: io::Error| Stop::Disk(trouble(doing, target, bytes, &e));
    let mut said = false;
    let opened = Partial::open(target, || {
        if !std::mem::replace(&mut said, true) {
            progress.event(&Event::Waiting { to: target });
        }
        !progress.interrupted()
    });
    let (mut partial, waited) = opened.map_err(|e| match e.kind() {
        io::ErrorKind::Interrupted => Error::Interrupted.into(),
        _ => disk("be written", e),
    })?;
    if waited && let Some(made) = made_by_another(target, &facts, &plan) {
        return Ok(made);
    }

    let times = times(source);
    let units = units(source, &plan);
    let seconds = estimate(source, &plan, &units, bytes, spread)?;
    progress.event(&Event::Begin { name: &from.name, to: target, bytes, seconds });
    partial.write(&header).map_err(|e| disk("be written", e))?;
    let mut hashes = Hashes::new(plan.runs.len());
    let mut clock = Clock::new(bytes, header.len() as u64);
    let mut rest = &units[..];
    let mut buffer = vec![];
    while !rest.is_empty() {
        if progress.interrupted() {
            return Err(Error::Interrupted.into());
        }
        let (now, later) = rest.split_at(batch(rest));
        later[..batch(later)].iter().for_each(|unit| expect(source, &plan, unit));
        convert(source, &plan, now, &mut buffer, Some(&mut hashes), spread)?;
        partial.write(&buffer).map_err(|e| disk("be written", e))?;
        clock.add(buffer.len() as u64, progress);
        rest = later;
    }
    if times != self::times(source) {
        let name = &from.name;
        return Err(
            Error::Runtime(format!("{name} was changed while it was packed: nothing is kept; try again")).into()
        );
    }
    let (source_hash, runs) = hashes.finish();
    let header = facts.bytes(&plan, &source_hash, &runs);
    partial.finish(&header, target).map_err(|e| disk("be completed", e))?;
    let seconds = started.elapsed().as_secs_f64();
    progress.event(&Event::End { to: target, bytes, seconds });
    Ok(Made { bytes, seconds })
}

/// Every part in the form the kernels read fastest.
pub(super) fn plan(source: &Checkpoint, quant: Quant) -> Result<Plan> {
    let kind = |part| target(&source.stored(part), part, source.down, quant, Relay::All);
    let advice = if quant == Quant::None { "" } else { "; choose f16 or none" };
    Plan::new(&source.config, source.family, source.down, kind)
        .map_err(|e| Error::Model(format!("the model cannot be packed as {quant}: {e}{advice}")))
}

/// The last part of the path a model was opened by.
fn source_name(source: &Checkpoint) -> String {
    let (file, _) = &source.files[0];
    let of_folder = !source.is_gguf();
    let path = if of_folder { file.parent().unwrap_or(file) } else { file };
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    whole.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Sizes and times of the source's files, to notice a change.
fn times(source: &Checkpoint) -> Vec<Option<(u64, SystemTime)>> {
    let of = |path: &PathBuf| std::fs::metadata(path).ok().and_then(|meta| Some((meta.len(), meta.modified().ok()?)));
    source.files.iter().map(|(path, _)| of(path)).collect()
}

fn check_room(target: &Path, bytes: u64, options: &PackOptions) -> Result<(), Stop> {
    let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let free = (options.free_bytes)(folder)
        .map_err(|e| Stop::Disk(format!("{}: its free space cannot be asked: {e}", folder.display())))?;
    // What an earlier attempt left will be overwritten.
    let left = std::fs::metadata(super::partial::partial_path(target)).map_or(0, |meta| meta.len());
    let needed = bytes.saturating_add(options.spare);
    if free.saturating_add(left) < needed {
        return Err(Stop::Disk(format!(
            "{}: {} are needed there and {} are free",
            target.display(),
            size::shown(needed),
            size::shown(free)
        )));
    }
    Ok(())
}

fn trouble(doing: &str, target: &Path, bytes: u64, e: &io::Error) -> String {
    use io::ErrorKind::*;
    let why = match e.kind() {
        StorageFull | QuotaExceeded => format!("the disk is full ({} are needed)", size::shown(bytes)),
        FileTooLarge => format!("its file system cannot hold a file of {}", size::shown(bytes)),
        _ => e.to_string(),
    };
    format!("{} could not {doing}: {why}", target.display())
}

/// The file another process finished while we waited, when it is of the same model and plan.
fn made_by_another(target: &Path, facts: &Facts, plan: &Plan) -> Option<Made> {
    let found = Checkpoint::open(target).ok()?;
    let packed = found.packed()?;
    let runs: Vec<String> = packed.runs.iter().map(|run| run.sha256.clone()).collect();
    let same = runs.len() == plan.runs.len() && {
        let expected = facts.bytes(plan, &packed.source.sha256, &runs);
        found.file_bytes(0, 0..(expected.len() as u64).min(found.files[0].1)) == expected
    };
    same.then(|| Made { bytes: found.files[0].1, seconds: 0.0 })
}

/// What is converted at once at the least: some rows of a large matrix, or a whole run.
struct Unit {
    run: usize,
    /// From the start of the data; the rest of the last page included.
    span: Range<u64>,
    /// Bytes that belong to the run.
    bytes: u64,
    /// Piece of the run, its rows, and where they begin in the unit.
    rows: Vec<(usize, Range<usize>, u64)>,
}

fn units(source: &Checkpoint, plan: &Plan) -> Vec<Unit> {
    let mut units = vec![];
    for (i, run) in plan.runs.iter().enumerate() {
        let next = plan.runs.get(i + 1).map_or(plan.data_bytes, |next| next.offset);
        let [piece] = &run.pieces[..] else {
            let rows = run.pieces.iter().enumerate().map(|(p, piece)| (p, 0..piece.rows, piece.offset)).collect();
            units.push(Unit { run: i, span: run.offset..next, bytes: run.bytes, rows });
            continue;
        };
        let row_bytes = piece.bytes / piece.rows as u64;
        let by_rows = piece.form.by_rows() && source.stored(piece.part).form.by_rows();
        let step = if by_rows { (SPLIT / row_bytes).max(1) as usize } else { piece.rows };
        for first in (0..piece.rows).step_by(step) {
            let rows = first..(first + step).min(piece.rows);
            let start = run.offset + first as u64 * row_bytes;
            let bytes = rows.len() as u64 * row_bytes;
            let end = if rows.end == piece.rows { next } else { start + bytes };
            units.push(Unit { run: i, span: start..end, bytes, rows: vec![(0, rows, 0)] });
        }
    }
    units
}

/// How many of the first units make a batch.
fn batch(units: &[Unit]) -> usize {
    let Some(first) = units.first() else { return 0 };
    let start = first.span.start;
    let enough = units.iter().position(|unit| unit.span.end - start >= BATCH);
    enough.map_or(units.len(), |last| last + 1)
}

/// Has the system fetch the source of a unit while another is converted.
fn expect(source: &Checkpoint, plan: &Plan, unit: &Unit) {
    for (piece, rows, _) in &unit.rows {
        let part = plan.runs[unit.run].pieces[*piece].part;
        let each = source.stored(part).row_bytes();
        source.expect(part, rows.start * each..rows.end * each);
    }
}

/// SHA-256 of each run, and of the source bytes behind it, as they grow.
struct Hashes(Vec<Mutex<[Sha256; 2]>>);

impl Hashes {
    fn new(runs: usize) -> Hashes {
        Hashes((0..runs).map(|_| Mutex::new([Sha256::new(), Sha256::new()])).collect())
    }

    /// Lets `feed` add to both hashes of each run in `batch`, several runs at a time, each unit in order.
    fn feed(&mut self, batch: &[Unit], spread: &Spread<'_>, which: usize, feed: impl Fn(usize, &mut Sha256) + Sync) {
        let first = batch[0].run;
        let runs = batch[batch.len() - 1].run + 1 - first;
        spread(runs, &|i| {
            let mut both = self.0[first + i].lock().expect("nothing panics while holding it");
            for (u, _) in batch.iter().enumerate().filter(|(_, unit)| unit.run == first + i) {
                feed(u, &mut both[which]);
            }
        });
    }

    /// The hash of the source's, and that of each run.
    fn finish(self) -> (String, Vec<String>) {
        let (mut source, mut runs) = (Sha256::new(), vec![]);
        for both in self.0 {
            let [from, run] = both.into_inner().expect("nothing panics while holding it");
            source.update(from.finalize());
            runs.push(hex(&run.finalize()));
        }
        (hex(&source.finalize()), runs)
    }
}

/// Fills `buffer` with the bytes of some units.
fn convert(
    source: &Checkpoint,
    plan: &Plan,
    batch: &[Unit],
    buffer: &mut Vec<u8>,
    mut hashes: Option<&mut Hashes>,
    spread: &Spread<'_>,
) -> Result<()> {
    if let Some(hashes) = &mut hashes {
        hashes.feed(batch, spread, 0, |u, hash| {
            for (piece, rows, _) in &batch[u].rows {
                let stored = source.stored(plan.runs[batch[u].run].pieces[*piece].part);
                let each = stored.row_bytes();
                hash.update(&stored.bytes[rows.start * each..rows.end * each]);
            }
        });
    }
    let start = batch[0].span.start;
    buffer.clear();
    buffer.resize((batch[batch.len() - 1].span.end - start) as usize, 0);
    let mut jobs: Vec<Job<'_>> = vec![];
    let (mut rest, mut at) = (&mut buffer[..], start);
    for unit in batch {
        for (piece, rows, offset) in &unit.rows {
            let piece = &plan.runs[unit.run].pieces[*piece];
            let bytes = piece.bytes / piece.rows as u64 * rows.len() as u64;
            let begin = unit.span.start + offset;
            let (_, from) = std::mem::take(&mut rest).split_at_mut((begin - at) as usize);
            let (to, after) = from.split_at_mut(bytes as usize);
            (rest, at) = (after, begin + bytes);
            add_jobs(&mut jobs, source, piece.part, rows.clone(), (piece.format, piece.form), to);
        }
    }
    run(source, &jobs, spread)?;
    drop(jobs);
    if let Some(hashes) = hashes {
        let written = &buffer[..];
        hashes.feed(batch, spread, 1, |u, hash| {
            let from = (batch[u].span.start - start) as usize;
            hash.update(&written[from..from + batch[u].bytes as usize]);
        });
    }
    Ok(())
}

/// Seconds that packing will take, from the time of a few experts.
fn estimate(source: &Checkpoint, plan: &Plan, units: &[Unit], bytes: u64, spread: &Spread<'_>) -> Result<f64> {
    let sample = &units[units.len() - units.len().min(8)..];
    let sample = &sample[..batch(sample)];
    let started = Instant::now();
    let mut buffer = vec![];
    convert(source, plan, sample, &mut buffer, Some(&mut Hashes::new(plan.runs.len())), spread)?;
    let rate = started.elapsed().as_secs_f64() / buffer.len() as f64;
    Ok(bytes as f64 * (rate + 1.0 / DISK))
}

/// Says how far it is, a few times a second.
struct Clock {
    started: Instant,
    said: Option<Instant>,
    done: u64,
    bytes: u64,
}

impl Clock {
    const BETWEEN: Duration = Duration::from_millis(100);

    fn new(bytes: u64, done: u64) -> Clock {
        Clock { started: Instant::now(), said: None, done, bytes }
    }

    fn add(&mut self, bytes: u64, progress: &mut dyn Progress) {
        self.done += bytes;
        if self.done < self.bytes && self.said.is_some_and(|said| said.elapsed() < Self::BETWEEN) {
            return;
        }
        self.said = Some(Instant::now());
        let each = self.started.elapsed().as_secs_f64() / self.done as f64;
        let seconds_left = (self.done > BATCH).then(|| each * (self.bytes - self.done) as f64);
        progress.event(&Event::Bytes { done: self.done, bytes: self.bytes, seconds_left });
    }
}
