//! What fuzzing needs besides libFuzzer: the doors, a watch over memory, and changes that keep JSON being JSON.

pub mod doors;
pub mod mutate;
mod watch;

pub use libfuzzer_sys;

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::Mutex;

/// A target for libFuzzer: `target!(door)`, or `target!(door, mutate)` with changes of its own.
#[macro_export]
macro_rules! target {
    ($door:path) => {
        $crate::libfuzzer_sys::fuzz_target!(init: $crate::begin(), |data: &[u8]| $crate::enter($door, data));
    };
    ($door:path, $mutate:path) => {
        $crate::target!($door);
        $crate::libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            $mutate(data, size, max_size, seed)
        });
    };
}

/// What the last panic said.
static LAST: Mutex<String> = Mutex::new(String::new());

/// The grammar library catches panics of its own, which is no finding, so a panic may not end the process by itself.
pub fn begin() {
    set_hook(Box::new(|panic| {
        *LAST.lock().expect("nothing panics while holding it") = format!("{panic}");
    }));
}

/// Lets bytes through a door. A panic that comes out of it ends the process, which is what libFuzzer looks for.
pub fn enter(door: fn(&[u8]), data: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| door(data))).is_err() {
        eprintln!("\n{}", LAST.lock().expect("nothing panics while holding it"));
        std::process::abort();
    }
}
