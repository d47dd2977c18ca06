//! Memory that is taken away between turns and comes back: experts move between memory and disk, and not a bit changes.

mod tiny;

use kernels::Format;
use thermocline::checkpoint::Checkpoint;
use thermocline::engine::{Adjusted, Engine, Options, Placement, Slots};
use thermocline::planner::memory::{Bound, Free};
use thermocline::planner::replan::{MARGIN, Seen};
use tiny::Tiny;

/// A model of so many experts in all.
fn write(folder: &std::path::Path) -> usize {
    let model = Tiny { experts: 8, vocab: 288, ..Tiny::default() };
    model.write_gguf(&folder.join("model.gguf"), Format::F32);
    model.layers * model.experts
}

fn engine(folder: &std::path::Path, slots: Option<usize>, adjust: bool) -> Engine {
    let placement = Placement { slots: slots.map(Slots::new), ..Placement::default() };
    let options = Options { placement, threads: Some(2), adjust, ..Options::default() };
    Engine::with(Checkpoint::open(&folder.join("model.gguf")).unwrap(), &options, &mut |_, _| ()).unwrap()
}

/// What is free, as if the system said so.
fn seen(bytes: u64) -> Seen {
    Seen { free: Some(Free { bytes, bound: Bound::Machine }), pressure: None }
}

/// Logits of a few turns, `between` each.
fn turns(engine: &Engine, between: &mut dyn FnMut(usize, &Engine)) -> Vec<u32> {
    let mut session = engine.session();
    let mut bits = vec![];
    for turn in 0..6 {
        between(turn, engine);
        let prompt: Vec<u32> = (0..9).map(|i| (i * 7 + turn as u32 * 5) % 90).collect();
        session.feed(&prompt, 0..9, &mut |_, row| bits.extend(row.iter().map(|x| x.to_bits()))).unwrap();
        for token in 0..5 {
            session
                .feed(&[token + turn as u32], 0..1, &mut |_, row| bits.extend(row.iter().map(|x| x.to_bits())))
                .unwrap();
        }
    }
    bits
}

#[test]
fn memory_that_is_taken_and_given_back_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let all = write(folder.path());
    let want = turns(&engine(folder.path(), None, true), &mut |_, _| ());
    let mut slots = vec![];
    let got = turns(&engine(folder.path(), Some(all - 1), true), &mut |turn, engine| {
        let before = engine.store_stats().unwrap();
        let adjusted = engine.adjust(&seen([8 << 30, 0, 0, 8 << 30, MARGIN / 2, 8 << 30][turn]));
        let now = engine.store_stats().unwrap();
        slots.push(now.slots);
        assert!(now.resident <= now.slots, "{now:?}");
        match adjusted {
            None => assert_eq!(now.slots, before.slots),
            Some(Adjusted::Slots { before: from, now: to, .. }) => assert_eq!((from, to), (before.slots, now.slots)),
            Some(other) => panic!("{other}"),
        }
    });
    assert!(got == want, "bits changed");
    let most = all - 1;
    assert!(slots[0] == most && slots[1] < most && slots[2] == slots[1] && slots[3] == most, "{slots:?}");
    assert!(slots[4] < most && slots[5] == most, "{slots:?}");
}

#[test]
fn it_is_said_and_what_cannot_move_stays() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let some = engine(folder.path(), Some(12), true);
    turns(&some, &mut |_, _| ());
    let said = some.adjust(&seen(0)).expect("all is taken").to_string();
    assert!(said.contains("given back") && said.contains("of 12 experts"), "{said}");
    let said = some.adjust(&seen(1 << 34)).expect("it is back").to_string();
    assert!(said.contains("free again") && said.contains("12 in all"), "{said}");
    assert_eq!(some.adjust(&Seen::default()), None, "a system that says nothing changes nothing");
    // What was to stay stays, and mapped ones are the system's to move: said once.
    assert_eq!(engine(folder.path(), Some(12), false).adjust(&seen(0)), None);
    let mapped = engine(folder.path(), None, true);
    let said = mapped.adjust(&seen(0)).expect("said once");
    assert!(said == Adjusted::Mapped { free: 0 } && said.to_string().contains("is mapped"), "{said}");
    assert_eq!(mapped.adjust(&seen(0)), None);
}
