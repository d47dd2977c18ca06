//! The loop that turns logits into pieces of text, one step of the model at a time.

use super::Session;
use super::across::Writing;
use super::draft::{Drafter, Place};
use super::grammar::{Grammar, Walk};
use super::sampler::{Logprobs, Sampler, Sampling};
use super::stops::Stops;
use super::text::TextStream;
use crate::error::{Error, Result};
use crate::host::Share;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

/// When an answer ends, besides at an end-of-sequence id.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Most tokens to generate; `None`: until the context is full.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// What the answer is held to. It ends where nothing can follow; before that an end-of-sequence id ends it only where
    /// the grammar may end.
    pub grammar: Option<Grammar>,
    /// Most tokens guessed for one step, and no more than the engine guesses; `None`: as many.
    pub guesses: Option<usize>,
    /// Probabilities, where they are asked for, are named of the prompt's tokens too, with the first piece. All of the prompt
    /// is read for it, whatever the cache holds.
    pub judge_prompt: bool,
    /// Set from elsewhere (Ctrl-C) to end the answer, in the middle of a step too.
    pub interrupt: Option<Arc<AtomicBool>>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// An end-of-sequence id.
    Eos,
    /// A stop text.
    Stop,
    /// The grammar allows nothing more.
    Complete,
    /// `max_tokens` reached.
    Length,
    /// No position left in the context.
    ContextFull,
    Interrupted,
}

/// What one answer cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Prompt tokens computed now, and those found in the cache.
    pub prompt_tokens: usize,
    pub reused_tokens: usize,
    /// Tokens that were in the cache but had to be computed again, since a sliding window had moved past them.
    pub lost_tokens: usize,
    pub prompt_seconds: f64,
    /// Tokens of the answer, and steps they took: the first comes out of the prompt's last step.
    pub decode_tokens: usize,
    pub decode_steps: usize,
    /// Tokens that came out of those steps: what the speed counts. As many as steps, but for guesses that were right.
    pub step_tokens: usize,
    /// Tokens guessed ahead of the model, and those of them that were right.
    pub drafted: usize,
    pub accepted: usize,
    pub decode_seconds: f64,
    /// Of the tokens, those that were no longer the model's choice: they brought JSON to an end before the limit.
    pub landed_tokens: usize,
    /// Bytes of weights and cache read, counted as they are read.
    pub prompt_bytes: u64,
    pub decode_bytes: u64,
}

/// What one step added to an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// Valid UTF-8; often empty, for characters and stop texts may take several tokens.
    pub text: String,
    /// Tokens whose text begins in what has been shown so far and was not shown before. A token that only began a stop
    /// text is never among them. In the first piece those of the prompt come before them, where it is judged.
    pub tokens: Vec<Token>,
}

/// One token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub id: u32,
    /// Where they were asked for.
    pub logprobs: Option<Logprobs>,
}

/// An answer being written. It owns everything but the session it is written in, so that several can take turns.
pub struct Answer {
    /// Experts keep their sides until it is dropped.
    _writing: Writing,
    sampler: Sampler,
    stops: Stops,
    stream: TextStream,
    limits: Limits,
    /// How many alternatives to name with each token; `None`: no probabilities at all.
    logprobs: Option<usize>,
    walk: Option<Walk>,
    /// Of the prompt, what is not in the cache yet.
    unread: VecDeque<u32>,
    /// Of the prompt's tokens, those with something to be said of them.
    judged: Vec<Token>,
    /// Of the last step, `[1 + guesses, vocab]`, and which of them the next token is drawn from.
    logits: Vec<f32>,
    row: usize,
    /// Sampled and shown, not yet in the cache.
    pending: Option<u32>,
    /// In the cache, though nobody has drawn them yet: the first is held against the next token. None between steps.
    guessed: VecDeque<u32>,
    right: usize,
    drafter: Drafter,
    /// Tokens not yet handed out, each with the place in the text where it begins.
    held: VecDeque<(usize, Token)>,
    /// Bytes of text decoded, and shown.
    decoded: usize,
    shown: usize,
    stats: Stats,
    finish: Option<Finish>,
    flushed: bool,
}

impl Answer {
    pub(super) fn begin(session: &mut Session, prompt: &[u32], sampling: &Sampling, limits: &Limits) -> Result<Answer> {
        let Some(last) = prompt.len().checked_sub(1) else {
            return Err(Error::Usage("an empty prompt has no next token".into()));
        };
        session.check(0, prompt)?; // before anything of the cache is given up
        let text = &session.shared().text;
        let sampler = Sampler::new(sampling, text.limit())?.forbid(&text.holes());
        let stops = Stops::new(&limits.stop)?;
        let common = session.tokens().iter().zip(prompt).take_while(|(a, b)| a == b).count().min(last);
        let chances = session.shared().chances.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut drafting = session.shared().drafting;
        drafting.max = limits.guesses.map_or(drafting.max, |most| most.min(drafting.max));
        let mut stats = Stats::default();
        let common = if limits.judge_prompt { 0 } else { common };
        if session.truncate(common) {
            stats.reused_tokens = common
        } else {
            stats.lost_tokens = common
        }
        Ok(Answer {
            _writing: session.shared().across.writing(),
            sampler,
            stops,
            stream: TextStream::new(),
            limits: limits.clone(),
            logprobs: None,
            walk: limits.grammar.as_ref().map(Grammar::walk),
            unread: prompt[stats.reused_tokens..].iter().copied().collect(),
            judged: Vec::new(),
            logits: Vec::new(),
            row: 0,
            pending: None,
            guessed: VecDeque::new(),
            right: 0,
            drafter: Drafter::new(drafting, chances),
            held: VecDeque::new(),
            decoded: 0,
            shown: 0,
            stats,
            finish: None,
            flushed: false,
        })
    }

    /// Says with each token what the model thought of it and of the `top` likeliest ones.
    pub fn with_logprobs(mut self, top: usize) -> Answer {
        self.logprobs = Some(top);
        self
    }

    /// What it cost so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Which of the stop texts ended it.
    pub fn stop(&self) -> Option<usize> {
        self.stops.index()
    }

    /// `Some` once [`advance`](Answer::advance) has nothing more to give.
    pub fn finish(&self) -> Option<Finish> {
        if self.flushed { self.finish } else { None }
    }

    /// Whether the prompt is not all read yet.
    pub fn is_reading(&self) -> bool {
        self.finish.is_none() && !self.unread.is_empty()
    }

    /// One step of the model further, in the session it was begun in: a piece of the prompt, or one token. `None` once the
    /// answer is over.
    pub fn advance(&mut self, session: &mut Session) -> Result<Option<Piece>> {
        if self.is_reading() {
            self.read(session)?;
            if self.is_reading() {
                return Ok(Some(Piece::default()));
            }
        }
        let started = Instant::now();
        let before = session.shared().host.touched();
        let host = session.shared().host.clone();
        // Several answers may have been fed together: then there is only a choice left to make.
        let name = if self.pending.is_some() { "token" } else { "choice of a token" };
        let text = match self.finish {
            None => host.spanned(name, 1, || self.write(session)),
            Some(_) => Ok(String::new()),
        };
        self.stats.decode_seconds += started.elapsed().as_secs_f64();
        self.stats.decode_bytes += session.shared().host.touched() - before;
        let mut text = text.inspect_err(|_| (self.finish, self.flushed) = (Some(Finish::Interrupted), true))?;
        if self.flushed {
            return Ok(None);
        }
        if self.finish.is_some() {
            text.push_str(&self.flush());
        }
        Ok(Some(self.piece(text)))
    }

    /// The next step of the prompt.
    pub(super) fn read(&mut self, session: &mut Session) -> Result<()> {
        let started = Instant::now();
        let before = session.shared().host.touched();
        let count = self.unread.len().min(session.shared().kv.chunk);
        let part: Vec<u32> = self.unread.iter().take(count).copied().collect();
        let judge = self.logprobs.filter(|_| self.limits.judge_prompt);
        let last = if count == self.unread.len() { count - 1..count } else { 0..0 };
        let want = if judge.is_some() { 0..count } else { last.clone() };
        if judge.is_some() && self.judged.is_empty() {
            self.judged.push(Token { id: part[0], logprobs: None }); // nothing came before it
        }
        let (logits, interrupt) = (&mut self.logits, self.limits.interrupt.as_deref());
        let (unread, sampler, judged, mut odd) = (&self.unread, &mut self.sampler, &mut self.judged, Ok(()));
        let mut take = |index: usize, row: &[f32]| {
            if last.contains(&index) {
                *logits = row.to_vec();
            } else if let (Some(top), Some(&id)) = (judge, unread.get(index + 1)) {
                match sampler.judge(&mut row.to_vec(), id, top) {
                    Ok(said) => judged.push(Token { id, logprobs: Some(said) }),
                    Err(e) => odd = Err(e),
                }
            }
        };
        let host = session.shared().host.clone();
        let whole = host.spanned("prompt step", count, || session.feed_until(&part, want, interrupt, &mut take))?;
        odd?;
        self.row = 0;
        if whole {
            self.unread.drain(..count);
            self.stats.prompt_tokens += count;
        } else {
            self.finish = Some(Finish::Interrupted);
        }
        self.stats.prompt_seconds += started.elapsed().as_secs_f64();
        self.stats.prompt_bytes += session.shared().host.touched() - before;
        Ok(())
    }

    /// A step further: text to show, maybe none yet. Sets `finish` when there will be no more.
    fn write(&mut self, session: &mut Session) -> Result<String> {
        self.finish = self.ended(session);
        if self.finish.is_none() && self.pending.is_some() {
            match compute(&mut [(&mut *session, &mut *self)]) {
                Err(Error::Interrupted) => self.finish = Some(Finish::Interrupted),
                computed => {
                    computed?;
                }
            }
        }
        let host = session.shared().host.clone();
        let text = match self.finish {
            None => host.timed(Share::Sample, || self.draw_all(session)),
            Some(_) => Ok(String::new()),
        };
        self.forget(session);
        if self.finish.is_some() {
            let mut learnt = session.shared().chances.lock().unwrap_or_else(PoisonError::into_inner);
            learnt.clone_from(&self.drafter.chances);
        }
        text
    }

    /// What the next step computes: the pending token, and guesses of what follows it, `most` at most, worth it in a step
    /// with so many tokens of others.
    fn ahead(&mut self, session: &mut Session, most: usize, others: usize) -> Result<Vec<u32>> {
        let pending = self.pending.expect("only then there is something to compute");
        let left = self.limits.max_tokens.map_or(usize::MAX, |most| most.saturating_sub(self.stats.decode_tokens));
        let free = session.capacity() - session.tokens().len() - 1;
        let room = free.min(left.saturating_sub(1)).min(most).min(self.drafter.most());
        let place = Place { pending, room, others, interrupt: self.limits.interrupt.as_deref() };
        let mut tokens = vec![pending];
        if room > 0 {
            tokens.extend(self.drafter.guess(session, &place)?);
        }
        Ok(tokens)
    }

    /// `tokens` are in the session now, and these are their logits.
    fn computed(&mut self, tokens: &[u32], logits: &[f32]) {
        self.pending = None;
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.guessed = tokens[1..].iter().copied().collect();
        (self.row, self.right) = (0, 0);
        self.stats.decode_steps += 1;
        self.stats.drafted += self.guessed.len();
    }

    /// Draws tokens for as long as they are those that were guessed, and one more.
    fn draw_all(&mut self, session: &mut Session) -> Result<String> {
        let mut text = self.draw(session)?;
        while self.finish.is_none() && self.pending.is_none() {
            self.finish = self.ended(session);
            if self.finish.is_none() {
                text.push_str(&self.draw(session)?);
            }
        }
        Ok(text)
    }

    /// The next token, drawn from the model's logits for its position as it would be without guesses.
    fn draw(&mut self, session: &mut Session) -> Result<String> {
        let known = session.tokens().len() - self.guessed.len();
        let (id, logprobs) = self.choose(session, known)?;
        self.stats.decode_tokens += 1;
        self.stats.step_tokens += usize::from(self.stats.decode_steps > 0);
        let right = self.guessed.front() == Some(&id);
        if right {
            self.guessed.pop_front();
            (self.row, self.right) = (self.row + 1, self.right + 1);
            self.stats.accepted += 1;
        } else {
            self.forget(session);
        }
        let text = &session.shared().text;
        if text.is_eos(id) {
            self.finish = Some(Finish::Eos);
            return Ok(String::new());
        }
        if let Some(walk) = &mut self.walk
            && walk.take(id)?
        {
            self.finish = Some(Finish::Complete);
        }
        self.pending = (!right).then_some(id);
        self.held.push_back((self.decoded, Token { id, logprobs }));
        let decoded = self.stream.push(text.piece(id));
        self.decoded += decoded.len();
        let shown = self.stops.push(&decoded);
        if self.stops.found().is_some() {
            self.finish = Some(Finish::Stop);
        }
        Ok(shown)
    }

    /// A token of those that are allowed, after the first `known` of the session.
    fn choose(&mut self, session: &Session, known: usize) -> Result<(u32, Option<Logprobs>)> {
        let (text, vocab) = (&session.shared().text, session.shared().config.vocab);
        let (logits, recent) = (&mut self.logits[self.row * vocab..][..vocab], &session.tokens()[..known]);
        let (sampler, top) = (&mut self.sampler, self.logprobs);
        let sample = |sampler: &mut Sampler, logits: &mut [f32]| match top {
            None => Ok((sampler.sample(logits, recent)?, None)),
            Some(top) => sampler.sample_with_logprobs(logits, recent, top).map(|(id, said)| (id, Some(said))),
        };
        if let Some(walk) = &mut self.walk {
            let room = session.capacity() + 1 - known;
            let left = self.limits.max_tokens.map_or(room, |most| room.min(most - self.stats.decode_tokens));
            sampler.allow(walk.allowed(left)?);
            if walk.is_near_its_end() {
                // It may have to be drawn again, from the same logits.
                let drawn = sample(sampler, &mut logits.to_vec())?;
                if text.is_eos(drawn.0) || !walk.strands(drawn.0, left) {
                    return Ok(drawn);
                }
                sampler.allow(walk.allowed(left)?);
            }
            self.stats.landed_tokens += usize::from(walk.is_landing());
        }
        sample(sampler, logits)
    }

    /// Takes guesses nobody has drawn out of the session. They are fewer than a step's tokens, so that no window has
    /// overwritten what comes before them.
    fn forget(&mut self, session: &mut Session) {
        let kept = session.truncate(session.tokens().len() - self.guessed.len());
        assert!(kept, "a ring holds a step more than its window");
        self.guessed.clear();
        self.drafter.checked(self.right);
    }

    /// Why no further token may be written.
    fn ended(&self, session: &Session) -> Option<Finish> {
        if self.limits.interrupt.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            return Some(Finish::Interrupted);
        }
        if self.limits.max_tokens.is_some_and(|most| self.stats.decode_tokens >= most) {
            return Some(Finish::Length);
        }
        let full = self.pending.is_some() && session.tokens().len() == session.capacity();
        full.then_some(Finish::ContextFull)
    }

    /// What stream and stops held back, once the answer is over for another reason than a stop text.
    fn flush(&mut self) -> String {
        self.flushed = true;
        let mut rest = self.stops.push(&self.stream.finish());
        rest.push_str(&self.stops.finish());
        rest
    }

    /// Text to show, with the tokens it begins.
    fn piece(&mut self, text: String) -> Piece {
        self.shown += text.len();
        // Tokens without text (a special one in the middle) begin where the next one does; at the end all are due.
        let all = self.flushed && self.finish != Some(Finish::Stop);
        let due = self.held.iter().take_while(|(start, _)| all || *start < self.shown).count();
        let written = self.held.drain(..due).map(|(_, token)| token);
        Piece { text, tokens: self.judged.drain(..).chain(written).collect() }
    }
}

/// A step further for each answer, in its session: those that write share one step of the model, which reads what several
/// of them need once; a prompt is read alone. Each says what it would say by [`Answer::advance`].
pub fn advance(turns: &mut [(&mut Session, &mut Answer)]) -> Vec<Result<Option<Piece>>> {
    let due = |session: &Session, answer: &Answer| match answer.finish.is_none() && answer.ended(session).is_none() {
        true => answer.pending,
        false => None,
    };
    let together: Vec<usize> = (0..turns.len()).filter(|&at| due(turns[at].0, turns[at].1).is_some()).collect();
    if together.len() > 1 {
        write_together(turns, &together);
    }
    turns.iter_mut().map(|(session, answer)| answer.advance(session)).collect()
}

/// Computes the pending tokens of those answers. Where that fails everything is as before: each then tries alone, and
/// whoever was at fault hears of it.
fn write_together(turns: &mut [(&mut Session, &mut Answer)], together: &[usize]) {
    let started = Instant::now();
    let host = turns[together[0]].0.shared().host.clone();
    let before = host.touched();
    let chosen = turns.iter_mut().enumerate().filter(|(at, _)| together.contains(at));
    let mut chosen: Vec<(&mut Session, &mut Answer)> = chosen.map(|(_, (s, a))| (&mut **s, &mut **a)).collect();
    if host.spanned("tokens together", chosen.len(), || compute(&mut chosen)).is_err() {
        return;
    }
    let (seconds, bytes) = (started.elapsed().as_secs_f64(), (host.touched() - before) / chosen.len() as u64);
    for (_, answer) in chosen {
        answer.stats.decode_seconds += seconds;
        answer.stats.decode_bytes += bytes;
    }
}

/// One step of the model for the pending token of each answer, and for what is guessed to follow it. One alone can be
/// interrupted. After an error sessions are as they were.
fn compute(turns: &mut [(&mut Session, &mut Answer)]) -> Result<()> {
    let Some((session, _)) = turns.first() else { return Ok(()) };
    let shared = session.shared_arc();
    let (mut total, mut guesses) = (turns.len(), shared.drafting.max);
    let mut ahead = Vec::with_capacity(turns.len());
    for (session, answer) in turns.iter_mut() {
        let tokens = answer.ahead(session, guesses, total - 1)?;
        total += tokens.len() - 1;
        guesses -= tokens.len() - 1;
        ahead.push(tokens);
    }
    let interrupt = match turns {
        [(_, answer)] => answer.limits.interrupt.clone(),
        _ => None,
    };
    let started = Instant::now();
    let mut fed: Vec<(&mut Session, &[u32])> =
        turns.iter_mut().zip(&ahead).map(|((session, _), tokens)| (&mut **session, tokens.as_slice())).collect();
    let logits = Session::feed_together(&mut fed, interrupt.as_deref())?;
    shared.pace.saw(total, started.elapsed().as_secs_f64());
    let mut rows = &*logits;
    for ((_, answer), tokens) in turns.iter_mut().zip(&ahead) {
        let (own, others) = rows.split_at(tokens.len() * shared.config.vocab);
        rows = others;
        answer.computed(tokens, own);
    }
    Ok(())
}

/// An answer with its session: an iterator over pieces of text, each valid UTF-8.
pub struct Generation<'s> {
    session: &'s mut Session,
    answer: Answer,
}

impl<'s> Generation<'s> {
    pub(super) fn new(session: &'s mut Session, answer: Answer) -> Generation<'s> {
        Generation { session, answer }
    }

    /// What it cost so far.
    pub fn stats(&self) -> Stats {
        self.answer.stats()
    }

    /// `Some` once the iterator has ended.
    pub fn finish(&self) -> Option<Finish> {
        self.answer.finish()
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.answer.advance(self.session) {
                Ok(Some(piece)) if piece.text.is_empty() => {}
                Ok(piece) => return piece.map(|piece| Ok(piece.text)),
                Err(e) => return Some(Err(e)),
            }
        }
    }
}
