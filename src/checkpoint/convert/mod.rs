//! Weights as the engine computes with them: mapped as they lie, or rounded while they are read.
//!
//! Rounding goes job by job (some rows of one tensor, or one `down` where it is re-laid) from the map into one arena, and
//! lets the source pages go at once: peak memory is the result and what the threads have in hand.

mod finite;
pub(super) mod jobs;

use super::catalogue::part_bytes;
use super::{Checkpoint, DownOrder, Form, Kind, Part, Reader, Stored};
use crate::config::Config;
use crate::config::size::shown;
use crate::error::{Error, Result};
use jobs::{Job, add_jobs, run};
use kernels::{Format, Rows, Tiles};
use memmap2::MmapMut;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

/// Runs a job for each index below a count, on as many threads as it likes, and returns when all are done.
pub type Spread<'a> = dyn Fn(usize, &(dyn Fn(usize) + Sync)) + 'a;

/// What weights are rounded to while loading. Norms and routers are f32 whatever is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum Quant {
    Q4_0,
    Q8_0,
    F16,
    /// As stored.
    None,
}

/// Models below this are quick enough as they are.
pub(super) const SMALL_MODEL_BYTES: u64 = 64_000_000;

impl Quant {
    pub const ALL: [Quant; 4] = [Quant::Q4_0, Quant::Q8_0, Quant::F16, Quant::None];

    /// The spelling on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Quant::Q4_0 => "q4_0",
            Quant::Q8_0 => "q8_0",
            Quant::F16 => "f16",
            Quant::None => "none",
        }
    }

    /// Four bits for large models of floats; small ones, and GGUF files, as stored.
    pub fn default_for(checkpoint: &Checkpoint) -> Quant {
        if checkpoint.is_gguf() || checkpoint.weight_bytes() < SMALL_MODEL_BYTES { Quant::None } else { Quant::Q4_0 }
    }

    /// The format of matrices, unless they stay as stored.
    pub(super) fn format(self) -> Option<Format> {
        match self {
            Quant::Q4_0 => Some(Format::Q4_0),
            Quant::Q8_0 => Some(Format::Q8_0),
            Quant::F16 => Some(Format::F16),
            Quant::None => None,
        }
    }
}

impl FromStr for Quant {
    type Err = Error;

    fn from_str(text: &str) -> Result<Quant> {
        Quant::ALL.into_iter().find(|q| q.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let choices = Quant::ALL.map(Quant::name).join(", ");
            Error::Usage(format!("unknown quantisation {text:?}: expected one of {choices}"))
        })
    }
}

impl fmt::Display for Quant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether matrices are re-laid in memory for faster kernels. The numbers, and the bits of every result, are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Relay {
    /// Never: everything lies as in files.
    Never,
    /// Those that are rounded while loading, since they are written anyway.
    #[default]
    Rounded,
    /// Every matrix that has such a layout: mapped ones are copied into memory.
    All,
}

/// Where one part's numbers are.
#[derive(Clone, Debug)]
struct Place {
    kind: Kind,
    lies: Lies,
}

#[derive(Clone, Debug)]
enum Lies {
    /// In the mapped file.
    Map,
    /// In memory of our own.
    Arena(Range<usize>),
    /// In the file alone: rows are read as they are asked for.
    File,
    /// On an accelerator: [`Weights::lend`] gives the bytes to carry there.
    Away,
}

impl Place {
    fn arena(&self) -> Option<&Range<usize>> {
        match &self.lies {
            Lies::Arena(range) => Some(range),
            _ => None,
        }
    }
}

/// What the weights of a model take, in bytes: computed from headers, before anything is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Used as they lie in mapped files, a shared head once; and what lies with it in the same pages.
    pub mapped: u64,
    pub edges: u64,
    /// In memory of our own.
    pub owned: u64,
    /// What [`Weights::load_dense`] takes in memory of our own; `None` where experts would have to be rounded.
    pub dense: Option<u64>,
}

/// All weights of a model, ready to compute with.
pub struct Weights {
    checkpoint: Arc<Checkpoint>,
    arena: Arc<Arena>,
    /// By `Config::part_index`.
    places: Vec<Place>,
    mapped_bytes: u64,
    /// What is read row by row.
    on_disk: Option<Arc<Reader>>,
}

/// One matrix of the loaded weights (a norm is one row). Cheap to clone; keeps the weights alive.
#[derive(Clone)]
pub struct Matrix {
    checkpoint: Arc<Checkpoint>,
    arena: Arc<Arena>,
    part: Part,
    place: Place,
    on_disk: Option<Arc<Reader>>,
}

/// Memory for what is rounded: pages of zeros until they are written, huge ones where the system has them, since those
/// read faster.
struct Arena(Option<MmapMut>);

impl Arena {
    /// `bytes` of memory, aligned to a page.
    fn new(bytes: usize) -> Result<Arena> {
        if bytes == 0 {
            return Ok(Arena(None));
        }
        let map = MmapMut::map_anon(bytes)
            .map_err(|e| Error::Memory(format!("no memory for {} of weights: {e}", shown(bytes as u64))))?;
        #[cfg(target_os = "linux")]
        // Advice only: where it is refused, reading is a little slower.
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Arena(Some(map)))
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl Weights {
    /// Loads every part, rounded to `quant` (`None`: [`Quant::default_for`]).
    ///
    /// `progress(done, total)` counts bytes of the files while weights are converted or copied; it is not called when all
    /// stay as they lie. Fails where rows are no whole blocks of the chosen format, where a weight is not finite or too large for
    /// it, and where memory is short.
    pub fn load(
        checkpoint: Arc<Checkpoint>,
        quant: Option<Quant>,
        relay: Relay,
        spread: &Spread<'_>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Weights> {
        Weights::load_beside(checkpoint, quant, relay, &Beside::default(), spread, progress)
    }

    /// Loads what is neither read as it is needed nor lies elsewhere.
    pub fn load_beside(
        checkpoint: Arc<Checkpoint>,
        quant: Option<Quant>,
        relay: Relay,
        beside: &Beside<'_>,
        spread: &Spread<'_>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Weights> {
        let (places, size) = plan(&checkpoint, quant, relay, beside)?;
        let mut weights = Weights::fill(checkpoint, places, size, spread, progress)?;
        let embedding = &weights.places[index(&weights.checkpoint.config, Part::Embedding)];
        if matches!(embedding.lies, Lies::File) {
            let (file, _) = weights.checkpoint.place(Part::Embedding);
            weights.on_disk = Some(Arc::new(weights.checkpoint.buffered(file)?));
        }
        if beside.experts_read {
            weights.mapped_bytes = 0;
            weights.checkpoint.release_all();
        }
        Ok(weights)
    }

    /// Loads every part outside the experts into memory of our own, for a store that reads experts as they are needed; an
    /// embedding that is no head stays in its file, and its rows are read one by one. Nothing stays mapped in memory.
    ///
    /// Fails as [`Weights::load`] does, and where experts would have to be rounded.
    pub fn load_dense(
        checkpoint: Arc<Checkpoint>,
        quant: Option<Quant>,
        relay: Relay,
        spread: &Spread<'_>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Weights> {
        let beside = Beside { experts_read: true, ..Beside::default() };
        Weights::load_beside(checkpoint, quant, relay, &beside, spread, progress)
    }

    fn fill(
        checkpoint: Arc<Checkpoint>,
        places: Vec<Place>,
        size: usize,
        spread: &Spread<'_>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Weights> {
        let mut arena = Arena::new(size)?;
        if let Some(map) = &mut arena.0 {
            fill(&checkpoint, &places, map, spread, progress)?;
        }
        let mapped = |part: &Part| matches!(places[index(&checkpoint.config, *part)].lies, Lies::Map);
        let own_head = |part: &Part| !(checkpoint.config.tied && *part == Part::Head);
        let bytes = |part| checkpoint.stored(part).bytes.len() as u64;
        let mapped_bytes = checkpoint.parts().filter(mapped).filter(own_head).map(bytes).sum();
        Ok(Weights { checkpoint, arena: Arc::new(arena), places, mapped_bytes, on_disk: None })
    }

    /// The files the weights come from.
    pub fn checkpoint(&self) -> &Arc<Checkpoint> {
        &self.checkpoint
    }

    /// What [`Weights::load_beside`] would take, with and without the experts that do not lie `away`.
    pub fn sizes(
        checkpoint: &Checkpoint,
        quant: Option<Quant>,
        relay: Relay,
        away: Option<&dyn Fn(Part) -> bool>,
    ) -> Result<Sizes> {
        const PAGE: u64 = 4096;
        let config = &checkpoint.config;
        let (places, owned) = plan(checkpoint, quant, relay, &Beside { experts_read: false, away })?;
        let dense = match plan(checkpoint, quant, relay, &Beside { experts_read: true, away }) {
            Ok((_, bytes)) => Some(bytes as u64),
            Err(Error::Usage(_)) => None,
            Err(other) => return Err(other),
        };
        let mut sizes = Sizes { owned: owned as u64, dense, ..Sizes::default() };
        for part in checkpoint.parts().filter(|part| !(config.tied && *part == Part::Head)) {
            let place = &places[index(config, part)];
            if matches!(place.lies, Lies::Map) {
                sizes.mapped += place.kind.bytes() as u64;
                sizes.edges += PAGE;
            }
        }
        let files: u64 = checkpoint.files().iter().map(|(_, size)| size.next_multiple_of(PAGE)).sum();
        sizes.edges = sizes.edges.min(files.saturating_sub(sizes.mapped));
        Ok(sizes)
    }

    /// Bytes that [`Weights::lock`] pins: whole pages, and whole files.
    pub fn lockable_bytes(&self, mapped: bool) -> u64 {
        const PAGE: u64 = 4096;
        let files = self.checkpoint.files().iter().map(|(_, size)| size.next_multiple_of(PAGE)).sum();
        self.owned_bytes().next_multiple_of(PAGE) + if mapped { files } else { 0 }
    }

    /// Pins the weights in memory, those in files too if they are `mapped` for use. Errors as the system gives them.
    pub fn lock(&self, mapped: bool) -> std::io::Result<()> {
        if let Some(arena) = &self.arena.0 {
            arena.lock()?;
        }
        if mapped { self.checkpoint.lock() } else { Ok(()) }
    }

    /// One part. Panics for a layer or expert the config does not have.
    pub fn matrix(&self, part: Part) -> Matrix {
        let place = self.places[index(&self.checkpoint.config, part)].clone();
        let on_disk = self.on_disk.clone().filter(|_| matches!(place.lies, Lies::File));
        Matrix { checkpoint: self.checkpoint.clone(), arena: self.arena.clone(), part, place, on_disk }
    }

    /// What each part will be once it is loaded, by `Config::part_index`.
    pub fn kinds(checkpoint: &Checkpoint, quant: Option<Quant>, relay: Relay) -> Result<Vec<Kind>> {
        let (places, _) = plan(checkpoint, quant, relay, &Beside::default())?;
        Ok(places.into_iter().map(|place| place.kind).collect())
    }

    /// A part that lies away as it could be used from its file; `None` where it was converted.
    pub fn as_stored(&self, part: Part) -> Option<Matrix> {
        let kind = self.kind(part);
        let stored = self.checkpoint.stored(part);
        ((kind.format, kind.form) == (stored.format, stored.form)).then(|| Matrix {
            checkpoint: self.checkpoint.clone(),
            arena: self.arena.clone(),
            part,
            place: Place { kind, lies: Lies::Map },
            on_disk: None,
        })
    }

    /// The bytes of a part that lies away, converted if need be; to be followed by [`Weights::release`].
    pub fn lend(&self, part: Part) -> Result<Cow<'_, [u8]>> {
        let (stored, place) = (self.checkpoint.stored(part), &self.places[index(&self.checkpoint.config, part)]);
        let Kind { format, form, rows, .. } = place.kind;
        if (format, form) == (stored.format, stored.form) {
            return Ok(Cow::Borrowed(stored.bytes));
        }
        let mut bytes = vec![0u8; place.kind.bytes()];
        let mut jobs = vec![];
        add_jobs(&mut jobs, &self.checkpoint, part, 0..rows, (format, form), &mut bytes);
        run(&self.checkpoint, &jobs, &|n, job| (0..n).for_each(job))?;
        drop(jobs);
        Ok(Cow::Owned(bytes))
    }

    /// What the bytes of a part are, wherever they lie.
    pub fn kind(&self, part: Part) -> Kind {
        self.places[index(&self.checkpoint.config, part)].kind
    }

    /// Lets the pages of a part that was lent go from this process's memory.
    pub fn release(&self, part: Part) {
        self.checkpoint.release_range(part, 0..self.checkpoint.stored(part).bytes.len());
    }

    /// How `down` matrices lie, unless they are re-laid ([`Matrix::tiles`]).
    pub fn down(&self) -> DownOrder {
        self.checkpoint.down
    }

    /// Bytes of weights in memory of our own.
    pub fn owned_bytes(&self) -> u64 {
        self.arena.bytes().len() as u64
    }

    /// Bytes of weights read straight from mapped files, a shared head once.
    pub fn mapped_bytes(&self) -> u64 {
        self.mapped_bytes
    }
}

impl Matrix {
    /// The rows. Panics where the matrix is re-laid by neuron: ask [`Matrix::tiles`] and [`Matrix::neurons`] first for a
    /// `down`.
    pub fn rows(&self) -> Rows<'_> {
        self.place.kind.view(self.bytes())
    }

    /// A `down` that is re-laid by neuron with its scales in place.
    pub fn tiles(&self) -> Option<Tiles<'_>> {
        self.place.kind.tiles(self.bytes())
    }

    /// A `down` of floats that is turned round: one row of outputs for each neuron.
    pub fn neurons(&self) -> Option<Rows<'_>> {
        self.place.kind.neurons(self.bytes())
    }

    pub fn kind(&self) -> Kind {
        self.place.kind
    }

    pub fn format(&self) -> Format {
        self.place.kind.format
    }

    pub fn form(&self) -> Form {
        self.place.kind.form
    }

    /// How many rows the matrix has in its file.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.place.kind.rows
    }

    /// Weights in a row, in its file.
    pub fn width(&self) -> usize {
        self.place.kind.width
    }

    /// The numbers of one row as f32; `out` has the width. Errors where the row has to be read and cannot be.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let Some(reader) = &self.on_disk else {
            self.rows().decode_row(row, out);
            return Ok(());
        };
        let len = self.place.kind.row_bytes();
        let mut bytes = vec![0u8; len];
        let offset = self.checkpoint.place(self.part).1.start + (row * len) as u64;
        let what = || {
            let (file, name) = (reader.path().display(), self.checkpoint.tensor_name(self.part));
            format!("{file}: row {row} of tensor {name} ({len} bytes from byte {offset})")
        };
        match reader.read(offset, &mut bytes) {
            Ok(n) if n == len => self.place.kind.view(&bytes).decode_row(0, out),
            Ok(_) => return Err(Error::Runtime(format!("{} is not there: the file was cut short meanwhile", what()))),
            Err(e) => return Err(Error::Runtime(format!("{} cannot be read: {e}", what()))),
        }
        Ok(())
    }

    /// Lets the pages of a matrix that is used where it lies in its file go from this process's memory.
    pub fn release(&self) {
        if let Lies::Map = self.place.lies {
            self.checkpoint.release_range(self.part, 0..self.place.kind.bytes());
        }
    }

    /// Where the numbers lie. Panics for an embedding that stays in its file: ask for its rows.
    pub fn bytes(&self) -> &[u8] {
        match &self.place.lies {
            Lies::Arena(range) => &self.arena.bytes()[range.clone()],
            Lies::Map => self.checkpoint.stored(self.part).bytes,
            Lies::File => panic!("{:?} stays in its file", self.part),
            Lies::Away => panic!("{:?} lies on an accelerator", self.part),
        }
    }
}

fn index(config: &Config, part: Part) -> usize {
    config.part_index(part).unwrap_or_else(|| panic!("{part:?} is not a part of this model"))
}

/// A boundary that no load of 64 bytes crosses.
const ALIGNMENT: usize = 64;

/// What is not loaded.
#[derive(Clone, Copy, Default)]
pub struct Beside<'a> {
    /// Experts are read by a store as they are needed, and nothing stays mapped in memory.
    pub experts_read: bool,
    /// Parts that lie on an accelerator.
    pub away: Option<&'a dyn Fn(Part) -> bool>,
}

/// Where each part will be, and the size of the arena. `quant` as for [`Weights::load`].
fn plan(
    checkpoint: &Checkpoint,
    quant: Option<Quant>,
    relay: Relay,
    beside: &Beside<'_>,
) -> Result<(Vec<Place>, usize)> {
    let (read, away) = (beside.experts_read, |part| beside.away.is_some_and(|away| away(part)));
    let config = &checkpoint.config;
    let quant = quant.unwrap_or_else(|| Quant::default_for(checkpoint));
    let mut places: Vec<Option<Place>> = vec![None; config.part_count()];
    let mut size = 0usize;
    for part in config.parts() {
        let place = if part == Part::Head && config.tied && !away(part) {
            places[index(config, Part::Embedding)].clone().expect("the embedding comes first")
        } else {
            let stored = checkpoint.stored(part);
            let relay = if read { Relay::Rounded } else { relay };
            let (format, form) = target(&stored, part, checkpoint.down, quant, relay);
            let same = (format, form) == (stored.format, stored.form);
            let kind = Kind { format, form, rows: stored.rows, width: stored.width };
            // Rows of an embedding that is no head here are read one by one.
            let by_row = if config.tied { away(Part::Head) } else { read };
            let lies = match (read, part) {
                _ if away(part) => Lies::Away,
                (true, Part::Gate(..) | Part::Up(..) | Part::Down(..)) if same => Lies::Map,
                (true, Part::Gate(..) | Part::Up(..) | Part::Down(..)) => {
                    return Err(read_as_stored(checkpoint, part, quant));
                }
                (_, Part::Embedding) if same && by_row => Lies::File,
                (false, _) if same => Lies::Map,
                _ => {
                    let bytes = part_bytes(config, part, checkpoint.down, format).map_err(|e| {
                        let name = checkpoint.tensor_name(part);
                        Error::Model(format!("tensor {name} cannot be rounded to {quant}: {e}; choose f16 or none"))
                    })?;
                    let end = usize::try_from(bytes).ok().and_then(|bytes| size.checked_add(bytes));
                    let end = end.ok_or_else(|| Error::Memory("the weights do not fit in any memory".into()))?;
                    let range = size..end;
                    size = end.next_multiple_of(ALIGNMENT);
                    Lies::Arena(range)
                }
            };
            Place { kind, lies }
        };
        places[index(config, part)] = Some(place);
    }
    Ok((places.into_iter().map(|p| p.expect("parts() yields every index")).collect(), size))
}

/// Why experts cannot be read as they are needed.
fn read_as_stored(checkpoint: &Checkpoint, part: Part, quant: Quant) -> Error {
    Error::Usage(format!(
        "{}: experts that do not all fit in memory are read from the file as they are stored, but tensor {} is {} and would \
         have to be rounded to {quant} each time; pack the model first (`thermocline pack`, or no --no-pack), or choose \
         --quant none",
        checkpoint.file_of(part).display(),
        checkpoint.tensor_name(part),
        checkpoint.stored(part).format,
    ))
}

/// The format and form one part is loaded in.
pub(super) fn target(stored: &Stored<'_>, part: Part, down: DownOrder, quant: Quant, relay: Relay) -> (Format, Form) {
    let format = match quant.format() {
        _ if part.stays_f32() => Format::F32,
        Some(format) => format,
        None => stored.format,
    };
    let rounded = format != stored.format;
    let relaid = match relay {
        Relay::Never => false,
        Relay::Rounded => rounded,
        Relay::All => true,
    };
    // What a packed file has re-laid already stays so.
    let form = match (relaid, rounded) {
        (true, _) => Form::fastest(part, down, format),
        (false, true) => Form::FILE,
        (false, false) => stored.form,
    };
    (format, form)
}

/// Parts fetched ahead of their turn: about two batches of jobs, where a part is an expert's matrix.
const AHEAD: usize = 32;
/// Jobs run at a time: enough to keep every thread busy, and a step of progress after each batch.
const BATCH: usize = 64;

/// Writes every part that has a place in the arena. Parts are taken in the order of the plan, which is that of the arena.
fn fill(
    checkpoint: &Checkpoint,
    places: &[Place],
    arena: &mut [u8],
    spread: &Spread<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let config = &checkpoint.config;
    let own = |part: &Part| !(config.tied && *part == Part::Head);
    let parts: Vec<Part> =
        checkpoint.parts().filter(own).filter(|part| places[index(config, *part)].arena().is_some()).collect();
    let size = |part: &Part| checkpoint.stored(*part).bytes.len() as u64;
    let total: u64 = parts.iter().map(size).sum();
    let (mut done, mut rest, mut at) = (0, arena, 0);
    let mut jobs: Vec<Job<'_>> = vec![];
    let expect = |part: &Part| checkpoint.expect(*part, 0..checkpoint.stored(*part).bytes.len());
    parts.iter().take(AHEAD).for_each(expect);
    for (i, part) in parts.iter().enumerate() {
        let place = &places[index(config, *part)];
        let range = place.arena().cloned().expect("filtered above");
        let (_, from) = std::mem::take(&mut rest).split_at_mut(range.start - at);
        let (to, after) = from.split_at_mut(range.len());
        (rest, at) = (after, range.end);
        let Kind { format, form, rows, .. } = place.kind;
        add_jobs(&mut jobs, checkpoint, *part, 0..rows, (format, form), to);
        parts.get(i + AHEAD).into_iter().for_each(expect);
        done += size(part);
        if jobs.len() >= BATCH || i + 1 == parts.len() {
            run(checkpoint, &jobs, spread)?;
            jobs.clear();
            progress(done, total);
        }
    }
    Ok(())
}
