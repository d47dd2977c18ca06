//! The chosen experts of a layer, in three launches.

use super::{ALIGNED, File, Launch, Rounded, Vectors, arguments, layout_word, side, supported, word};
use crate::format::RUN;
use crate::layout::TilePlan;
use crate::{Format, Layout, ShapeError};

/// How `down` lies in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownForm {
    /// As ordinary files have it, a row for each output.
    Outputs,
    /// Weights by neuron, scales where they were.
    Tiles,
    /// A row for each neuron, in file order.
    Neurons,
}

/// Where the three matrices of an expert lie in its slot, and what they are: the same for all experts of a slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertShape {
    pub width: usize,
    pub neurons: usize,
    /// Of gate and up.
    pub format: Format,
    pub layout: Layout,
    pub down_format: Format,
    pub down_form: DownForm,
    /// Bytes from the start of the slot.
    pub gate_at: usize,
    pub up_at: usize,
    pub down_at: usize,
    pub slot_bytes: usize,
}

/// Who asks for which experts: addresses of numbers of 32 bits. A pair is one expert and one token that chose it; pairs
/// are numbered expert by expert.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Experts.
    pub groups: usize,
    /// Most tokens any of them has.
    pub most: usize,
    /// `[groups]`: each expert's slot.
    pub slots: u64,
    /// `[groups + 1]`: where its pairs begin.
    pub starts: u64,
    /// `[pairs]`: the token of each.
    pub tokens: u64,
}

/// What is between gate and down: `[pairs][neurons]` as it is, and rounded.
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    pub plain: u64,
    pub rounded: Rounded,
}

impl ExpertShape {
    /// Gate, up and down one after the other, each on an alignment, the slot in whole alignments.
    pub fn in_order(
        width: usize,
        neurons: usize,
        (format, layout): (Format, Layout),
        (down_format, down_form): (Format, DownForm),
    ) -> Result<ExpertShape, ShapeError> {
        let next = |bytes: usize| bytes.next_multiple_of(ALIGNED as usize);
        let mut shape = ExpertShape {
            width,
            neurons,
            format,
            layout,
            down_format,
            down_form,
            gate_at: 0,
            up_at: 0,
            down_at: 0,
            slot_bytes: 0,
        };
        let rows = shape.gate_bytes()?;
        (shape.up_at, shape.down_at) = (next(rows), 2 * next(rows));
        shape.slot_bytes = shape.down_at + next(shape.down_bytes()?);
        shape.check()?;
        Ok(shape)
    }

    /// Bytes of gate, and of up.
    pub fn gate_bytes(&self) -> Result<usize, ShapeError> {
        supported("experts", self.format)?;
        if !self.layout.holds(self.format) {
            return Err(ShapeError::new(format!("{} has no layout in lanes", self.format)));
        }
        Ok(self.neurons * crate::rows::row_bytes(self.format, self.width)?)
    }

    pub fn down_bytes(&self) -> Result<usize, ShapeError> {
        supported("experts", self.down_format)?;
        match self.down_form {
            DownForm::Outputs => Ok(self.width * crate::rows::row_bytes(self.down_format, self.neurons)?),
            DownForm::Neurons => Ok(self.neurons * crate::rows::row_bytes(self.down_format, self.width)?),
            DownForm::Tiles => Ok(TilePlan::new(self.down_format, self.neurons, self.width)?.bytes()),
        }
    }

    /// Whether the matrices lie within the slot and on alignments, and `h` is rounded where `down` needs it so.
    pub fn check(&self) -> Result<(), ShapeError> {
        let (gate, down) = (self.gate_bytes()?, self.down_bytes()?);
        for (name, at, bytes) in [
            ("gate", self.gate_at, gate),
            ("up", self.up_at, gate),
            ("down", self.down_at, down),
            ("slot", self.slot_bytes, 0),
        ] {
            if !at.is_multiple_of(ALIGNED as usize) || at + bytes > self.slot_bytes {
                return Err(ShapeError::new(format!(
                    "{name} at byte {at}, {bytes} bytes of a slot of {}: expected within it, at a multiple of {ALIGNED}",
                    self.slot_bytes
                )));
            }
        }
        let rounds = self.down_form != DownForm::Neurons && !self.down_format.is_float();
        if rounds && !self.neurons.is_multiple_of(RUN) {
            return Err(ShapeError::new(format!("{} neurons: expected a multiple of 32 to round them", self.neurons)));
        }
        Ok(())
    }

    /// `h = relu(gate x) * (up x)` of every pair, plain and rounded.
    pub fn fire(&self, slab: u64, asked: Asked, x: Vectors, h: Inner) -> Launch {
        let tile = if asked.most == 1 { 1 } else { 8 };
        let Rounded { codes, scales, wholes } = x.rounded;
        Launch {
            kernel: format!("fire_{}_{}_{tile}", word(self.format), layout_word(self.layout)),
            file: File::Experts,
            grid: [side(self.neurons.div_ceil(32)), side(asked.groups), side(asked.most.div_ceil(tile))],
            threads: if tile == 1 { 512 } else { 256 },
            arguments: arguments![
                Address slab, Long self.slot_bytes as u64, Address asked.slots, Address asked.starts,
                Address asked.tokens, Long self.gate_at as u64, Long self.up_at as u64, Word side(self.neurons),
                Word side(self.width), Address x.plain, Address codes, Address scales, Address wholes,
                Address h.plain, Address h.rounded.codes, Address h.rounded.scales, Address h.rounded.wholes,
            ],
        }
    }

    /// `y = down h` of every pair: `[pairs][width]`.
    pub fn down(&self, slab: u64, asked: Asked, h: Inner, y: u64) -> Launch {
        let (form, tile, columns, threads) = match self.down_form {
            // A chunk of 64 bytes of a neuron's codes for a block of threads; sixteen of them for 32 neurons at a time.
            DownForm::Tiles => {
                let (tile, threads) = if asked.most == 1 { (1, 24 * 16) } else { (4, 12 * 16) };
                (format!("tiles_{tile}"), tile, if self.down_format == Format::Q8_0 { 64 } else { 128 }, threads)
            }
            DownForm::Neurons => ("neurons".to_string(), 1, 128, 128),
            DownForm::Outputs => ("outputs".to_string(), 4, 16, 256),
        };
        Launch {
            kernel: format!("down_{}_{form}", word(self.down_format)),
            file: File::Experts,
            grid: [side(self.width.div_ceil(columns)), side(asked.groups), side(asked.most.div_ceil(tile))],
            threads,
            arguments: arguments![
                Address slab, Long self.slot_bytes as u64, Address asked.slots, Address asked.starts,
                Address asked.tokens, Long self.down_at as u64, Word side(self.neurons), Word side(self.width),
                Address h.plain, Address h.rounded.codes, Address h.rounded.scales, Address h.rounded.wholes, Address y,
            ],
        }
    }
}

/// `out[token] = sum of weight * y` over the token's pairs in their order, or that sum added to what is there. `of_token`
/// `[tokens + 1]` says where in `pairs` a token's begin; `weights` are by pair.
pub fn gather(
    y: u64,
    (of_token, pairs, weights): (u64, u64, u64),
    out: u64,
    (t, width): (usize, usize),
    add: bool,
) -> Launch {
    Launch {
        kernel: "gather".into(),
        file: File::Experts,
        grid: [side(width.div_ceil(128)), side(t), 1],
        threads: 128,
        arguments: arguments![
            Address y, Address of_token, Address pairs, Address weights, Word side(width), Address out, Word add as u32,
        ],
    }
}
