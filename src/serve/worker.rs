//! The one thread that owns the engine's sessions. In each round one prompt is read a step further, and every answer gets a
//! token, all in one step of the model.

use super::House;
use super::failure::{Failure, Outcome};
use super::queue::{Ended, Event, Job, Order};
use super::slots::Act;
use crate::engine::{self, Answer, Engine, Finish, Piece, Session};
use crate::error::Result;
use crate::planner::replan::Seen;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

/// Tokens of a beginning that are worth waiting for or copying: fewer are computed as fast.
const WORTH: usize = 16;

/// A session and, perhaps, what is being written in it.
struct Slot {
    session: Session,
    writing: Option<Writing>,
    /// When it was last given a job; the smallest was idle longest.
    used: u64,
}

struct Writing {
    job: Box<Job>,
    /// `None` until its first turn.
    answer: Option<Answer>,
    /// In which round its prompt was last read on.
    read: u64,
    /// Tokens written so far, and when the last of them was.
    tokens: usize,
    last: Option<Instant>,
}

pub struct Worker {
    engine: Engine,
    house: Arc<House>,
    orders: Receiver<Order>,
    waiting: VecDeque<Box<Job>>,
    /// Made as they are needed.
    slots: Vec<Slot>,
    most_slots: usize,
    /// Jobs seated, and steps of prompts, so far.
    jobs: u64,
    rounds: u64,
}

impl Worker {
    pub fn new(engine: Engine, most_slots: usize, orders: Receiver<Order>, house: Arc<House>) -> Worker {
        Worker { engine, house, orders, waiting: VecDeque::new(), slots: Vec::new(), most_slots, jobs: 0, rounds: 0 }
    }

    /// Until it is told to end.
    pub fn work(mut self) {
        while self.receive() {
            self.waiting.retain(|job| {
                let abandoned = job.is_abandoned();
                if abandoned {
                    self.house.metrics.cancelled();
                }
                !abandoned
            });
            self.seat();
            self.begin_all();
            self.read();
            self.write();
            let busy = self.slots.iter().filter(|slot| slot.writing.is_some()).count();
            self.house.metrics.set_load(busy, self.waiting.len());
        }
    }

    /// Takes in what has come; waits for it where there is nothing to do. False when it is time to end.
    fn receive(&mut self) -> bool {
        let idle = self.waiting.is_empty() && self.slots.iter().all(|slot| slot.writing.is_none());
        if idle {
            let Ok(order) = self.orders.recv() else { return false };
            if !self.obey(order) {
                return false;
            }
            // Between answers, experts move as others took memory or gave it back.
            if let Some(adjusted) = self.engine.adjust(&Seen::now()) {
                tracing::warn!("{adjusted}");
            }
            if let Some(rearranged) = self.engine.rearrange() {
                tracing::warn!("{rearranged}");
            }
        }
        loop {
            match self.orders.try_recv() {
                Ok(order) => {
                    if !self.obey(order) {
                        return false;
                    }
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// False when it is time to end.
    fn obey(&mut self, order: Order) -> bool {
        match order {
            Order::Answer(job) => self.waiting.push_back(job),
            Order::Visit(errand) => {
                let outcome = match &errand.act {
                    None => Ok(self.picture()),
                    Some((id, act)) => self.visit(*id, act),
                };
                errand.done(outcome);
            }
            Order::End => return false,
        }
        true
    }

    /// What each slot holds, those not made yet too.
    fn picture(&self) -> Value {
        let slot = |id: usize| {
            let slot = self.slots.get(id);
            json!({
                "id": id,
                "n_ctx": self.engine.context(),
                "is_processing": slot.is_some_and(|slot| slot.writing.is_some()),
                "n_past": slot.map_or(0, |slot| slot.session.tokens().len()),
            })
        };
        (0..self.most_slots).map(slot).collect()
    }

    /// Saves, restores or erases the conversation of a slot that nothing is being written in.
    fn visit(&mut self, id: usize, act: &Act) -> Outcome<Value> {
        while self.slots.len() <= id {
            self.slots.push(Slot { session: self.engine.session(), writing: None, used: 0 });
        }
        let slot = &mut self.slots[id];
        if slot.writing.is_some() {
            return Err(Failure::unavailable(format!(
                "an answer is being written in slot {id}; try again when it is done"
            )));
        }
        let outcome = act.carry_out(id, &mut slot.session)?;
        // What is asked for is not what was idle longest.
        self.jobs += 1;
        slot.used = self.jobs;
        Ok(outcome)
    }

    /// Gives waiting jobs, first come first served, a slot each.
    fn seat(&mut self) {
        while let Some(prompt) = self.waiting.front().map(|job| job.prompt.clone()) {
            let Some(at) = self.slot_for(&prompt) else { return };
            let job = self.waiting.pop_front().expect("looked at above");
            self.jobs += 1;
            self.house.metrics.seated(job.arrived.elapsed());
            let slot = &mut self.slots[at];
            slot.used = self.jobs;
            // Behind the prompts that have waited for longer, before the one that was read on last.
            let read = self.rounds.saturating_sub(1);
            slot.writing = Some(Writing { job, answer: None, read, tokens: 0, last: None });
        }
    }

    /// A free slot for a prompt: the one whose conversation goes on, else a new one, else the one idle longest.
    fn slot_for(&mut self, prompt: &[u32]) -> Option<usize> {
        let free: Vec<usize> = (0..self.slots.len()).filter(|&at| self.slots[at].writing.is_none()).collect();
        let best = free.iter().copied().max_by_key(|&at| self.slots[at].session.shares(prompt));
        if let Some(at) = best {
            let session = &self.slots[at].session;
            let shared = session.shares(prompt);
            // Most of what it holds is wanted again, so little is lost by going on in it.
            if shared >= WORTH && 2 * shared >= session.tokens().len() {
                return Some(at);
            }
        }
        if let Some(at) = free.iter().copied().find(|&at| self.slots[at].session.tokens().is_empty()) {
            return Some(at);
        }
        if self.slots.len() < self.most_slots {
            self.slots.push(Slot { session: self.engine.session(), writing: None, used: 0 });
            return Some(self.slots.len() - 1);
        }
        free.into_iter().min_by_key(|&at| self.slots[at].used)
    }

    /// Drops what nobody waits for, and begins what can begin.
    fn begin_all(&mut self) {
        for at in 0..self.slots.len() {
            let Some(mut writing) = self.slots[at].writing.take() else { continue };
            if writing.job.is_abandoned() {
                writing.answer.iter().for_each(|answer| self.house.metrics.cost(&answer.stats()));
                self.house.metrics.cancelled();
                continue;
            }
            let alone = writing.job.limits.judge_prompt; // all of its prompt is read, whoever else reads it
            if writing.answer.is_none() && (alone || !self.somebody_reads(&writing.job.prompt, at)) {
                match self.begin(&writing.job, at) {
                    Ok(answer) => writing.answer = Some(answer),
                    Err(e) => {
                        self.house.metrics.failed();
                        writing.job.end(Event::Failed(e));
                        continue;
                    }
                }
            }
            self.slots[at].writing = Some(writing);
        }
    }

    /// One step of one prompt, so that answers in progress wait for no more: prompts take turns.
    fn read(&mut self) {
        let reading = |slot: &Slot| {
            let writing = slot.writing.as_ref()?;
            writing.answer.as_ref().is_some_and(Answer::is_reading).then_some(writing.read)
        };
        let next = (0..self.slots.len()).filter_map(|at| Some((reading(&self.slots[at])?, at))).min();
        let Some((_, at)) = next else { return };
        self.rounds += 1;
        let Slot { session, writing, .. } = &mut self.slots[at];
        let writing = writing.as_mut().expect("it reads");
        writing.read = self.rounds;
        let outcome = writing.answer.as_mut().expect("it reads").advance(session);
        self.tell(at, outcome);
    }

    /// One token of every answer whose prompt is read, in one step of the model.
    fn write(&mut self) {
        let (mut seats, mut turns) = (Vec::new(), Vec::new());
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let answer = slot.writing.as_mut().and_then(|writing| writing.answer.as_mut());
            if let Some(answer) = answer.filter(|answer| !answer.is_reading()) {
                seats.push(at);
                turns.push((&mut slot.session, answer));
            }
        }
        let started = Instant::now();
        let written =
            |turns: &[(&mut Session, &mut Answer)]| turns.iter().map(|turn| turn.1.stats().decode_tokens).sum();
        let before: usize = written(&turns);
        let outcomes = engine::advance(&mut turns);
        if !seats.is_empty() {
            self.house.metrics.wrote(written(&turns) - before, started.elapsed());
        }
        for (at, outcome) in seats.into_iter().zip(outcomes) {
            self.tell(at, outcome);
        }
    }

    /// Whether another slot is about to have read more of this prompt's beginning than any has now.
    fn somebody_reads(&self, prompt: &[u32], at: usize) -> bool {
        let have = self.slots.iter().map(|slot| slot.session.shares(prompt)).max().unwrap_or(0);
        let reading = |writing: &Writing| writing.answer.as_ref().is_some_and(Answer::is_reading);
        self.slots.iter().enumerate().any(|(other, slot)| {
            let Some(writing) = slot.writing.as_ref().filter(|w| other != at && reading(w)) else { return false };
            let common = writing.job.prompt.iter().zip(prompt).take_while(|(a, b)| a == b).count();
            common >= have + WORTH
        })
    }

    /// Begins an answer, with the longest beginning any slot holds.
    fn begin(&mut self, job: &Job, at: usize) -> Result<Answer> {
        let own = self.slots[at].session.shares(&job.prompt);
        let others = (0..self.slots.len()).filter(|&other| other != at);
        let best = others.map(|other| (self.slots[other].session.shares(&job.prompt), other)).max();
        let worth = |(shared, _): &(usize, usize)| *shared >= own + WORTH && !job.limits.judge_prompt;
        if let Some((shared, other)) = best.filter(worth) {
            let [to, from] = self.slots.get_disjoint_mut([at, other]).expect("two different slots");
            to.session.copy(&from.session, shared)?;
        }
        let answer = self.slots[at].session.begin(&job.prompt, &job.sampling, &job.limits)?;
        Ok(match job.logprobs {
            Some(top) => answer.with_logprobs(top),
            None => answer,
        })
    }

    /// Hands on what a step gave, and frees the slot when that was the end.
    fn tell(&mut self, at: usize, outcome: Result<Option<Piece>>) {
        let metrics = &self.house.metrics;
        let Some(writing) = &mut self.slots[at].writing else { return };
        let stats = writing.answer.as_ref().map(Answer::stats).unwrap_or_default();
        match outcome {
            Ok(Some(piece)) => {
                if stats.decode_tokens > writing.tokens {
                    let now = Instant::now();
                    let count = (stats.decode_tokens - writing.tokens) as u32;
                    match writing.last.replace(now) {
                        None => metrics.first_token(writing.job.arrived.elapsed()),
                        // Several come at once where they had been guessed.
                        Some(last) => (0..count).for_each(|_| metrics.next_token((now - last) / count)),
                    }
                    writing.tokens = stats.decode_tokens;
                }
                if !piece.text.is_empty() || !piece.tokens.is_empty() {
                    writing.job.say(Event::Piece(piece));
                }
                return;
            }
            Ok(None) => {
                let finish = writing.answer.as_ref().and_then(Answer::finish).unwrap_or(Finish::Interrupted);
                let ended = Ended { finish, stats, stop: writing.answer.as_ref().and_then(Answer::stop), slot: at };
                metrics.cost(&stats);
                match finish {
                    Finish::Interrupted => metrics.cancelled(),
                    _ => metrics.ended(),
                }
                log(&ended, &writing.job);
                writing.job.end(Event::Ended(ended));
            }
            Err(e) => {
                metrics.cost(&stats);
                metrics.failed();
                tracing::error!("an answer failed: {e}");
                writing.job.end(Event::Failed(e));
            }
        }
        self.slots[at].writing = None;
    }
}

/// What the log says about an answer: figures, never words of it.
fn log(ended: &Ended, job: &Job) {
    let Ended { finish, stats, .. } = ended;
    let (prompt, reused, written) = (stats.prompt_tokens, stats.reused_tokens, stats.decode_tokens);
    let speed = if stats.step_tokens > 0 { stats.step_tokens as f64 / stats.decode_seconds } else { 0.0 };
    let seconds = job.arrived.elapsed().as_secs_f64();
    tracing::info!(
        prompt,
        reused,
        written,
        speed,
        finish = ?finish,
        seconds,
        "answer: prompt {prompt} tokens (and {reused} from before), {written} written at {speed:.1} tok/s"
    );
}
