//! A server that speaks OpenAI's API: one worker owns the engine, requests queue with a bound.
//!
//! Everything async is in this room. A request is read and tokenised beside the others, takes a place in the queue, and
//! hears from the worker through a channel; when nobody listens any more, its answer ends within a token.

mod answers;
mod ask;
mod choice;
mod conversation;
pub mod desk;
mod door;
mod failure;
mod fields;
mod figures;
mod form;
mod hold;
mod line;
mod look;
mod messages;
mod metrics;
mod offers;
mod queue;
mod responses;
mod routes;
mod shape;
mod slots;
mod stream;
mod talk;
mod thermocline;
mod tools;
mod watch;
mod words;
mod worker;

pub use routes::ROUTES;

use crate::engine::Engine;
use crate::engine::sampler::Sampling;
use crate::error::{Error, Result};
use metrics::Metrics;
use queue::{Order, Queue};
use std::hash::{BuildHasher, RandomState};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thermocline::Scene;
use tokio::sync::{Semaphore, oneshot, watch as signal};
use worker::Worker;

/// Bytes of one request's body.
const MOST_BODY: usize = 8 << 20;
/// For those whose answers were cut off at the end, to hear so.
const FAREWELL: Duration = Duration::from_secs(5);
/// Of each thread: schemas and templates are compiled there, which goes down the stack with them; only what is used is memory.
const STACK: usize = 16 << 20;
/// What answers say they come from.
const FINGERPRINT: &str = concat!("thermocline-", env!("CARGO_PKG_VERSION"));

/// How a server is set up.
pub struct Settings {
    /// A name or an address; 0 lets the system choose a port.
    pub host: String,
    pub port: u16,
    /// Any of them opens the door; none: it is open.
    pub keys: Vec<String>,
    /// The origin whose pages may read answers; `*`: any.
    pub cors: Option<String>,
    /// Names the model answers to besides its own.
    pub aliases: Vec<String>,
    /// Answers written at a time, and answers waiting beyond those.
    pub slots: usize,
    pub queue: usize,
    /// Where conversations may be saved; `None`: nowhere.
    pub slot_folder: Option<PathBuf>,
    /// For one request, from its arrival to its end.
    pub timeout: Duration,
    /// For answers in progress after the server was told to end.
    pub drain: Duration,
    /// What a request does not say.
    pub sampling: Sampling,
    /// Of requests that bring none; `None`: a new one each time.
    pub seed: Option<u64>,
    /// Whether the log may hold what people ask.
    pub log_prompts: bool,
}

/// The model, once it is there.
pub struct Loaded {
    pub engine: Engine,
    /// What reports call it.
    pub name: String,
    /// Tokens a second that one answer alone is expected to get.
    pub predicted: Option<f64>,
}

/// A server that listens and does not answer yet.
pub struct Server {
    house: Arc<House>,
    listener: TcpListener,
    orders: Receiver<Order>,
    end: signal::Sender<bool>,
}

/// Asks a server to end.
#[derive(Clone)]
pub struct Ender(signal::Sender<bool>);

impl Ender {
    pub fn end(&self) {
        self.0.send_replace(true);
    }
}

/// What all requests share.
struct House {
    settings: Settings,
    address: SocketAddr,
    served: OnceLock<Arc<Served>>,
    queue: Queue,
    /// Places of texts that are only tokenised, or written out.
    words: Arc<Semaphore>,
    /// Held while a long text is worked on.
    long: Arc<Semaphore>,
    metrics: Metrics,
    scene: Scene,
    /// True once the server was told to end.
    ending: signal::Receiver<bool>,
    /// True once answers in progress are cut off.
    cut: signal::Sender<bool>,
}

impl House {
    /// Waits until answers in progress are cut off.
    fn cut(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut cut = self.cut.subscribe();
        async move { drop(cut.wait_for(|cut| *cut).await) }
    }
}

/// The model as requests see it.
struct Served {
    engine: Engine,
    id: String,
    created: u64,
    aliases: Vec<String>,
    slots: usize,
    predicted: Option<f64>,
}

impl Served {
    fn new(loaded: Loaded, settings: &Settings) -> Served {
        Served {
            engine: loaded.engine,
            id: loaded.name,
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            aliases: settings.aliases.clone(),
            slots: settings.slots,
            predicted: loaded.predicted,
        }
    }

    fn answers_to(&self, name: &str) -> bool {
        name == self.id || self.aliases.iter().any(|alias| alias == name)
    }
}

impl Server {
    /// Takes the port. Errors (usage): an address that cannot be had.
    pub fn bind(settings: Settings) -> Result<Server> {
        let failed =
            |e: std::io::Error| Error::Usage(format!("cannot listen on {}:{}: {e}", settings.host, settings.port));
        let addresses: Vec<SocketAddr> =
            (settings.host.as_str(), settings.port).to_socket_addrs().map_err(failed)?.collect();
        let listener = TcpListener::bind(addresses.as_slice()).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (sender, orders) = mpsc::channel();
        let queue = Queue::new(sender, settings.slots + settings.queue);
        let (end, ending) = signal::channel(false);
        let (metrics, scene) = (Metrics::default(), Scene::default());
        let (words, long) = (Arc::new(Semaphore::new(words::MOST_WORDS)), Arc::new(Semaphore::new(1)));
        let served = OnceLock::new();
        let (cut, _) = signal::channel(false);
        let house = House { settings, address, served, queue, words, long, metrics, scene, ending, cut };
        Ok(Server { house: Arc::new(house), listener, orders, end })
    }

    pub fn address(&self) -> SocketAddr {
        self.house.address
    }

    pub fn ender(&self) -> Ender {
        Ender(self.end.clone())
    }

    /// Answers until it is told to end and the answers in progress are written. Until `load` is done everything but
    /// `/health` is refused with 503.
    pub fn run(self, load: impl FnOnce() -> Result<Loaded> + Send + 'static) -> Result<()> {
        let Server { house, listener, orders, end } = self;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(2)
            .thread_stack_size(STACK)
            .build()
            .map_err(|e| Error::Runtime(format!("the server cannot start: {e}")))?;
        let (ended, mut worker_ended) = oneshot::channel();
        let mut stopping = end.subscribe();
        let (inside, ender) = (house.clone(), Ender(end));
        let worker = std::thread::Builder::new()
            .name("engine".into())
            .stack_size(STACK)
            .spawn(move || {
                let _last = Last(ender); // also where it panics
                let loaded = load().map(|loaded| serve(loaded, orders, inside));
                let _ = ended.send(loaded.err());
            })
            .map_err(|e| Error::Runtime(format!("the system starts no thread: {e}")))?;
        runtime.block_on(async {
            let listener = line::Door::new(listener)?;
            let app = routes::router(house.clone()).into_make_service_with_connect_info::<line::Busy>();
            let mut told = stopping.clone();
            let graceful = async move { drop(told.wait_for(|end| *end).await) };
            let serving = axum::serve(listener, app).with_graceful_shutdown(graceful);
            let drain = house.settings.drain;
            let too_long = async {
                let _ = stopping.wait_for(|end| *end).await;
                tokio::time::sleep(drain).await;
            };
            let mut serving = std::pin::pin!(serving.into_future());
            tokio::select! {
                served = &mut serving => served?,
                // Connections may be left over that ask for nothing.
                () = too_long => if house.queue.taken() > 0 {
                    tracing::warn!("answers in progress were cut off after {} s", drain.as_secs());
                    house.cut.send_replace(true);
                    let _ = tokio::time::timeout(FAREWELL, serving).await; // who does not listen is not waited for
                }
            }
            Ok::<(), Error>(())
        })?;
        house.queue.end();
        drop(runtime); // callers left over are dropped, which ends their answers
        // A model still being loaded is nothing to wait for.
        if house.served.get().is_some() && worker.join().is_err() {
            return Err(Error::Runtime("the engine's thread has ended by a fault of this program".into()));
        }
        worker_ended.try_recv().ok().flatten().map_or(Ok(()), Err)
    }
}

/// Tells the server to end when the worker does.
struct Last(Ender);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The worker's life after loading.
fn serve(loaded: Loaded, orders: Receiver<Order>, house: Arc<House>) {
    let slots = house.settings.slots;
    let served = Served::new(loaded, &house.settings);
    let engine = served.engine.clone();
    let ready = format!("ready: {} at http://{}", served.id, house.address);
    let _ = house.served.set(Arc::new(served)); // set once, here
    tracing::info!("{ready}"); // who reads it may ask at once
    Worker::new(engine, slots, orders, house).work();
}

/// A name nobody else has.
fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let hash = RandomState::new();
    format!("{:016x}{:08x}", hash.hash_one(count), count as u32)
}
