//! The emulator: a library of our own, loaded.

use super::kernels::cuda::Launch;
use super::say;
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::process::Command;

pub type Emulate = unsafe extern "C" fn(*const c_char, *const u32, *const u32, *mut *mut c_void) -> c_int;

/// `None`, said aloud, where there is no C++ compiler.
pub fn emulator() -> Option<Emulate> {
    let compiler = std::env::var("CXX").unwrap_or("c++".into());
    if Command::new(&compiler).arg("--version").output().is_err() {
        say(&format!("NOT RUN: the kernels for CUDA, for want of a C++ compiler ({compiler})"));
        return None;
    }
    let address = load(&compile(&compiler));
    // SAFETY: the address is that of `emulate` in a library that stays loaded.
    Some(unsafe { std::mem::transmute::<usize, Emulate>(address) })
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

pub fn launch(emulate: Emulate, launch: &Launch) {
    let mut words = super::driver::words(launch);
    let mut pointers: Vec<*mut c_void> = words.iter_mut().map(|w| std::ptr::from_mut(w).cast()).collect();
    let name = CString::new(launch.kernel.as_str()).expect("names have no zeros");
    let threads = [launch.threads, 1, 1];
    // SAFETY: the arguments are as many and as wide as the kernel's (little-endian), and the buffers behind addresses are
    // the test's, which is what is tested.
    let status = unsafe { emulate(name.as_ptr(), launch.grid.as_ptr(), threads.as_ptr(), pointers.as_mut_ptr()) };
    assert_eq!(status, 0, "no kernel {}", launch.kernel);
}

/// Memory whose end (but for alignment) is at a forbidden page, bytes around it watched.
pub struct Guarded {
    map: *mut u8,
    mapped: usize,
    /// Where the bytes begin and how many they are.
    at: usize,
    len: usize,
}

const PAGE: usize = 4096;
const WATCHED: u8 = 0xa5;

impl Guarded {
    pub fn of(bytes: &[u8]) -> Guarded {
        let len = bytes.len();
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
        let mut buffer = Guarded { map, mapped, at: mapped - PAGE - room, len };
        buffer.open().fill(WATCHED);
        let at = buffer.at;
        buffer.open()[at..at + len].copy_from_slice(bytes);
        buffer
    }

    pub fn address(&self) -> u64 {
        self.map as u64 + self.at as u64
    }

    pub fn read(&self) -> Vec<u8> {
        // SAFETY: within the map, which lives as long as this.
        unsafe { std::slice::from_raw_parts(self.map.add(self.at), self.len) }.to_vec()
    }

    /// All but the closed page.
    fn open(&mut self) -> &mut [u8] {
        // SAFETY: within the map, borrowed with it.
        unsafe { std::slice::from_raw_parts_mut(self.map, self.mapped - PAGE) }
    }
}

impl Drop for Guarded {
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
