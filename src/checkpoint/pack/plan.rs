//! Where everything lies in a packed file: a function of the config and of each part's format and form, so that the reader
//! needs to believe no offset.

use super::{ALIGNMENT, Form, part_name};
use crate::checkpoint::catalogue::part_bytes;
use crate::checkpoint::{DownOrder, Part};
use crate::config::Config;
use crate::config::family::Family;
use kernels::Format;

/// All runs in the order of the file.
pub(super) struct Plan {
    pub runs: Vec<RunPlan>,
    pub slot_bytes: u64,
    /// Bytes from the start of the data to the end of the file.
    pub data_bytes: u64,
}

/// One run. Runs follow each other with at most a page's rest between them.
pub(super) struct RunPlan {
    pub name: String,
    /// From the start of the data.
    pub offset: u64,
    pub bytes: u64,
    pub pieces: Vec<Piece>,
}

/// One part within its run.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub part: Part,
    pub format: Format,
    pub form: Form,
    pub rows: usize,
    pub width: usize,
    /// From the start of the run.
    pub offset: u64,
    pub bytes: u64,
}

impl Plan {
    /// `kind` says what each part is stored as; sentences name the part.
    pub fn new(
        config: &Config,
        family: &Family,
        down: DownOrder,
        kind: impl Fn(Part) -> (Format, Form),
    ) -> Result<Plan, String> {
        let piece = |part: Part, offset: u64| {
            let (format, form) = kind(part);
            let (rows, width) = config.shape(part, down);
            let bytes =
                part_bytes(config, part, down, format).map_err(|e| format!("{}: {e}", part_name(family, part)))?;
            Ok::<_, String>(Piece { part, format, form, rows, width, offset, bytes })
        };
        let layers = 0..config.layers.len() as u16;
        let mut runs = vec![];
        let mut at = 0u64;
        let front = [Part::Embedding, Part::OutputNorm].into_iter().chain((!config.tied).then_some(Part::Head));
        for part in front.chain(layers.clone().flat_map(Part::dense)) {
            let piece = piece(part, 0)?;
            runs.push(RunPlan { name: part_name(family, part), offset: at, bytes: piece.bytes, pieces: vec![piece] });
            at = (at + piece.bytes).next_multiple_of(ALIGNMENT);
        }
        let first_expert = runs.len();
        let mut slot_bytes = 0;
        for layer in layers {
            for index in 0..config.experts as u16 {
                let (mut pieces, mut bytes) = (vec![], 0u64);
                for part in Part::expert(layer, index) {
                    let piece = piece(part, bytes)?;
                    bytes = (bytes + piece.bytes).next_multiple_of(ALIGNMENT);
                    pieces.push(piece);
                }
                slot_bytes = slot_bytes.max(bytes);
                runs.push(RunPlan { name: format!("blk.{layer}.expert.{index}"), offset: 0, bytes: 0, pieces });
            }
        }
        for run in &mut runs[first_expert..] {
            (run.offset, run.bytes) = (at, slot_bytes);
            at += slot_bytes;
        }
        Ok(Plan { runs, slot_bytes, data_bytes: at })
    }

    /// Every piece with the index of its run.
    pub fn pieces(&self) -> impl Iterator<Item = (usize, &Piece)> {
        self.runs.iter().enumerate().flat_map(|(i, run)| run.pieces.iter().map(move |piece| (i, piece)))
    }
}
