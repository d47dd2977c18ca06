//! Converting some rows of a part: decode, check, encode, re-lay. One job is one thread's.

use super::Spread;
use crate::checkpoint::{Checkpoint, Form, Part};
use crate::error::{Error, Result};
use kernels::Format;
use std::ops::Range;
use std::sync::Mutex;

/// About this many weights make a job: enough to forget the cost of handing it out, few enough to share evenly.
pub(super) const JOB_WEIGHTS: usize = 1 << 18;

/// Some rows of one part, what they become, and the memory they go to.
pub(in crate::checkpoint) struct Job<'a> {
    part: Part,
    rows: Range<usize>,
    format: Format,
    form: Form,
    to: Mutex<&'a mut [u8]>,
}

/// Cuts the conversion of some rows of `part` into jobs. `to` holds these rows in `format`; forms that mix rows are asked
/// for whole matrices only.
pub(in crate::checkpoint) fn add_jobs<'a>(
    jobs: &mut Vec<Job<'a>>,
    checkpoint: &Checkpoint,
    part: Part,
    rows: Range<usize>,
    (format, form): (Format, Form),
    to: &'a mut [u8],
) {
    let stored = checkpoint.stored(part);
    let whole = !(form.by_rows() && stored.form.by_rows());
    assert!(!whole || rows == (0..stored.rows), "{part:?} is converted as a whole");
    let step = if whole { stored.rows } else { (JOB_WEIGHTS / stored.width).max(1) };
    let row_bytes = to.len() / rows.len();
    for (i, to) in to.chunks_mut(step * row_bytes).enumerate() {
        let first = rows.start + i * step;
        let rows = first..first + to.len() / row_bytes;
        jobs.push(Job { part, rows, format, form, to: Mutex::new(to) });
    }
}

/// Runs the jobs, and lets the pages they read go.
pub(in crate::checkpoint) fn run(checkpoint: &Checkpoint, jobs: &[Job<'_>], spread: &Spread<'_>) -> Result<()> {
    // The first complaint in the order of jobs, so that the sentence does not depend on threads.
    let complaint: Mutex<Option<(usize, String)>> = Mutex::new(None);
    spread(jobs.len(), &|i| {
        let job = &jobs[i];
        let mut to = job.to.lock().expect("a job runs once");
        if let Err(sentence) = convert(checkpoint, job, &mut to) {
            let mut first = complaint.lock().expect("nothing panics while holding it");
            if first.as_ref().is_none_or(|(j, _)| i < *j) {
                *first = Some((i, sentence));
            }
        }
        let row_bytes = checkpoint.stored(job.part).row_bytes();
        checkpoint.release_range(job.part, job.rows.start * row_bytes..job.rows.end * row_bytes);
    });
    match complaint.into_inner().expect("nothing panics while holding it") {
        Some((_, sentence)) => Err(Error::Model(sentence)),
        None => Ok(()),
    }
}

fn convert(checkpoint: &Checkpoint, job: &Job<'_>, to: &mut [u8]) -> Result<(), String> {
    let stored = checkpoint.stored(job.part);
    let (from_row, to_row) = (stored.row_bytes(), to.len() / job.rows.len());
    if (stored.format, stored.form) == (job.format, job.form) {
        to.copy_from_slice(&stored.bytes[job.rows.start * from_row..job.rows.end * from_row]);
        return Ok(());
    }
    let file = stored.file_rows(job.rows.clone());
    let lay = |file: &[u8], to: &mut [u8]| {
        job.form.lay(job.format, job.rows.len(), stored.width, file, to).map_err(|e| e.to_string())
    };
    if stored.format == job.format {
        return lay(&file, to);
    }
    let round = |to: &mut [u8]| {
        let mut weights = vec![0f32; stored.width];
        for (i, (from, to)) in file.chunks_exact(from_row).zip(to.chunks_exact_mut(to_row)).enumerate() {
            stored.format.decode(from, &mut weights);
            refuse_unfit(&weights, job.format).map_err(|(column, e)| {
                format!("tensor {}, row {}, column {column}: {e}", checkpoint.tensor_name(job.part), job.rows.start + i)
            })?;
            job.format.encode(&weights, to);
        }
        Ok(())
    };
    if job.form == Form::FILE {
        return round(to);
    }
    let mut rounded = vec![0u8; to.len()];
    round(&mut rounded)?;
    lay(&rounded, to)
}

/// Numbers that a format cannot hold: not finite, or beyond what its largest scale reaches.
fn refuse_unfit(weights: &[f32], format: Format) -> Result<(), (usize, String)> {
    const HALF: f32 = 65504.0; // the largest f16
    let most = match format {
        Format::F16 => HALF,
        Format::Q4_0 => 8.0 * HALF,
        Format::Q8_0 => 127.0 * HALF,
        _ => f32::MAX,
    };
    let fits = |w: &f32| w.abs() <= most; // false for NaN
    // Without early exit, so that it runs many numbers at a time.
    if weights.iter().fold(true, |fit, w| fit & fits(w)) {
        return Ok(());
    }
    let column = weights.iter().position(|w| !fits(w)).expect("one of them did not fit");
    let w = weights[column];
    let why = if w.is_finite() { format!("{w} is too large for {}", format.name()) } else { not_finite(w) };
    Err((column, why))
}

pub(super) fn not_finite(w: f32) -> String {
    format!("the weight is {w}, expected a finite number")
}
