//! An NVIDIA device computing with kernels of our own (`kernels/cuda`): the processor's sums in the processor's order, so
//! the processor's bits. Everything goes through the one stream of the device, in the order it is asked for, so a buffer
//! may be dropped as soon as the last kernel that uses it is launched.

#![allow(unsafe_code)]

use super::slab::{Chosen, Laid};
use crate::checkpoint::{DownOrder, Form, Kind};
use crate::error::{Error, Result};
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DevicePtr, DeviceRepr, DriverError, LaunchConfig, PinnedHostSlice,
    PushKernelArg, sys,
};
use candle_core::cuda_backend::{CudaDevice, CudaStorage};
use candle_core::op::BackpropOp;
use candle_core::{DType, Device, Storage, Tensor};
use kernels::Layout;
use kernels::attend::{KvFormat, Ring as Lies, Span};
use kernels::cuda::{
    self, Argument, Asked, Attend, Cache, DownForm, ExpertShape, File, Inner, Launch, Rounded, Vectors,
};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

mod whole;

pub use whole::Whole;

/// The kernels as nvcc left them: one text for each file of `kernels/cuda`.
mod ptx {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// A device, and those of its kernels that were used.
pub struct Own {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    loaded: Mutex<HashMap<String, CudaFunction>>,
    /// What single vectors travel through, by their length: there, and back.
    ways: [Mutex<HashMap<usize, PinnedHostSlice<f32>>>; 2],
}

/// A matrix as it lies in files or in memory, on the device.
pub struct Matrix {
    bytes: CudaSlice<u8>,
    kind: Kind,
    layout: Layout,
}

/// Equal slots in one piece of memory.
pub struct Slots {
    /// Stays where it is.
    bytes: Mutex<CudaSlice<u8>>,
    slot_bytes: usize,
    /// What lies in each slot.
    shapes: Mutex<Vec<Option<ExpertShape>>>,
    /// Memory the device reads without the processor's help: what travels is copied here first.
    staging: Mutex<PinnedHostSlice<u8>>,
}

/// Keys and values of one layer, as the host's cache lies.
pub struct Kept {
    keys: CudaSlice<u8>,
    values: CudaSlice<u8>,
    cache: Cache,
}

impl Own {
    /// `None` for devices that are not NVIDIA's.
    pub fn of(device: &Device) -> Option<Own> {
        let Device::Cuda(device) = device else { return None };
        // SAFETY: one stream does everything here, in order, so nothing needs events to wait for another.
        unsafe { device.disable_event_tracking() };
        hoard(device);
        let ways = [Mutex::default(), Mutex::default()];
        Some(Own { device: device.clone(), stream: device.cuda_stream(), loaded: Mutex::default(), ways })
    }

    /// A vector of the host, on the device: its copy is begun, and whoever uses it there comes after. `None` for what is not
    /// a single row of f32; such things travel as candle sends them.
    pub fn bring(&self, x: &Tensor) -> Result<Option<Tensor>> {
        let Some(len) = single(x) else { return Ok(None) };
        let mut ways = self.ways[0].lock().unwrap_or_else(PoisonError::into_inner);
        let way = self.way(&mut ways, len)?;
        let room = way.as_mut_slice().map_err(failed)?; // waits for the copy before
        let (storage, layout) = x.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { panic!("a tensor of the host") };
        room.copy_from_slice(&storage.as_slice::<f32>()?[layout.start_offset()..][..len]);
        let mut there = self.room(len)?;
        self.stream.memcpy_htod(&*way, &mut there).map_err(failed)?;
        let storage = CudaStorage::wrap_cuda_slice(there, self.device.clone());
        Ok(Some(Tensor::from_storage(Storage::Cuda(storage), x.shape().clone(), BackpropOp::none(), false)))
    }

    /// A vector of the device, on the host, when all before it is done. `None` as for `bring`.
    pub fn fetch(&self, x: &Tensor) -> Result<Option<Tensor>> {
        let Some(len) = single(x) else { return Ok(None) };
        let mut ways = self.ways[1].lock().unwrap_or_else(PoisonError::into_inner);
        let way = self.way(&mut ways, len)?;
        let (storage, layout) = x.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { panic!("a tensor of another device") };
        let numbers = storage.as_cuda_slice::<f32>()?.slice(layout.start_offset()..layout.start_offset() + len);
        self.stream.memcpy_dtoh(&numbers, &mut *way).map_err(failed)?;
        // The stream is waited for by looking again and again; the event that the memory has is waited for asleep.
        self.stream.synchronize().map_err(failed)?;
        Ok(Some(Tensor::from_slice(way.as_slice().map_err(failed)?, x.shape().clone(), &Device::Cpu)?))
    }

    /// Memory of so many numbers that the device reads and writes without the processor's help.
    fn way<'w>(
        &self,
        ways: &'w mut HashMap<usize, PinnedHostSlice<f32>>,
        len: usize,
    ) -> Result<&'w mut PinnedHostSlice<f32>> {
        Ok(match ways.entry(len) {
            Entry::Occupied(way) => way.into_mut(),
            // SAFETY: numbers of any bits are numbers, and it is written before it is read. Plain memory (no flags): it is
            // read here too.
            Entry::Vacant(none) => {
                none.insert(unsafe { self.stream.context().alloc_pinned_with_flags(len, 0) }.map_err(failed)?)
            }
        })
    }

    /// Memory that holds nothing yet: whoever asks for it writes all of it before it is read.
    fn room<T: DeviceRepr>(&self, count: usize) -> Result<CudaSlice<T>> {
        // SAFETY: numbers of any bits are numbers, and kernels that fill a room fill it whole.
        unsafe { self.stream.alloc(count.max(1)) }.map_err(failed)
    }

    fn send<T: DeviceRepr>(&self, values: &[T]) -> Result<CudaSlice<T>> {
        self.stream.clone_htod(values).map_err(failed)
    }

    /// Where it lies. It stays there while the slice lives; kernels are launched on the slice's own stream.
    fn address<T>(&self, slice: &CudaSlice<T>) -> u64 {
        slice.device_ptr(&self.stream).0
    }

    /// The address of a tensor's numbers: f32, without gaps, of this device.
    fn numbers(&self, x: &Tensor) -> Result<u64> {
        let (storage, layout) = x.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { panic!("a tensor of another device") };
        assert!(layout.is_contiguous(), "a tensor without gaps");
        Ok(self.address(storage.as_cuda_slice::<f32>()?) + 4 * layout.start_offset() as u64)
    }

    fn tensor(&self, numbers: CudaSlice<f32>, shape: (usize, usize)) -> Tensor {
        let storage = CudaStorage::wrap_cuda_slice(numbers, self.device.clone());
        Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
    }

    fn function(&self, launch: &Launch) -> Result<CudaFunction> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = loaded.get(&launch.kernel) {
            return Ok(function.clone());
        }
        let (module, text) = match launch.file {
            File::Rows => ("thermocline_rows", ptx::ROWS),
            File::Experts => ("thermocline_experts", ptx::EXPERTS),
            File::Attend => ("thermocline_attend", ptx::ATTEND),
        };
        let function = self.device.get_or_load_custom_func(&launch.kernel, module, text)?.into_cuda_function();
        loaded.insert(launch.kernel.clone(), function.clone());
        Ok(function)
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let function = self.function(launch)?;
        let mut call = self.stream.launch_builder(&function);
        for argument in &launch.arguments {
            match argument {
                Argument::Address(value) | Argument::Long(value) => call.arg(value),
                Argument::Word(value) => call.arg(value),
                Argument::Float(value) => call.arg(value),
            };
        }
        let [x, y, z] = launch.grid;
        let config = LaunchConfig { grid_dim: (x, y, z), block_dim: (launch.threads, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: `kernels::cuda` writes launches with the arguments its kernels take, and every buffer below is as long
        // as the shapes in the launch say; the same launches run over guarded buffers in kernels/tests/cuda.rs.
        unsafe { call.launch(config) }.map_err(failed)?;
        Ok(())
    }

    /// The rows of `x`, rounded too where `rounds`. The room of the rounded ones must outlive the launches.
    fn vectors(&self, x: &Tensor, rounds: bool) -> Result<(Vectors, CudaSlice<u8>)> {
        let (t, width) = x.dims2()?;
        let room = self.room(if rounds { Rounded::bytes(t, width) } else { 0 })?;
        let rounded = Rounded::at(self.address(&room), t, width);
        let vectors = Vectors { plain: self.numbers(x)?, rounded, t, width };
        if rounds {
            self.launch(&cuda::round(vectors).map_err(shape)?)?;
        }
        Ok((vectors, room))
    }

    /// The matrix on the device, byte for byte; `None` where there are no kernels for it.
    pub fn matrix(&self, kind: &Kind, bytes: &[u8]) -> Result<Option<Matrix>> {
        let Form::Rows(layout) = kind.form else { return Ok(None) };
        if cuda::supported("a matrix", kind.format).is_err() {
            return Ok(None);
        }
        Ok(Some(Matrix { bytes: self.send(bytes)?, kind: *kind, layout }))
    }

    /// The matrix as launches name it.
    fn lies(&self, w: &Matrix) -> cuda::Matrix {
        let Kind { format, rows, width, .. } = w.kind;
        cuda::Matrix { format, layout: w.layout, at: self.address(&w.bytes), rows, width }
    }

    /// `x` `[t, width]` -> `[t, rows]`.
    pub fn product(&self, w: &Matrix, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?.to_dtype(DType::F32)?;
        let (x, _room) = self.vectors(&x, !w.kind.format.is_float())?;
        let out = self.room(x.t * w.kind.rows)?;
        self.launch(&cuda::products(self.lies(w), x, self.address(&out), false).map_err(shape)?)?;
        Ok(self.tensor(out, (x.t, w.kind.rows)))
    }

    /// RMSNorm of each row of `x` `[t, width]`.
    pub fn norm(&self, x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
        let (x, weight) = (x.contiguous()?, weight.contiguous()?);
        let (t, width) = x.dims2()?;
        let (out, room) = (self.room(t * width)?, self.room::<u8>(Rounded::bytes(t, width))?);
        let rounded = Rounded::at(self.address(&room), t, width);
        let vectors = Vectors { plain: self.address(&out), rounded, t, width };
        self.launch(&cuda::rms_norm(self.numbers(&x)?, self.numbers(&weight)?, epsilon, vectors))?;
        Ok(self.tensor(out, (t, width)))
    }

    /// Each head of `x` `[t, heads * 2 * half]`, turned by `cos` and `sin` `[t, half]`.
    pub fn rotate(&self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        let ((t, width), half) = (x.dims2()?, cos.dim(1)?);
        let turned = x.contiguous()?.copy()?;
        let (cos, sin) = (cos.contiguous()?, sin.contiguous()?);
        let heads = self.numbers(&turned)?;
        let shape = (t, width / (2 * half), half);
        self.launch(&cuda::rotate(heads, self.numbers(&cos)?, self.numbers(&sin)?, shape))?;
        Ok(turned)
    }

    /// Room for `slots` experts of at most `slot_bytes`.
    pub fn slots(&self, slots: usize, slot_bytes: usize) -> Result<Slots> {
        // SAFETY: written before it is read; see `write`.
        let staging = unsafe { self.stream.context().alloc_pinned(slot_bytes.max(1)) }.map_err(failed)?;
        Ok(Slots {
            bytes: Mutex::new(self.room(slots * slot_bytes)?),
            slot_bytes,
            shapes: Mutex::new(vec![None; slots]),
            staging: Mutex::new(staging),
        })
    }

    /// Overwrites a slot with gate, up and down as they lie. Fails by name where there are no kernels for them.
    pub fn write(&self, slots: &Slots, slot: usize, laid: &Laid, matrices: [&[u8]; 3]) -> Result<()> {
        let shape = expert_shape(laid, slots.slot_bytes)?;
        let mut staging = slots.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let room = staging.as_mut_slice().map_err(failed)?; // waits for the copy before
        for (at, bytes) in laid.offsets().into_iter().zip(matrices) {
            room[at..at + bytes.len()].copy_from_slice(bytes);
        }
        let mut bytes = slots.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let range = slot * slots.slot_bytes..(slot + 1) * slots.slot_bytes;
        self.stream.memcpy_htod(&*staging, &mut bytes.slice_mut(range)).map_err(failed)?;
        slots.shapes.lock().unwrap_or_else(PoisonError::into_inner)[slot] = Some(shape);
        Ok(())
    }

    /// The weighted sum of each row's experts, in the order of `chosen`: three launches and one small transfer.
    pub fn experts(&self, slots: &Slots, chosen: &[Chosen<'_>], x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?;
        let (t, width) = x.dims2()?;
        if chosen.is_empty() {
            return Ok(x.zeros_like()?);
        }
        let shapes = slots.shapes.lock().unwrap_or_else(PoisonError::into_inner);
        let shape = shapes[chosen[0].slot].expect("only slots that were written are asked for");
        assert!(chosen.iter().all(|c| shapes[c.slot] == Some(shape)), "experts of one layer are alike");
        drop(shapes);

        let lists = Lists::of(chosen, t);
        let sent = self.send(&lists.words)?;
        let [slots_at, starts, tokens, of_token, pairs, weights] =
            lists.begin.map(|at| self.address(&sent) + 4 * at as u64);
        let asked = Asked { groups: chosen.len(), most: lists.most, slots: slots_at, starts, tokens };
        let (x, _room) = self.vectors(&x, !shape.format.is_float())?;
        let (plain, rounded) = (
            self.room::<f32>(lists.pairs * shape.neurons)?,
            self.room::<u8>(Rounded::bytes(lists.pairs, shape.neurons))?,
        );
        let h = Inner {
            plain: self.address(&plain),
            rounded: Rounded::at(self.address(&rounded), lists.pairs, shape.neurons),
        };
        let (y, out) = (self.room::<f32>(lists.pairs * width)?, self.room::<f32>(t * width)?);
        let slab = slots.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.address(&slab);
        self.launch(&shape.fire(at, asked, x, h))?;
        self.launch(&shape.down(at, asked, h, self.address(&y)))?;
        let of = (of_token, pairs, weights);
        self.launch(&cuda::gather(self.address(&y), of, self.address(&out), (t, width), false))?;
        Ok(self.tensor(out, (t, width)))
    }

    /// An empty cache. `None` where there are no kernels for it.
    pub fn cache(&self, exact: bool, capacity: usize, (kv_heads, head_width): (usize, usize)) -> Result<Option<Kept>> {
        let format = if exact { KvFormat::F32 } else { KvFormat::F16 };
        if !head_width.is_multiple_of(32) || head_width > 256 {
            return Ok(None);
        }
        let lies = Lies::new(format, head_width, capacity);
        let zeros = || self.stream.alloc_zeros::<u8>(kv_heads * lies.bytes()).map_err(failed);
        let (keys, values) = (zeros()?, zeros()?);
        let cache = Cache {
            format,
            kv_heads,
            head_width,
            capacity: lies.capacity(),
            keys: self.address(&keys),
            values: self.address(&values),
            head_bytes: lies.bytes(),
        };
        Ok(Some(Kept { keys, values, cache }))
    }

    /// Keeps `keys` and `values` `[n, kv_heads * head_width]` of the positions from `first` on.
    pub fn keep(&self, kept: &mut Kept, first: usize, keys: &Tensor, values: &Tensor) -> Result<()> {
        let (keys, values) = (keys.contiguous()?, values.contiguous()?);
        let (k, v) = (self.numbers(&keys)?, self.numbers(&values)?);
        self.launch(&kept.cache.keep(k, v, first, keys.dim(0)?).map_err(shape)?)
    }

    /// Each query of `q` `[n, heads * head_width]`, at the positions from `first` on, over what it sees.
    pub fn attend(&self, kept: &Kept, q: &Tensor, first: usize, window: Option<usize>) -> Result<Tensor> {
        let q = q.contiguous()?;
        let ((n, width), cache) = (q.dims2()?, kept.cache);
        let heads = width / cache.head_width;
        let (out, rounded) = (self.room::<f32>(n * width)?, self.room::<u8>(Rounded::bytes(n, width))?);
        // Few tokens at a time: partial results of a long context are larger than what they are of.
        for done in (0..n).step_by(STEP) {
            let tokens = STEP.min(n - done);
            let span = Span { first: first + done, tokens, window };
            let attend = Attend { cache, span, heads };
            let partial = self.room::<f32>(attend.partial_len())?;
            let queries = self.numbers(&q)? + (4 * done * width) as u64;
            self.launch(&attend.blocks(queries, self.address(&partial)).map_err(shape)?)?;
            let plain = self.address(&out) + (4 * done * width) as u64;
            let rounded = Rounded::at(self.address(&rounded), tokens, width);
            self.launch(&cuda::fold(attend, self.address(&partial), Vectors { plain, rounded, t: tokens, width }))?;
        }
        Ok(self.tensor(out, (n, width)))
    }

    /// The first `slots` of a cache, whole tiles of them, as they lie, which is as the host has them: each head's keys, then each
    /// head's values.
    pub fn fetch_cache(&self, kept: &Kept, slots: usize) -> Result<Vec<Vec<u8>>> {
        let cache = kept.cache;
        let bytes = cache.head_bytes / cache.capacity * slots;
        let mut parts = Vec::with_capacity(2 * cache.kv_heads);
        for all in [&kept.keys, &kept.values] {
            for start in (0..cache.kv_heads).map(|head| head * cache.head_bytes) {
                parts.push(self.stream.clone_dtoh(&all.slice(start..start + bytes)).map_err(failed)?);
            }
        }
        self.stream.synchronize().map_err(failed)?;
        Ok(parts)
    }

    /// Puts there what was fetched.
    pub fn fill_cache(&self, kept: &mut Kept, parts: &[Vec<u8>]) -> Result<()> {
        let cache = kept.cache;
        let (keys, values) = parts.split_at(cache.kv_heads);
        for (all, parts) in [(&mut kept.keys, keys), (&mut kept.values, values)] {
            for (head, part) in parts.iter().enumerate() {
                let start = head * cache.head_bytes;
                self.stream.memcpy_htod(part, &mut all.slice_mut(start..start + part.len())).map_err(failed)?;
            }
        }
        // What is copied belongs to the caller, who may let go of it.
        self.stream.synchronize().map_err(failed)
    }

    /// Copies the slots of `from` of which only the first `slots` were ever written.
    pub fn copy(&self, into: &mut Kept, from: &Kept, slots: usize) -> Result<()> {
        let cache = into.cache;
        let row = cache.head_bytes / cache.capacity;
        let bytes = slots.min(cache.capacity).next_multiple_of(TILE) * row; // keys lie in tiles of sixteen
        for head in 0..cache.kv_heads {
            let range = head * cache.head_bytes..head * cache.head_bytes + bytes;
            for (into, from) in [(&mut into.keys, &from.keys), (&mut into.values, &from.values)] {
                let from = from.slice(range.clone());
                self.stream.memcpy_dtod(&from, &mut into.slice_mut(range.clone())).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Memory that was given back stays with this program, for the next to ask for it: by default the driver hands it back to
/// the system whenever the device is waited for, and takes it anew after. A driver without pools has nothing to set.
fn hoard(device: &CudaDevice) {
    let (mut pool, mut most) = (std::ptr::null_mut(), u64::MAX);
    // SAFETY: the pool is written before it is used, and the attribute is a number of 64 bits.
    unsafe {
        if sys::cuDeviceGetDefaultMemPool(&mut pool, device.cuda_stream().context().cu_device()).result().is_ok() {
            let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            let _ = sys::cuMemPoolSetAttribute(pool, threshold, std::ptr::from_mut(&mut most).cast());
        }
    }
}

/// The length of what is one row of f32 without gaps. Of these there are few lengths in a model, so that memory for each can
/// be kept.
fn single(x: &Tensor) -> Option<usize> {
    let one = x.dims().split_last().is_some_and(|(_, others)| others.iter().all(|n| *n == 1));
    (one && x.dtype() == DType::F32 && x.is_contiguous() && x.elem_count() > 0).then(|| x.elem_count())
}

/// Tokens whose partial results are held at once.
const STEP: usize = 16;
/// Slots of keys that lie interleaved.
const TILE: usize = 16;

/// What kernels know of an expert that lies so. Fails by name where there are none for it.
fn expert_shape(laid: &Laid, slot_bytes: usize) -> Result<ExpertShape> {
    let Form::Rows(layout) = laid.gate.form else { panic!("gate lies by row") };
    if (laid.up.format, laid.up.form) != (laid.gate.format, laid.gate.form) {
        return Err(Error::Usage(format!(
            "experts whose gate is {} and whose up is {} are not computed on an NVIDIA device: leave them to the \
             processor (--cpu-moe)",
            laid.gate.format, laid.up.format
        )));
    }
    let down_form = match (laid.down.form, laid.order) {
        (Form::Tiles, _) => DownForm::Tiles,
        (Form::Neurons, _) | (_, DownOrder::ByNeuron) => DownForm::Neurons,
        (Form::Rows(_), DownOrder::ByOutput) => DownForm::Outputs,
    };
    let [gate_at, up_at, down_at] = laid.offsets();
    let expert = ExpertShape {
        width: laid.gate.width,
        neurons: laid.gate.rows,
        format: laid.gate.format,
        layout,
        down_format: laid.down.format,
        down_form,
        gate_at,
        up_at,
        down_at,
        slot_bytes,
    };
    expert.check().map_err(shape)?;
    Ok(expert)
}

/// Who asks for which expert, as kernels read it: one list of words after the other.
struct Lists {
    words: Vec<u32>,
    /// Where slots, starts, tokens, starts by token, pairs by token and weights begin.
    begin: [usize; 6],
    pairs: usize,
    /// Most tokens any expert has.
    most: usize,
}

impl Lists {
    fn of(chosen: &[Chosen<'_>], t: usize) -> Lists {
        let slots: Vec<u32> = chosen.iter().map(|c| c.slot as u32).collect();
        let mut starts = vec![0u32];
        let (mut tokens, mut weights) = (vec![], vec![]);
        let mut by_token: Vec<Vec<u32>> = vec![vec![]; t];
        for chosen in chosen {
            for (&token, &weight) in chosen.tokens.iter().zip(chosen.weights) {
                by_token[token].push(tokens.len() as u32);
                tokens.push(token as u32);
                weights.push(weight.to_bits());
            }
            starts.push(tokens.len() as u32);
        }
        let mut of_token = vec![0u32];
        let mut pairs = vec![];
        for own in by_token {
            pairs.extend(own);
            of_token.push(pairs.len() as u32);
        }
        let most = chosen.iter().map(|c| c.tokens.len()).max().unwrap_or(0);
        let (count, mut words, mut begin) = (tokens.len(), vec![], [0; 6]);
        for (begin, list) in begin.iter_mut().zip([slots, starts, tokens, of_token, pairs, weights]) {
            *begin = words.len();
            words.extend(list);
        }
        Lists { words, begin, pairs: count, most }
    }
}

fn failed(error: DriverError) -> Error {
    Error::Memory(format!("the NVIDIA device: {error}"))
}

fn shape(error: kernels::ShapeError) -> Error {
    Error::Usage(error.to_string())
}
