//! The sources of `kernels/cuda`, compiled for the host and launched as a driver would (`kernels/cuda/emulate`), over
//! buffers that begin as NaN and end at a page nobody may touch.
#![allow(dead_code)]

use kernels::cuda::{Argument, Launch};
use std::ffi::{CString, c_char, c_int, c_void};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use thermocline_kernels as kernels;

type Emulate = unsafe extern "C" fn(*const c_char, *const u32, *const u32, *mut *mut c_void) -> c_int;

/// The emulator; `None`, said aloud, where there is no C++ compiler. `CXX` names one.
pub fn emulator() -> Option<Emulate> {
    static LOADED: OnceLock<Option<usize>> = OnceLock::new();
    let address = LOADED.get_or_init(|| {
        let compiler = std::env::var("CXX").unwrap_or("c++".into());
        if Command::new(&compiler).arg("--version").output().is_err() {
            // Past the test harness, which would keep it to itself.
            let _ =
                writeln!(std::io::stderr(), "NOT RUN: the kernels for CUDA, for want of a C++ compiler ({compiler})");
            return None;
        }
        Some(load(&compile(&compiler)))
    });
    // SAFETY: the address is that of `emulate` in a library that stays loaded.
    address.map(|address| unsafe { std::mem::transmute::<usize, Emulate>(address) })
}

fn compile(compiler: &str) -> CString {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda/emulate/emulate.cpp");
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("emulated-{}.so", std::process::id()));
    let mut command = Command::new(compiler);
    // Nothing fused that is not written so, as nvcc is told.
    command.args(["-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-w"]);
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("fma") {
        command.arg("-mfma");
    }
    let status = command.arg("-o").arg(&library).arg(&source).status().expect("the compiler answered before");
    assert!(status.success(), "{command:?}: {status}");
    CString::new(library.to_str().expect("a path of ours is text")).expect("and has no zeros")
}

fn load(library: &CString) -> usize {
    // SAFETY: both names end with a zero; the library is our own and has no initialisers.
    let found = unsafe {
        let handle = libc::dlopen(library.as_ptr(), libc::RTLD_NOW);
        assert!(!handle.is_null(), "{library:?} does not load");
        libc::dlsym(handle, c"emulate".as_ptr())
    };
    assert!(!found.is_null(), "no `emulate` in {library:?}");
    // It stays loaded; the file is needed no more.
    let _ = std::fs::remove_file(library.to_str().expect("it was text"));
    found as usize
}

/// Launches it, or panics where there is no such kernel.
pub fn launch(emulate: Emulate, launch: &Launch) {
    let mut words: Vec<u64> = launch
        .arguments
        .iter()
        .map(|argument| match *argument {
            Argument::Address(a) | Argument::Long(a) => a,
            Argument::Word(w) => u64::from(w),
            Argument::Float(f) => u64::from(f.to_bits()),
        })
        .collect();
    let mut pointers: Vec<*mut c_void> = words.iter_mut().map(|w| std::ptr::from_mut(w).cast()).collect();
    let name = CString::new(launch.kernel.as_str()).expect("names have no zeros");
    let threads = [launch.threads, 1, 1];
    // SAFETY: the arguments are as many and as wide as the kernel's (little-endian), and the buffers behind addresses are
    // the test's, which is what is tested.
    let status = unsafe { emulate(name.as_ptr(), launch.grid.as_ptr(), threads.as_ptr(), pointers.as_mut_ptr()) };
    assert_eq!(status, 0, "no kernel {}", launch.kernel);
}

/// Memory of a device: poisoned, its end (but for alignment) at a forbidden page, bytes around it watched.
pub struct Buffer {
    map: *mut u8,
    mapped: usize,
    /// Where the bytes begin and how many they are.
    at: usize,
    len: usize,
}

const PAGE: usize = 4096;
const WATCHED: u8 = 0xa5;

impl Buffer {
    /// Bytes that are not a number, whatever they are read as.
    pub fn poisoned(len: usize) -> Buffer {
        let room = len.next_multiple_of(16);
        let mapped = room.next_multiple_of(PAGE) + 2 * PAGE;
        // SAFETY: a fresh private map; its last page is closed before anyone has its address.
        let map = unsafe {
            let map = libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(map, libc::MAP_FAILED, "no memory for {len} bytes");
            assert_eq!(libc::mprotect(map.cast::<u8>().add(mapped - PAGE).cast(), PAGE, libc::PROT_NONE), 0);
            map.cast::<u8>()
        };
        let mut buffer = Buffer { map, mapped, at: mapped - PAGE - room, len };
        buffer.open().fill(WATCHED);
        buffer.bytes().fill(0xff);
        buffer
    }

    pub fn of<T: Copy>(values: &[T]) -> Buffer {
        let mut buffer = Buffer::poisoned(size_of_val(values));
        // SAFETY: plain numbers are bytes.
        buffer
            .bytes()
            .copy_from_slice(unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) });
        buffer
    }

    pub fn address(&self) -> u64 {
        self.map as u64 + self.at as u64
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        let (at, len) = (self.at, self.len);
        &mut self.open()[at..at + len]
    }

    pub fn floats(&mut self) -> Vec<f32> {
        self.bytes().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// All but the closed page.
    fn open(&mut self) -> &mut [u8] {
        // SAFETY: within the map, borrowed with it.
        unsafe { std::slice::from_raw_parts_mut(self.map, self.mapped - PAGE) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let (at, end) = (self.at, self.at + self.len);
        let touched = self.open().iter().enumerate().position(|(i, b)| (i < at || i >= end) && *b != WATCHED);
        // SAFETY: the map is this buffer's alone.
        unsafe { libc::munmap(self.map.cast(), self.mapped) };
        if !std::thread::panicking() {
            assert_eq!(touched, None, "a byte outside {at}..{end} was written");
        }
    }
}
