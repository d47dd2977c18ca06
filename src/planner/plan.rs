//! Which experts and which layers' attention lie on an accelerator, in memory and on the disk, so that a token is expected
//! soonest. docs/PLANNER.md states the problem and why the answer is as good as it says.
//!
//! Within a layer the hottest experts come first: a choice is how many lie on the accelerator and how many of the coldest
//! on the disk. Layers are held together by two budgets only, so with fractions allowed the problem is a small linear
//! programme (`plan/relaxed.rs`); its prices for a byte of each bound what any plan could reach (Everett 1963).

mod relaxed;

use relaxed::{Column, Relaxed};

/// Where something lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In memory, and computed by the processor.
    Processor,
    Accelerator,
    /// Read by the processor when it is needed.
    Disk,
}

/// What one layer offers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerProblem {
    /// Chance of each expert, descending; they sum to the active ones.
    pub heat: Vec<f64>,
    /// Seconds of all but the experts, on the processor and on the accelerator, and the bytes of it.
    pub dense: (f64, f64),
    pub dense_bytes: (u64, u64),
    /// Seconds of one expert on the processor, on the accelerator, and from the disk.
    pub cpu: f64,
    pub gpu: f64,
    pub read: f64,
    /// Seconds of a way there and back between processor and accelerator.
    pub crossing: f64,
    /// Seconds the processor takes to begin the accelerator's experts of a token, whatever their number, during which it computes
    /// nothing.
    pub begin: f64,
    /// Bytes of an expert, in memory and on the accelerator.
    pub expert_bytes: (u64, u64),
    /// The accelerator's memory is ours too: what lies there counts in both.
    pub shared: bool,
    /// What is allowed: experts on the accelerator at least and at most, attention there (`None`: as is best), experts on
    /// the disk at least and at most.
    pub on_gpu: (usize, usize),
    pub dense_on_gpu: Option<bool>,
    pub on_disk: (usize, usize),
}

/// All layers and what holds them together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Problem {
    pub layers: Vec<LayerProblem>,
    /// Bytes for layers and experts on the accelerator and in memory.
    pub vram: u64,
    pub ram: u64,
}

/// What becomes of one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    pub dense_on_gpu: bool,
    /// So many of the hottest experts on the accelerator, so many of the coldest on the disk.
    pub gpu: usize,
    pub disk: usize,
}

impl Choice {
    /// Where each expert of a layer lies, given all of them from the hottest to the coldest: on the accelerator, in memory,
    /// on the disk. See [`super::profile::Profile::by_heat`].
    pub fn split<'e>(&self, by_heat: &'e [usize]) -> [&'e [usize]; 3] {
        let (gpu, rest) = by_heat.split_at(self.gpu);
        let (ram, disk) = rest.split_at(rest.len() - self.disk);
        [gpu, ram, disk]
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    pub choices: Vec<Choice>,
    pub seconds: f64,
    /// No plan of this kind can be faster.
    pub bound: f64,
    /// Seconds that one more byte on the accelerator and in memory would save.
    pub prices: [f64; 2],
}

impl LayerProblem {
    pub fn seconds(&self, choice: Choice) -> f64 {
        let all: f64 = self.heat.iter().sum();
        let gpu: f64 = self.heat[..choice.gpu].iter().sum();
        let disk: f64 = self.heat[self.heat.len() - choice.disk..].iter().sum();
        let any = |heat: &[f64]| 1.0 - heat.iter().map(|q| 1.0 - q).product::<f64>();
        let (there, here) = self.heat.split_at(choice.gpu);
        self.together(choice.dense_on_gpu, all, (gpu, any(there)), disk, any(here))
    }

    /// The same of any experts anywhere: `lies` says where, of those from the hottest on.
    pub fn seconds_with(&self, dense_on_gpu: bool, lies: &dyn Fn(usize) -> Place) -> f64 {
        let all: f64 = self.heat.iter().sum();
        let (mut gpu, mut disk, mut none_there, mut none_here) = (0.0, 0.0, 1.0, 1.0);
        for (rank, q) in self.heat.iter().enumerate() {
            let place = lies(rank);
            match place {
                Place::Accelerator => gpu += q,
                Place::Disk => disk += q,
                Place::Processor => {}
            }
            match place == Place::Accelerator {
                true => none_there *= 1.0 - q,
                false => none_here *= 1.0 - q,
            }
        }
        self.together(dense_on_gpu, all, (gpu, 1.0 - none_there), disk, 1.0 - none_here)
    }

    /// Whether what was laid down has room for this.
    pub fn allows(&self, choice: Choice) -> bool {
        let within = |count: usize, (least, most): (usize, usize)| (least..=most).contains(&count);
        within(choice.gpu, self.on_gpu)
            && within(choice.disk, self.on_disk)
            && choice.gpu + choice.disk <= self.heat.len()
            && self.dense_on_gpu.is_none_or(|only| only == choice.dense_on_gpu)
    }

    /// `gpu`: experts of a token on the accelerator, and the chance of any; `here`: that of any elsewhere.
    fn together(&self, dense_on_gpu: bool, all: f64, gpu: (f64, f64), disk: f64, here: f64) -> f64 {
        let (dense, across) = if dense_on_gpu { (self.dense.1, here) } else { (self.dense.0, gpu.1) };
        let experts = (self.cpu * (all - gpu.0)).max(self.gpu * gpu.0).max(self.read * disk - dense);
        dense + gpu.1 * self.begin + experts + across * self.crossing
    }

    /// Bytes on the accelerator and in memory.
    pub fn bytes(&self, choice: Choice) -> (u64, u64) {
        let here = self.heat.len() - choice.gpu - choice.disk;
        let (gpu, ram) = (choice.gpu as u64 * self.expert_bytes.1, here as u64 * self.expert_bytes.0);
        let (gpu, ram) = match choice.dense_on_gpu {
            true => (gpu + self.dense_bytes.1, ram),
            false => (gpu, ram + self.dense_bytes.0),
        };
        (gpu, if self.shared { ram + gpu } else { ram })
    }

    /// Every choice that is allowed, with its time and bytes.
    fn options(&self) -> Vec<Offer> {
        let experts = self.heat.len();
        let sums = |heat: &mut dyn Iterator<Item = f64>| -> (Vec<f64>, Vec<f64>) {
            let (mut sum, mut none) = (0.0, 1.0);
            let mut lists = (vec![0.0], vec![0.0]);
            for q in heat {
                (sum, none) = (sum + q, none * (1.0 - q));
                lists.0.push(sum);
                lists.1.push(1.0 - none);
            }
            lists
        };
        let (hot, any_hot) = sums(&mut self.heat.iter().copied());
        let (cold, any_cold) = sums(&mut self.heat.iter().rev().copied());
        let mut offers = vec![];
        for dense_on_gpu in [false, true].into_iter().filter(|on| self.dense_on_gpu.is_none_or(|only| only == *on)) {
            for gpu in self.on_gpu.0..=self.on_gpu.1.min(experts) {
                let most = self.on_disk.1.min(experts - gpu);
                for (disk, &colder) in cold.iter().enumerate().take(most + 1).skip(self.on_disk.0) {
                    let choice = Choice { dense_on_gpu, gpu, disk };
                    let (there, here) = ((hot[gpu], any_hot[gpu]), any_cold[experts - gpu]);
                    let seconds = self.together(dense_on_gpu, hot[experts], there, colder, here);
                    offers.push(Offer { choice, seconds, bytes: self.bytes(choice) });
                }
            }
        }
        offers
    }
}

#[derive(Clone, Copy)]
struct Offer {
    choice: Choice,
    seconds: f64,
    bytes: (u64, u64),
}

impl Offer {
    /// At these prices of a byte.
    fn cost(&self, prices: [f64; 2]) -> f64 {
        self.seconds + prices[0] * self.bytes.0 as f64 + prices[1] * self.bytes.1 as f64
    }
}

/// A change of one layer: what it saves, and the bytes it takes more.
struct Step {
    layer: usize,
    offer: usize,
    saves: f64,
    bytes: (i64, i64),
}

impl Problem {
    pub fn seconds(&self, choices: &[Choice]) -> f64 {
        self.layers.iter().zip(choices).map(|(layer, choice)| layer.seconds(*choice)).sum()
    }

    pub fn bytes(&self, choices: &[Choice]) -> (u64, u64) {
        let each = self.layers.iter().zip(choices).map(|(layer, choice)| layer.bytes(*choice));
        each.fold((0, 0), |sum, bytes| (sum.0 + bytes.0, sum.1 + bytes.1))
    }

    pub fn fits(&self, choices: &[Choice]) -> bool {
        let (vram, ram) = self.bytes(choices);
        vram <= self.vram && ram <= self.ram
    }

    /// The best plan found, and how good any could be. `None` where nothing that is allowed fits.
    pub fn solve(&self) -> Option<Solution> {
        let offers: Vec<Vec<Offer>> = self.layers.iter().map(LayerProblem::options).collect();
        let (chosen, prices) = self.cheapest(&offers)?;
        let choices = choices_of(&offers, &chosen);
        let seconds = self.seconds(&choices);
        let bound = self.bound(&offers, prices).min(seconds);
        Some(Solution { choices, seconds, bound, prices })
    }

    /// The least memory that does beside the accelerator's, in bytes, and what is chosen then: as good as the search finds it.
    /// `None` where not even the accelerator has the room.
    pub fn least_memory(&self) -> Option<(u64, Vec<Choice>)> {
        let bytes = |offer: Offer| Offer { seconds: offer.bytes.1 as f64, ..offer };
        let offers = |layer: &LayerProblem| layer.options().into_iter().map(bytes).collect::<Vec<_>>();
        let offers: Vec<Vec<Offer>> = self.layers.iter().map(offers).collect();
        let (chosen, _) = Problem { ram: u64::MAX / 4, ..self.clone() }.cheapest(&offers)?;
        Some((bytes_of(&offers, &chosen).1, choices_of(&offers, &chosen)))
    }

    /// The cheapest offers found that fit, by their `seconds`, and the prices of a byte of each budget.
    fn cheapest(&self, offers: &[Vec<Offer>]) -> Option<(Vec<usize>, [f64; 2])> {
        if offers.iter().any(Vec::is_empty) {
            return None;
        }
        let column = |o: &Offer| Column { cost: o.seconds, takes: [o.bytes.0 as f64, o.bytes.1 as f64] };
        let columns: Vec<Vec<Column>> = offers.iter().map(|layer| layer.iter().map(column).collect()).collect();
        let relaxed = relaxed::solve(&columns, [self.vram as f64, self.ram as f64])?;
        let rounded = self.rounded(offers, &relaxed);
        let mut chosen = rounded.or_else(|| self.leanest(offers)).or_else(|| self.squeezed(offers, &relaxed))?;
        self.improve(offers, &mut chosen);
        Some((chosen, relaxed.prices))
    }

    /// Whole offers for the layers of which only parts were taken: the cheapest that fit, of those worth most at the prices.
    fn rounded(&self, offers: &[Vec<Offer>], relaxed: &Relaxed) -> Option<Vec<usize>> {
        /// Of so many layers whole offers are looked for: most often of two.
        const FEW: usize = 200;
        let mut chosen = relaxed.chosen.clone();
        let several = &relaxed.several;
        let others = (0..offers.len()).filter(|l| !several.contains(l)).map(|l| offers[l][chosen[l]].bytes);
        let used = others.fold((0, 0), |sum: (u64, u64), bytes| (sum.0 + bytes.0, sum.1 + bytes.1));
        let room = (self.vram.checked_sub(used.0)?, self.ram.checked_sub(used.1)?);
        let worth = |o: &Offer| o.cost(relaxed.prices);
        let likely = |l: &usize| -> Vec<usize> {
            let mut order: Vec<usize> = (0..offers[*l].len()).collect();
            order.sort_by(|a, b| worth(&offers[*l][*a]).total_cmp(&worth(&offers[*l][*b])));
            order
        };
        let lists: Vec<Vec<usize>> = several.iter().map(likely).collect();
        let only = vec![0];
        let (first, second) = (lists.first().unwrap_or(&only), lists.get(1).unwrap_or(&only));
        let of = |at: usize, offer: usize| several.get(at).map(|l| offers[*l][offer]);
        let best = |few: usize| {
            let mut best: Option<(f64, usize, usize)> = None;
            for &a in first.iter().take(few) {
                for &b in second.iter().take(few) {
                    let two = [of(0, a), of(1, b)];
                    let sum = two
                        .iter()
                        .flatten()
                        .fold((0.0, 0, 0), |sum, o| (sum.0 + o.seconds, sum.1 + o.bytes.0, sum.2 + o.bytes.1));
                    if sum.1 <= room.0 && sum.2 <= room.1 && best.is_none_or(|best| sum.0 < best.0) {
                        best = Some((sum.0, a, b));
                    }
                }
            }
            best
        };
        let (_, a, b) = best(FEW).or_else(|| best(usize::MAX))?;
        for (at, offer) in [a, b].into_iter().enumerate().take(several.len()) {
            chosen[several[at]] = offer;
        }
        Some(chosen)
    }

    /// What no plan can be faster than, by these prices of a byte (Everett 1963).
    fn bound(&self, offers: &[Vec<Offer>], prices: [f64; 2]) -> f64 {
        let least = |layer: &Vec<Offer>| layer.iter().map(|o| o.cost(prices)).fold(f64::INFINITY, f64::min);
        offers.iter().map(least).sum::<f64>() - prices[0] * self.vram as f64 - prices[1] * self.ram as f64
    }

    /// What takes least memory, then least of the accelerator: the last resort.
    fn leanest(&self, offers: &[Vec<Offer>]) -> Option<Vec<usize>> {
        let of = |offers: &Vec<Offer>, key: &dyn Fn(&Offer) -> (u64, u64)| {
            (0..offers.len()).min_by_key(|i| key(&offers[*i])).unwrap_or(0)
        };
        type Key = fn(&Offer) -> (u64, u64);
        let keys: [Key; 2] = [|o| (o.bytes.1, o.bytes.0), |o| (o.bytes.0, o.bytes.1)];
        let tries = keys.map(|key| offers.iter().map(|o| of(o, &key)).collect::<Vec<_>>());
        tries.into_iter().find(|chosen| {
            let (vram, ram) = bytes_of(offers, chosen);
            vram <= self.vram && ram <= self.ram
        })
    }

    /// Whole offers begun from the likeliest, changed in two layers at a time by a step until nothing is over a budget.
    fn squeezed(&self, offers: &[Vec<Offer>], relaxed: &Relaxed) -> Option<Vec<usize>> {
        let mut chosen = relaxed.chosen.clone();
        let over = |(vram, ram): (u64, u64)| {
            let share = |used: u64, most: u64| used.saturating_sub(most) as f64 / most.max(1) as f64;
            share(vram, self.vram) + share(ram, self.ram)
        };
        loop {
            let used = bytes_of(offers, &chosen);
            let now = over(used);
            if now == 0.0 {
                return Some(chosen);
            }
            let moved = |used: (u64, u64), step: &Step| {
                (used.0.wrapping_add_signed(step.bytes.0), used.1.wrapping_add_signed(step.bytes.1))
            };
            let steps = self.steps(offers, &chosen);
            let mut best: Option<(f64, [(usize, usize); 2])> = None;
            for (i, a) in steps.iter().enumerate() {
                let after = moved(used, a);
                for b in steps[i..].iter().filter(|b| b.layer != a.layer || std::ptr::eq(*b, a)) {
                    let alone = std::ptr::eq(b, a);
                    let left = over(if alone { after } else { moved(after, b) });
                    if left < now && best.as_ref().is_none_or(|best| left < best.0) {
                        best = Some((left, [(a.layer, a.offer), (b.layer, b.offer)]));
                    }
                }
            }
            for (layer, offer) in best?.1 {
                chosen[layer] = offer;
            }
        }
    }

    /// Offers next to those chosen.
    fn steps(&self, offers: &[Vec<Offer>], chosen: &[usize]) -> Vec<Step> {
        let mut steps = vec![];
        for (layer, offers) in offers.iter().enumerate() {
            let now = offers[chosen[layer]];
            for (i, offer) in offers.iter().enumerate() {
                let (a, b) = (now.choice, offer.choice);
                if i != chosen[layer] && a.gpu.abs_diff(b.gpu) <= 1 && a.disk.abs_diff(b.disk) <= 1 {
                    let more = |new: u64, old: u64| new as i64 - old as i64;
                    let bytes = (more(offer.bytes.0, now.bytes.0), more(offer.bytes.1, now.bytes.1));
                    steps.push(Step { layer, offer: i, saves: now.seconds - offer.seconds, bytes });
                }
            }
        }
        steps
    }

    /// Changes one layer at a time, the change that saves most first, while something fits and saves.
    fn improve(&self, offers: &[Vec<Offer>], chosen: &mut [usize]) {
        let most = 64 * offers.len();
        for _ in 0..most {
            let used = bytes_of(offers, chosen);
            let mut best: Option<(f64, usize, usize)> = None;
            for (l, offers) in offers.iter().enumerate() {
                let now = offers[chosen[l]];
                let room = (self.vram - used.0 + now.bytes.0, self.ram - used.1 + now.bytes.1);
                for (i, offer) in offers.iter().enumerate() {
                    let saves = now.seconds - offer.seconds;
                    let fits = offer.bytes.0 <= room.0 && offer.bytes.1 <= room.1;
                    if fits && saves > 1e-15 && best.is_none_or(|b| saves > b.0) {
                        best = Some((saves, l, i));
                    }
                }
            }
            match best {
                Some((_, layer, offer)) => chosen[layer] = offer,
                None if self.exchange(offers, chosen) => {}
                None => return,
            }
        }
    }

    /// Changes two layers at once, each by a step, where that saves most. False where nothing does.
    fn exchange(&self, offers: &[Vec<Offer>], chosen: &mut [usize]) -> bool {
        let used = bytes_of(offers, chosen);
        let steps = self.steps(offers, chosen);
        let room = ((self.vram - used.0) as i64, (self.ram - used.1) as i64);
        let mut best: Option<(f64, &Step, &Step)> = None;
        for a in steps.iter().filter(|a| a.saves > 0.0) {
            for b in steps.iter().filter(|b| b.layer != a.layer) {
                let saves = a.saves + b.saves;
                let fits = a.bytes.0 + b.bytes.0 <= room.0 && a.bytes.1 + b.bytes.1 <= room.1;
                if fits && saves > 1e-12 && best.is_none_or(|best| saves > best.0) {
                    best = Some((saves, a, b));
                }
            }
        }
        let Some((_, a, b)) = best else { return false };
        (chosen[a.layer], chosen[b.layer]) = (a.offer, b.offer);
        true
    }
}

fn choices_of(offers: &[Vec<Offer>], chosen: &[usize]) -> Vec<Choice> {
    offers.iter().zip(chosen).map(|(offers, at)| offers[*at].choice).collect()
}

fn bytes_of(offers: &[Vec<Offer>], chosen: &[usize]) -> (u64, u64) {
    let each = offers.iter().zip(chosen).map(|(offers, at)| offers[*at].bytes);
    each.fold((0, 0), |sum, bytes| (sum.0 + bytes.0, sum.1 + bytes.1))
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
