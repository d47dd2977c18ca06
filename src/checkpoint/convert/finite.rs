//! Weights that are no numbers, found before they spoil an answer.

use super::Spread;
use super::jobs::{JOB_WEIGHTS, not_finite};
use crate::checkpoint::{Checkpoint, Part};
use crate::error::{Error, Result};
use std::sync::Mutex;

impl Checkpoint {
    /// Reads every weight once and refuses the first that is not a finite number, by tensor, row and column.
    pub fn check_finite(&self, spread: &Spread<'_>, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let own = |part: &Part| !(self.config.tied && *part == Part::Head);
        let (total, mut done) = (self.weight_bytes(), 0);
        for part in self.parts().filter(own) {
            let stored = self.stored(part);
            let row_bytes = stored.row_bytes();
            let rows = if stored.form.by_rows() { (JOB_WEIGHTS / stored.width).max(1) } else { stored.rows };
            let first: Mutex<Option<(usize, usize, f32)>> = Mutex::new(None);
            spread(stored.rows.div_ceil(rows), &|job| {
                let range = job * rows..((job + 1) * rows).min(stored.rows);
                let mut weights = vec![0f32; stored.width];
                let bytes = stored.file_rows(range.clone());
                for (row, bytes) in range.clone().zip(bytes.chunks_exact(row_bytes)) {
                    stored.format.decode(bytes, &mut weights);
                    if let Some(column) = weights.iter().position(|w| !w.is_finite()) {
                        let mut first = first.lock().expect("nothing panics while holding it");
                        if first.is_none_or(|(r, ..)| row < r) {
                            *first = Some((row, column, weights[column]));
                        }
                        break;
                    }
                }
                self.release_range(part, range.start * row_bytes..range.end * row_bytes);
            });
            if let Some((row, column, w)) = first.into_inner().expect("nothing panics while holding it") {
                let (name, file) = (self.tensor_name(part), self.file_of(part).display());
                return Err(Error::Model(format!(
                    "{file}: tensor {name}, row {row}, column {column}: {}",
                    not_finite(w)
                )));
            }
            done += stored.bytes.len() as u64;
            progress(done, total);
        }
        Ok(())
    }
}
