//! Where the kernels of `kernels/cuda` run in this suite: their sources, compiled for the host (`kernels/cuda/emulate`), or
//! an NVIDIA device where `THERMOCLINE_PTX` names a folder with what nvcc made of them (`scripts/gpu_check`).
//!
//! Buffers begin as NaN. Emulated, they end at a page nobody may touch; on a device the bytes around them are watched.
#![allow(dead_code)]

mod driver;
mod host;

pub use driver::Driver;
use kernels::cuda::Launch;
use std::io::Write as _;
use std::sync::OnceLock;
use thermocline_kernels as kernels;

pub enum Machine {
    Emulated(host::Emulate),
    Device(Driver),
}

/// `None`, said aloud, where there is neither a device to use nor a C++ compiler. `CXX` names one.
pub fn machine() -> Option<&'static Machine> {
    static MACHINE: OnceLock<Option<Machine>> = OnceLock::new();
    let open = || match std::env::var_os("THERMOCLINE_PTX") {
        Some(folder) => Some(Machine::Device(Driver::open(folder.as_ref()))),
        None => host::emulator().map(Machine::Emulated),
    };
    let machine = MACHINE.get_or_init(open).as_ref();
    if let Some(Machine::Device(driver)) = machine {
        driver.bind();
    }
    machine
}

/// Past the test harness, which would keep it to itself.
pub fn say(sentence: &str) {
    let _ = writeln!(std::io::stderr(), "{sentence}");
}

/// Launches it and waits, or panics where there is no such kernel.
pub fn launch(launch: &Launch) {
    match machine().expect("whoever launches has asked before") {
        Machine::Emulated(emulate) => host::launch(*emulate, launch),
        Machine::Device(driver) => {
            driver.launch(launch);
            driver.wait();
        }
    }
}

/// Memory of the machine: poisoned, and nothing around it may change.
pub enum Buffer {
    Host(host::Guarded),
    Device(driver::Watched),
}

impl Buffer {
    /// Bytes that are not a number, whatever they are read as.
    pub fn poisoned(len: usize) -> Buffer {
        Buffer::of_bytes(&vec![0xff; len])
    }

    pub fn of<T: Copy>(values: &[T]) -> Buffer {
        // SAFETY: plain numbers are bytes.
        Buffer::of_bytes(unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) })
    }

    fn of_bytes(bytes: &[u8]) -> Buffer {
        match machine().expect("whoever takes memory has asked before") {
            Machine::Emulated(_) => Buffer::Host(host::Guarded::of(bytes)),
            Machine::Device(driver) => Buffer::Device(driver::Watched::of(driver, bytes)),
        }
    }

    pub fn address(&self) -> u64 {
        match self {
            Buffer::Host(guarded) => guarded.address(),
            Buffer::Device(watched) => watched.address(),
        }
    }

    pub fn read(&self) -> Vec<u8> {
        match self {
            Buffer::Host(guarded) => guarded.read(),
            Buffer::Device(watched) => watched.read(),
        }
    }

    pub fn floats(&self) -> Vec<f32> {
        self.read().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }
}
