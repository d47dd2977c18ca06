//! The bundled model, opened once: what bodies, grammars and saved sessions are read with.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;
use thermocline::engine::sampler::Sampling;
use thermocline::engine::{Engine, Options};
use thermocline::serve::desk::Desk;
use thermocline::serve::{Loaded, Settings};

/// Positions of a context, so that a prompt can be too long without being large.
const CONTEXT: usize = 512;

/// The folder of the bundled model, which is seen from the crate of the targets and from the product's own tests.
pub fn model() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = [here, &here.join("..")].map(|root| root.join("assets/tiny")).into_iter().find(|path| path.is_dir());
    found.expect("the bundled model lies in the repository")
}

pub fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let options = Options { context: Some(CONTEXT), threads: Some(1), rewind: 0, ..Options::default() };
        Engine::open(&model(), &options, &mut |_, _| {}).expect("the bundled model opens")
    })
}

pub fn desk() -> &'static Desk {
    static DESK: OnceLock<Desk> = OnceLock::new();
    DESK.get_or_init(|| {
        let settings = Settings {
            host: "127.0.0.1".into(),
            port: 0,
            keys: vec![],
            cors: None,
            aliases: vec!["tiny".into()],
            slots: 4,
            queue: 60,
            slot_folder: None,
            timeout: Duration::from_secs(60),
            drain: Duration::from_secs(60),
            sampling: Sampling::default(),
            seed: Some(1),
            log_prompts: false,
        };
        Desk::new(Loaded { engine: engine().clone(), name: "bundled".into(), predicted: None }, settings)
    })
}
