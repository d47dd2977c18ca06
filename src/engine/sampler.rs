//! From logits to the next token.
//!
//! In this order: logit bias and padding, penalties, what a grammar allows, temperature, top-k, top-p, min-p, draw. Each of the three
//! cuts keeps a head of the list by falling logit (equal logits: lower id first) and looks at what the cut
//! before it left. The list is never sorted: 151,936 logits are scanned, and partitioned where a cut needs it.
//!
//! The same seed gives the same tokens on every machine: weights come from the kernels' exponential, the same
//! bits everywhere, and are added up as integers; the draw is candle's seeded one.

use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling as Draw};
use kernels::Isa;
use kernels::norm::exp_all;
use std::cmp::Ordering;

/// How the next token is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0: always the best token. Otherwise logits are divided by it.
    pub temperature: f32,
    /// Keep this many of the best; 0: all.
    pub top_k: usize,
    /// Keep the fewest of the best whose probabilities reach this sum; 1: all. One is always kept.
    pub top_p: f32,
    /// Keep those at least this many times as probable as the best; 0: all.
    pub min_p: f32,
    /// Divides the logits (multiplies negative ones) of recent tokens; 1: off.
    pub repeat_penalty: f32,
    /// Taken off the logit of a recent token, once.
    pub presence_penalty: f32,
    /// Taken off the logit of a recent token, for each time it appears.
    pub frequency_penalty: f32,
    /// How many of the last tokens the penalties look at; 0: none.
    pub repeat_last_n: usize,
    pub seed: u64,
    /// Added to the logits of these ids; minus infinity forbids one.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for Sampling {
    /// What the publishers of this family recommend: 0.6 / 20 / 0.95.
    fn default() -> Self {
        Sampling {
            temperature: 0.6,
            top_k: 20,
            top_p: 0.95,
            min_p: 0.0,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repeat_last_n: 64,
            seed: 0,
            logit_bias: Vec::new(),
        }
    }
}

impl Sampling {
    /// Errors (usage): a value outside its range, named with the range.
    pub fn check(&self) -> Result<()> {
        let within = |name: &str, value: f32, range: &str, ok: bool| match ok {
            true => Ok(()),
            false => Err(Error::Usage(format!("{name} is {value}; expected {range}"))),
        };
        let t = self.temperature;
        within("temperature", t, "0 (always the best token) or more", t >= 0.0 && t.is_finite())?;
        within("top-p", self.top_p, "a probability from 0 to 1", (0.0..=1.0).contains(&self.top_p))?;
        within("min-p", self.min_p, "a probability from 0 to 1", (0.0..=1.0).contains(&self.min_p))?;
        let r = self.repeat_penalty;
        within("repeat penalty", r, "a number above 0 (1 is off)", r > 0.0 && r.is_finite())?;
        within("presence penalty", self.presence_penalty, "a number", self.presence_penalty.is_finite())?;
        within("frequency penalty", self.frequency_penalty, "a number", self.frequency_penalty.is_finite())?;
        for (id, bias) in &self.logit_bias {
            let ok = bias.is_finite() || *bias == f32::NEG_INFINITY;
            within(&format!("logit bias of token {id}"), *bias, "a number, or minus infinity to forbid it", ok)?;
        }
        Ok(())
    }
}

/// Natural logarithms of the probabilities the model itself gave, before bias, penalties and cuts.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the token that was chosen.
    pub chosen: f32,
    /// The most probable tokens, best first.
    pub top: Vec<(u32, f32)>,
}

/// Draws tokens; owns the random numbers of one answer.
pub struct Sampler {
    settings: Sampling,
    limit: usize,
    forbidden: Vec<u32>,
    /// A bit for each token that may be drawn next; empty: all may.
    allowed: Vec<u32>,
    draw: LogitsProcessor,
    isa: Isa,
    /// Reused from token to token, for a vocabulary is long.
    candidates: Vec<Candidate>,
    scratch: Vec<Candidate>,
    powers: Vec<f32>,
    /// Logits as they were before bias and penalties, for [`Logprobs`].
    touched: Vec<(u32, f32)>,
}

impl Sampler {
    /// `limit`: ids from here on are padding and never drawn. Errors (usage): see [`Sampling::check`], and a bias
    /// for an id that is no token.
    pub fn new(settings: &Sampling, limit: usize) -> Result<Sampler> {
        settings.check()?;
        if let Some((id, _)) = settings.logit_bias.iter().find(|(id, _)| *id as usize >= limit) {
            return Err(Error::Usage(format!(
                "logit bias names token {id}; the vocabulary has ids 0 to {}",
                limit as i64 - 1
            )));
        }
        Ok(Sampler {
            settings: settings.clone(),
            limit,
            forbidden: Vec::new(),
            allowed: Vec::new(),
            // Every weight is in place before candle sees it, so it is to draw and do nothing else.
            draw: LogitsProcessor::from_sampling(settings.seed, Draw::All { temperature: 1.0 }),
            isa: Isa::best(),
            candidates: Vec::new(),
            scratch: Vec::new(),
            powers: Vec::new(),
            touched: Vec::new(),
        })
    }

    /// Never draws these either: padding ids between tokens.
    pub fn forbid(mut self, ids: &[u32]) -> Sampler {
        self.forbidden.extend(ids.iter().filter(|id| (**id as usize) < self.limit));
        self
    }

    /// For the next draw only these: a bit for each token, 32 to a word, the lowest first. Probabilities stay those of the
    /// model, which knows nothing of it.
    pub fn allow(&mut self, bits: &[u32]) {
        self.allowed.clear();
        self.allowed.extend_from_slice(bits);
    }

    pub fn settings(&self) -> &Sampling {
        &self.settings
    }

    /// The next token. `logits` has one entry for each row of the vocabulary and is changed; `recent` are the
    /// tokens so far, prompt included, of which the penalties look at the last.
    ///
    /// Errors: logits that are not numbers, or none left to choose from (runtime), because of a bias (usage).
    pub fn sample(&mut self, logits: &mut [f32], recent: &[u32]) -> Result<u32> {
        assert!(logits.len() >= self.limit, "{} logits for a vocabulary of {}", logits.len(), self.limit);
        let logits = &mut logits[..self.limit];
        self.adjust(logits, recent);
        self.hold(logits)?;
        if !self.settings.logit_bias.is_empty() && logits.iter().all(|logit| *logit == f32::NEG_INFINITY) {
            return Err(Error::Usage("logit_bias leaves no token to choose".into()));
        }
        let best = best(logits)?;
        if self.settings.temperature == 0.0 {
            return Ok(best.0);
        }
        self.weigh(logits, best.1);
        self.cut();
        self.pick()
    }

    /// [`sample`](Sampler::sample), and what the model thought of the token and of the `top` most probable ones.
    pub fn sample_with_logprobs(&mut self, logits: &mut [f32], recent: &[u32], top: usize) -> Result<(u32, Logprobs)> {
        let (log, top) = self.judged(logits, top)?;
        let id = self.sample(logits, recent)?;
        let before = self.touched.iter().find(|(touched, _)| *touched == id).map(|(_, logit)| *logit);
        Ok((id, Logprobs { chosen: log(before.unwrap_or(logits[id as usize])), top }))
    }

    /// What the model thought of token `id`, which came in this place, and of the `top` most probable ones.
    pub fn judge(&mut self, logits: &mut [f32], id: u32, top: usize) -> Result<Logprobs> {
        let (log, top) = self.judged(logits, top)?;
        Ok(Logprobs { chosen: log(logits[id as usize]), top })
    }

    /// From a logit to the logarithm of its probability, and those of the `top` most probable tokens.
    #[expect(clippy::type_complexity, reason = "a function of a number and a list, named nowhere else")]
    fn judged(&mut self, logits: &mut [f32], top: usize) -> Result<(impl Fn(f32) -> f32 + use<>, Vec<(u32, f32)>)> {
        assert!(logits.len() >= self.limit, "{} logits for a vocabulary of {}", logits.len(), self.limit);
        for &id in &self.forbidden {
            logits[id as usize] = f32::NEG_INFINITY;
        }
        let known = &logits[..self.limit];
        let (_, max) = best(known)?;
        self.powers.clear();
        self.powers.extend(known.iter().map(|l| l - max));
        exp_all(self.isa, &mut self.powers);
        let sum: f64 = self.powers.iter().map(|&e| f64::from(e)).sum();
        let log = move |logit: f32| (f64::from(logit) - f64::from(max) - sum.ln()) as f32;
        let mut most = Vec::new();
        head(known, top.min(self.limit), &mut most);
        most.sort_unstable_by(Candidate::order);
        let top = most.iter().map(|c| (c.id, log(c.logit))).collect();
        Ok((log, top))
    }

    /// Bias, padding and penalties: few ids, changed in place, their old logits kept.
    fn adjust(&mut self, logits: &mut [f32], recent: &[u32]) {
        self.touched.clear();
        for &(id, bias) in &self.settings.logit_bias {
            self.touched.push((id, logits[id as usize]));
            logits[id as usize] += bias;
        }
        for &id in &self.forbidden {
            logits[id as usize] = f32::NEG_INFINITY;
        }
        let s = &self.settings;
        if s.repeat_penalty == 1.0 && s.presence_penalty == 0.0 && s.frequency_penalty == 0.0 {
            return;
        }
        let mut last = recent[recent.len() - s.repeat_last_n.min(recent.len())..].to_vec();
        last.sort_unstable();
        for times in last.chunk_by(|a, b| a == b) {
            let Some(logit) = logits.get_mut(times[0] as usize) else { continue };
            self.touched.push((times[0], *logit));
            *logit = if *logit > 0.0 { *logit / s.repeat_penalty } else { *logit * s.repeat_penalty };
            *logit -= times.len() as f32 * s.frequency_penalty + s.presence_penalty;
        }
    }

    /// Takes out what may not be drawn now.
    fn hold(&mut self, logits: &mut [f32]) -> Result<()> {
        if self.allowed.is_empty() {
            return Ok(());
        }
        let mut left = false;
        let words = self.allowed.iter().copied().chain(std::iter::repeat(0));
        for (logits, word) in logits.chunks_mut(32).zip(words) {
            if word != u32::MAX {
                for (bit, logit) in logits.iter_mut().enumerate() {
                    // What is no number stays: a damaged model is said to be one.
                    if word >> bit & 1 == 0 && !logit.is_nan() {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
            left = left || logits.iter().any(|logit| *logit > f32::NEG_INFINITY);
        }
        self.allowed.clear();
        match left {
            true => Ok(()),
            false => Err(Error::Usage("a logit bias forbids every token the grammar allows here".into())),
        }
    }

    /// Temperature and top-k: fills `candidates`, in order of id.
    fn weigh(&mut self, logits: &[f32], max: f32) {
        let s = &self.settings;
        if s.top_k > 0 && s.top_k < logits.len() {
            head(logits, s.top_k, &mut self.candidates);
            self.candidates.sort_unstable_by_key(|c| c.id);
        } else {
            self.candidates.clear();
            self.candidates.extend((0u32..).zip(logits).map(|(id, &logit)| Candidate { id, logit, weight: 0 }));
        }
        self.powers.clear();
        self.powers.extend(self.candidates.iter().map(|c| (c.logit - max) / s.temperature));
        exp_all(self.isa, &mut self.powers);
        for (c, e) in self.candidates.iter_mut().zip(&self.powers) {
            c.weight = (f64::from(*e) * ONE as f64) as u64;
        }
        self.candidates.retain(|c| c.weight > 0);
    }

    /// Top-p and min-p.
    fn cut(&mut self) {
        let total: u64 = self.candidates.iter().map(|c| c.weight).sum();
        if self.settings.top_p < 1.0 {
            let mass = (f64::from(self.settings.top_p) * total as f64).ceil() as u64;
            self.scratch.clone_from(&self.candidates);
            let last = last_within(&mut self.scratch, mass.clamp(1, total));
            self.candidates.retain(|c| Candidate::order(c, &last) != Ordering::Greater);
        }
        if self.settings.min_p > 0.0 {
            let least = (f64::from(self.settings.min_p) * ONE as f64).ceil() as u64;
            self.candidates.retain(|c| c.weight >= least);
        }
    }

    /// One of the candidates, by weight.
    fn pick(&mut self) -> Result<u32> {
        if let [only] = self.candidates.as_slice() {
            return Ok(only.id);
        }
        let flat = Tensor::zeros(self.candidates.len(), DType::F32, &Device::Cpu)?;
        let index = self.draw.sample_f(&flat, |weights| {
            for (w, c) in weights.iter_mut().zip(&self.candidates) {
                *w = c.weight as f32 / ONE as f32;
            }
        })?;
        Ok(self.candidates[index as usize].id)
    }
}

/// A token that may be drawn. `weight` is its probability relative to the best token's, in units of 1 / [`ONE`].
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    logit: f32,
    weight: u64,
}

impl Candidate {
    /// Best first: falling logit, then rising id. Total, for NaN never gets this far.
    fn order(a: &Candidate, b: &Candidate) -> Ordering {
        b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
    }
}

/// The weight of the best token. 151,936 of them fit in a u64 with room to spare, and what is 2^-40 times as
/// probable as the best does not matter to anyone: it weighs 0 and is dropped.
const ONE: u64 = 1 << 40;

/// The highest logit and its lowest id. Errors when one is NaN or plus infinity, or all are minus infinity.
fn best(logits: &[f32]) -> Result<(u32, f32)> {
    let mut best = (0, f32::NEG_INFINITY);
    let mut odd = false;
    for (id, &logit) in (0u32..).zip(logits) {
        odd |= logit.is_nan() | (logit == f32::INFINITY);
        if logit > best.1 {
            best = (id, logit);
        }
    }
    if odd {
        let at = logits.iter().position(|l| l.is_nan() || *l == f32::INFINITY).expect("seen by the loop above");
        return Err(Error::Runtime(format!(
            "the model's logit for token {at} is {}; expected numbers: a weight is damaged, or the arithmetic overflowed",
            logits[at]
        )));
    }
    if best.1 == f32::NEG_INFINITY {
        return Err(Error::Runtime("no token is left to choose: every logit is minus infinity".into()));
    }
    Ok(best)
}

/// The `k` best of `logits`, in no order; minus infinity is never among them.
fn head(logits: &[f32], k: usize, out: &mut Vec<Candidate>) {
    out.clear();
    if k == 0 {
        return;
    }
    // Collected until there are twice as many as needed, then halved: each halving raises the floor.
    let room = k.saturating_mul(2).clamp(64, logits.len().max(64));
    let mut floor = f32::NEG_INFINITY;
    for (id, &logit) in (0u32..).zip(logits) {
        // An equal logit with a higher id comes after those already here.
        if logit > floor {
            out.push(Candidate { id, logit, weight: 0 });
            if out.len() >= room && room > k {
                out.select_nth_unstable_by(k - 1, Candidate::order);
                out.truncate(k);
                floor = out[k - 1].logit;
            }
        }
    }
    if out.len() > k {
        out.select_nth_unstable_by(k - 1, Candidate::order);
        out.truncate(k);
    }
}

/// The last of the fewest best candidates whose weights reach `mass` (1 to their sum): a search that halves the
/// list and looks on where the sum is reached, so the work is a few passes and not a sort.
fn last_within(mut list: &mut [Candidate], mut mass: u64) -> Candidate {
    loop {
        let middle = (list.len() - 1) / 2;
        let (before, at, after) = list.select_nth_unstable_by(middle, Candidate::order);
        let sum: u64 = before.iter().map(|c| c.weight).sum();
        if mass <= sum {
            list = before;
        } else if mass <= sum + at.weight {
            return *at;
        } else {
            mass -= sum + at.weight;
            list = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(logits: &[i8]) -> Vec<Candidate> {
        let candidate =
            |(id, &l): (u32, &i8)| Candidate { id, logit: f32::from(l), weight: 1 + u64::from(l.unsigned_abs()) };
        (0u32..).zip(logits).map(candidate).collect()
    }

    proptest! {
        #[test]
        fn the_head_is_that_of_a_sorted_list(logits in prop::collection::vec(-9i8..9, 1..500), k in 0usize..300) {
            let mut sorted = list(&logits);
            sorted.sort_by(Candidate::order);
            sorted.truncate(k);
            let mut found = Vec::new();
            head(&logits.iter().map(|&l| f32::from(l)).collect::<Vec<_>>(), k, &mut found);
            found.sort_by(Candidate::order);
            let ids = |l: &[Candidate]| l.iter().map(|c| c.id).collect::<Vec<_>>();
            prop_assert_eq!(ids(&found), ids(&sorted));
        }

        #[test]
        fn the_last_within_a_mass_is_that_of_a_sorted_list(logits in prop::collection::vec(-9i8..9, 1..200), at in any::<prop::sample::Index>()) {
            let mut sorted = list(&logits);
            sorted.sort_by(Candidate::order);
            let total: u64 = sorted.iter().map(|c| c.weight).sum();
            let mass = 1 + at.index(total as usize) as u64;
            let mut sum = 0;
            let expected = sorted.iter().find(|c| { sum += c.weight; sum >= mass }).unwrap();
            prop_assert_eq!(last_within(&mut list(&logits), mass).id, expected.id);
        }
    }
}
