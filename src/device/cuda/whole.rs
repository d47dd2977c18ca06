//! A token through a model that lies here with all its parts: the launches of `kernels::cuda::Step`, kept as a CUDA graph, so
//! that the processor asks for one thing where it would ask for hundreds.

#![allow(unsafe_code)]

use super::{Kept, Own, expert_shape, failed, shape};
use crate::config::Gating;
use crate::device::whole::{LayerParts, Parts, Spoken};
use crate::error::Result;
use candle_core::Tensor;
use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaSlice, PinnedHostSlice, sys};
use kernels::attend::{BLOCK, KvFormat};
use kernels::cuda::{Cache, Launch, Layer, Matrix, Room, Rounded, Step, Vectors, rms_norm};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A model, and what its tokens pass through.
pub struct Whole {
    step: Step,
    desk: Mutex<Desk>,
    /// The experts' slots by layer, which the step names by address.
    _tables: Vec<CudaSlice<u32>>,
}

/// One token is under way at a time.
struct Desk {
    ticket: (PinnedHostSlice<u8>, CudaSlice<u8>),
    answer: (PinnedHostSlice<u8>, CudaSlice<u8>),
    road: Option<Road>,
}

/// The launches for contexts of so many blocks, and the memory they share.
struct Road {
    blocks: usize,
    kept: KvFormat,
    launches: Vec<Launch>,
    _work: CudaSlice<u8>,
    /// Made of the launches when they ran once, so that everything is loaded by then.
    graph: Option<Graph>,
    ran: bool,
}

struct Graph(CudaGraph);

// SAFETY: a graph may be used by any thread, but by one at a time: it lies behind the mutex of the desk.
unsafe impl Send for Graph {}

impl Own {
    /// `None` where there are no kernels for one of the parts, or for them together.
    pub fn whole(&self, parts: &Parts<'_>) -> Result<Option<Whole>> {
        let Some(slab) = &parts.slab.own else { return Ok(None) };
        let slab_at = self.address(&*slab.bytes.lock().unwrap_or_else(PoisonError::into_inner));
        let (mut layers, mut tables) = (Vec::new(), Vec::new());
        for layer in &parts.layers {
            let table = self.send(&layer.slots)?;
            let Some(layer) = self.layer(layer, slab_at, self.address(&table), slab.slot_bytes)? else {
                return Ok(None);
            };
            layers.push(layer);
            tables.push(table);
        }
        let Some(head) = parts.head.own().map(|head| self.lies(head)) else { return Ok(None) };
        let step = Step {
            width: parts.width,
            heads: parts.heads,
            kv_heads: parts.kv_heads,
            head_width: parts.head_width,
            experts: parts.layers.first().map_or(0, |layer| layer.slots.len()),
            active: parts.active,
            softmax: parts.gating == Gating::Softmax,
            epsilon: parts.epsilon,
            kept: KvFormat::F16, // what the caches are is seen when there are any
            layers,
            norm: self.numbers(parts.norm)?,
            head,
        };
        if step.check().is_err() {
            return Ok(None);
        }
        let desk = Desk {
            ticket: (self.pinned(step.ticket_bytes())?, self.room(step.ticket_bytes())?),
            answer: (self.pinned(step.answer_bytes())?, self.room(step.answer_bytes())?),
            road: None,
        };
        Ok(Some(Whole { step, desk: Mutex::new(desk), _tables: tables }))
    }

    fn layer(&self, layer: &LayerParts<'_>, slab: u64, table: u64, slot_bytes: usize) -> Result<Option<Layer>> {
        let parts = [layer.router, layer.query, layer.key, layer.value, layer.out];
        let lies: Option<Vec<Matrix>> = parts.iter().map(|part| part.own().map(|matrix| self.lies(matrix))).collect();
        let Some([router, query, key, value, out]) = lies.as_deref() else { return Ok(None) };
        let Ok(shape) = expert_shape(&layer.laid, slot_bytes) else { return Ok(None) };
        Ok(Some(Layer {
            router: *router,
            norm_in: self.numbers(layer.norm_in)?,
            query: *query,
            key: *key,
            value: *value,
            out: *out,
            rotary: layer.rotary,
            window: layer.window,
            norm_ffn: self.numbers(layer.norm_ffn)?,
            shape,
            slab,
            table,
        }))
    }

    /// Memory the device reads and writes without the processor's help.
    fn pinned(&self, bytes: usize) -> Result<PinnedHostSlice<u8>> {
        // SAFETY: bytes of any value are bytes, and they are written before they are read.
        unsafe { self.stream.context().alloc_pinned_with_flags(bytes, 0) }.map_err(failed)
    }

    /// `None`, and nothing is done, where caches are not all of one format.
    pub fn token(
        &self,
        whole: &Whole,
        position: usize,
        kept: &[&Kept],
        angles: (&[f32], &[f32]),
        x: &[f32],
    ) -> Result<Option<Spoken>> {
        let format = kept[0].cache.format;
        if kept.iter().any(|kept| kept.cache.format != format) {
            return Ok(None);
        }
        let caches: Vec<Cache> = kept.iter().map(|kept| kept.cache).collect();
        let mut desk: MutexGuard<'_, Desk> = whole.desk.lock().unwrap_or_else(PoisonError::into_inner);
        let desk = &mut *desk;
        let ticket = whole.step.ticket(position, &caches, angles, x);
        desk.ticket.0.as_mut_slice().map_err(failed)?.copy_from_slice(&ticket);
        self.stream.memcpy_htod(&desk.ticket.0, &mut desk.ticket.1).map_err(failed)?;
        self.travel(whole, desk, position, format)?;
        self.stream.memcpy_dtoh(&desk.answer.1, &mut desk.answer.0).map_err(failed)?;
        self.stream.synchronize().map_err(failed)?;
        let (logits, chosen) = whole.step.read(desk.answer.0.as_slice().map_err(failed)?);
        Ok(Some(Spoken { logits, chosen }))
    }

    /// Has the launches run, behind the ticket.
    fn travel(&self, whole: &Whole, desk: &mut Desk, position: usize, kept: KvFormat) -> Result<()> {
        let blocks = position / BLOCK + 1;
        if desk.road.as_ref().is_none_or(|road| road.blocks < blocks || road.kept != kept) {
            desk.road = None; // its memory first
            let blocks = blocks.next_power_of_two(); // few roads for any length
            let step = Step { kept, ..whole.step.clone() };
            let work = self.room::<u8>(step.work_bytes(blocks))?;
            let room = Room {
                ticket: self.address(&desk.ticket.1),
                work: self.address(&work),
                answer: self.address(&desk.answer.1),
            };
            let launches = step.launches(room, blocks).map_err(shape)?;
            desk.road = Some(Road { blocks, kept, launches, _work: work, graph: None, ran: false });
        }
        let road = desk.road.as_mut().expect("made above");
        if let Some(graph) = &road.graph {
            return graph.0.launch().map_err(failed);
        }
        if !road.ran {
            road.ran = true;
            return self.run(&road.launches);
        }
        road.graph = self.captured(&road.launches)?.map(Graph);
        match &road.graph {
            Some(graph) => graph.0.launch().map_err(failed),
            None => self.run(&road.launches),
        }
    }

    /// A graph of launches whose kernels are loaded.
    fn captured(&self, launches: &[Launch]) -> Result<Option<CudaGraph>> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        self.stream.begin_capture(mode).map_err(failed)?;
        let launched = self.run(launches);
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0)).map_err(failed);
        launched?;
        graph
    }

    /// Seconds of one of `count` small kernels in a row, as a token meets them: a vector normed over and over.
    pub fn in_a_row(&self, x: &Tensor, weight: &Tensor, count: usize) -> Result<f64> {
        const TIMES: usize = 20;
        let width = x.elem_count();
        let (out, rounded) = (self.room::<f32>(width)?, self.room::<u8>(Rounded::bytes(1, width))?);
        let plain = self.address(&out);
        let vectors = Vectors { plain, rounded: Rounded::at(self.address(&rounded), 1, width), t: 1, width };
        let mut launches = vec![rms_norm(self.numbers(x)?, self.numbers(weight)?, 1.0, vectors)];
        launches.resize(count, rms_norm(plain, self.numbers(weight)?, 1.0, vectors));
        self.run(&launches)?;
        let graph = self.captured(&launches)?;
        let pass = || match &graph {
            Some(graph) => graph.launch().map_err(failed),
            None => self.run(&launches),
        };
        pass()?;
        self.stream.synchronize().map_err(failed)?;
        let start = Instant::now();
        (0..TIMES).try_for_each(|_| pass())?;
        self.stream.synchronize().map_err(failed)?;
        Ok(start.elapsed().as_secs_f64() / (TIMES * count) as f64)
    }

    fn run(&self, launches: &[Launch]) -> Result<()> {
        launches.iter().try_for_each(|launch| self.launch(launch))
    }
}
