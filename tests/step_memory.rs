//! A step of the forward pass holds what its account says, counted byte by byte as it is asked for.
#![allow(unsafe_code, reason = "an allocator that counts what is held")]

mod tiny;

use kernels::Format;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use thermocline::engine::{Engine, Options};
use thermocline::model::step_bytes;
use tiny::Tiny;

/// Counts the bytes that are held, and the most that were.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(held, Relaxed);
        // SAFETY: the caller's promises are those this asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The only test here: the count is that of the whole process.
#[test]
fn a_step_holds_what_its_account_says() {
    let dir = tempfile::tempdir().unwrap();
    let base = Tiny { context: 2048, vocab: 4096, experts: 6, active: 3, ..Tiny::wide() };
    let cases = [
        ("width", Tiny { width: 2048, heads: 16, kv_heads: 2, neurons: 256, ..base.clone() }),
        ("heads", Tiny { width: 512, heads: 64, kv_heads: 8, neurons: 256, ..base.clone() }),
        ("neurons", Tiny { width: 512, neurons: 4096, active: 6, ..base.clone() }),
        ("vocabulary", Tiny { vocab: 60_000, layers: 1, ..base }),
    ];
    let mut wrong = 0;
    for (name, tiny) in cases {
        let path = tiny.write_gguf(&dir.path().join(name), Format::Q8_0);
        let tokens: Vec<u32> = (0..512).map(|i| (i * 71 + 5) % tiny.vocab as u32).collect();
        for (count, logits) in [(512, 1), (512, 512), (100, 7), (1, 1)] {
            let options = Options { threads: Some(3), chunk: 512, context: Some(1024), logits, ..Options::default() };
            let engine = Engine::open(&path, &options, &mut |_, _| ()).unwrap();
            // The threads' own rooms are made with the first step in which they come to something.
            let (mut most, mut since) = (0, 0);
            while since < 4 {
                engine.session().feed(&tokens[..count], 0..0, &mut |_, _| ()).unwrap();
                let now = HELD.load(Relaxed);
                since = if now > most { 0 } else { since + 1 };
                most = most.max(now);
            }
            let mut session = engine.session();
            session.feed(&tokens[..count], 0..0, &mut |_, _| ()).unwrap();
            let before = HELD.load(Relaxed);
            PEAK.store(before, Relaxed);
            session.feed(&tokens[..count], count - logits..count, &mut |_, _| ()).unwrap();
            let (took, said) = (PEAK.load(Relaxed) - before, step_bytes(engine.config(), count, logits) as usize);
            println!("{name}, {count} tokens, {logits} rows of logits: {took} bytes held, {said} said");
            wrong += usize::from(took > said);
            // The sampler's lists and the copies handed to it are in the account, and not in this step.
            let sampler = 32 * tiny.vocab + (1 << 20);
            wrong += usize::from(said > took * 3 / 2 + sampler);
        }
    }
    assert_eq!(wrong, 0, "accounts are too small or far too large: run it with --nocapture");
}
