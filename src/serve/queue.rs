//! Between the requests and the one worker that owns the engine: jobs go in, events come out.

use super::metrics::Metrics;
use super::slots::Errand;
use crate::engine::sampler::Sampling;
use crate::engine::{Finish, Limits, Piece, Stats};
use crate::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One answer to be written.
pub struct Job {
    pub prompt: Arc<[u32]>,
    pub sampling: Sampling,
    pub limits: Limits,
    /// Alternatives to name with each token; `None`: no probabilities.
    pub logprobs: Option<usize>,
    /// Which of a request's choices it is.
    pub choice: usize,
    pub arrived: Instant,
    events: UnboundedSender<(usize, Event)>,
    /// Given back at the last word about the job, or when it is dropped without one.
    place: Option<OwnedSemaphorePermit>,
}

/// What the worker says about a job.
#[derive(Debug)]
pub enum Event {
    Piece(Piece),
    Ended(Ended),
    Failed(Error),
}

/// How an answer came out.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub finish: Finish,
    pub stats: Stats,
    /// Which of the request's stop texts it was.
    pub stop: Option<usize>,
    /// Where its conversation lies now.
    pub slot: usize,
}

impl Job {
    /// Nobody waits for it any more.
    pub fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    /// That nobody listens is noticed by [`is_abandoned`](Job::is_abandoned).
    pub fn say(&self, event: Event) {
        let _ = self.events.send((self.choice, event));
    }

    /// The last word. The place is free before that is heard, since whoever hears it may come again at once.
    pub fn end(&mut self, event: Event) {
        self.place = None;
        self.say(event);
    }
}

/// What the worker receives.
pub enum Order {
    Answer(Box<Job>),
    /// Look after slots, before the next step.
    Visit(Errand),
    /// Leave everything and end.
    End,
}

/// The worker's door: bounded by places, of which every job takes one from its request's arrival to its end.
pub struct Queue {
    orders: Sender<Order>,
    places: Arc<Semaphore>,
    most: usize,
}

impl Queue {
    pub fn new(orders: Sender<Order>, places: usize) -> Queue {
        Queue { orders, places: Arc::new(Semaphore::new(places)), most: places }
    }

    /// Jobs there is room for, written and waiting ones together.
    pub fn places(&self) -> usize {
        self.most
    }

    pub fn taken(&self) -> usize {
        self.most - self.places.available_permits()
    }

    /// No place is free now.
    pub fn is_full(&self) -> bool {
        self.places.available_permits() == 0
    }

    /// `count` places, or `None` where so many are not free now.
    pub fn take(&self, count: usize) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_many_owned(u32::try_from(count).ok()?).ok()
    }

    /// Without a worker the order is dropped, which its sender hears.
    pub fn visit(&self, errand: Errand) {
        let _ = self.orders.send(Order::Visit(errand));
    }

    pub fn end(&self) {
        let _ = self.orders.send(Order::End); // a worker that is gone has ended
    }

    /// Hands the jobs of one request to the worker, one for each prompt and choice, in that order. Where there are fewer
    /// `places` the last ones keep them, so that none is free before all have begun. The choices of a prompt draw with seeds
    /// that follow each other.
    pub fn send(&self, request: &Batch, mut places: OwnedSemaphorePermit, metrics: &Metrics) -> Caller {
        let (events, receiver) = unbounded_channel();
        let interrupt = Arc::new(AtomicBool::new(false));
        let (count, held) = (request.prompts.len() * request.n, places.num_permits());
        for choice in 0..count {
            let seed = request.sampling.seed.wrapping_add((choice % request.n) as u64);
            let job = Job {
                prompt: request.prompts[choice / request.n].clone(),
                sampling: Sampling { seed, ..request.sampling.clone() },
                limits: Limits { interrupt: Some(interrupt.clone()), ..request.limits.clone() },
                logprobs: request.logprobs,
                choice,
                arrived: request.arrived,
                events: events.clone(),
                place: if choice >= count.saturating_sub(held) { places.split(1) } else { None },
            };
            metrics.queued();
            // Without a worker the job, and with it the last sender of events, is gone: the caller hears an end.
            let _ = self.orders.send(Order::Answer(Box::new(job)));
        }
        Caller { receiver, interrupt, open: count }
    }
}

/// The jobs of one request.
pub struct Batch {
    pub prompts: Vec<Arc<[u32]>>,
    /// Answers to each prompt.
    pub n: usize,
    pub sampling: Sampling,
    pub limits: Limits,
    pub logprobs: Option<usize>,
    pub arrived: Instant,
}

/// Who waits for the events of one request. Dropping it ends its jobs, in the middle of a step too.
pub struct Caller {
    receiver: UnboundedReceiver<(usize, Event)>,
    interrupt: Arc<AtomicBool>,
    /// Choices not ended yet.
    open: usize,
}

impl Caller {
    /// The next event of any choice; `None` after all have ended, and when the worker is gone.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<(usize, Event)>> {
        let event = std::task::ready!(self.receiver.poll_recv(context));
        if matches!(event, Some((_, Event::Ended(_) | Event::Failed(_)))) {
            self.open -= 1;
        }
        Poll::Ready(event)
    }

    pub async fn next(&mut self) -> Option<(usize, Event)> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// Whether every choice has ended.
    pub fn is_done(&self) -> bool {
        self.open == 0
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.interrupt.store(true, Ordering::Relaxed);
    }
}
