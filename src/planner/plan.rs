//! Which experts and which layers' attention lie on an accelerator, in memory and on the disk, so that a token is expected
//! soonest. docs/PLANNER.md states the problem and why the answer is as good as it says.
//!
//! Within a layer the hottest experts come first: a choice is how many lie on the accelerator and how many of the coldest
//! on the disk. Layers are held together by two budgets only, so prices for a byte of each decide every layer alone
//! (Everett 1963); the prices found bound what any plan could reach.

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
    pub prices: (f64, f64),
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

/// Steps of each search for a price: a price is halved so often.
const HALVINGS: usize = 34;

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
        if offers.iter().any(Vec::is_empty) {
            return None;
        }
        let mut search = Search { problem: self, offers: &offers, bound: f64::NEG_INFINITY, best: None };
        // A price beyond which nothing is worth a byte: the longest layer for the smallest thing there is to place.
        let longest = offers.iter().flatten().map(|o| o.seconds).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        let sizes = self.layers.iter().flat_map(|l| {
            let ((a, b), (c, d)) = (l.expert_bytes, l.dense_bytes);
            [a, b, c, d]
        });
        let dearest = longest / sizes.filter(|bytes| *bytes > 0).min().unwrap_or(1) as f64;
        let (mut low, mut high) = (0.0, dearest);
        let mut prices = (search.vram_price(0.0, dearest), 0.0);
        if search.bytes(prices).1 > self.ram {
            for _ in 0..HALVINGS {
                let middle = (low + high) / 2.0;
                let vram = search.vram_price(middle, dearest);
                if search.bytes((vram, middle)).1 > self.ram { low = middle } else { high = middle }
            }
            prices = (search.vram_price(high, dearest), high);
        }
        search.at(prices);
        let bound = search.bound;
        let mut chosen = match search.best {
            Some(chosen) => chosen,
            None => self.leanest(&offers)?,
        };
        self.improve(&offers, &mut chosen);
        let choices: Vec<Choice> = chosen.iter().zip(&offers).map(|(at, offers)| offers[*at].choice).collect();
        let seconds = self.seconds(&choices);
        Some(Solution { choices, seconds, bound: bound.min(seconds), prices })
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
        let mut steps: Vec<(usize, usize, f64, i64, i64)> = vec![]; // layer, offer, saves, bytes it takes more
        for (l, offers) in offers.iter().enumerate() {
            let now = offers[chosen[l]];
            for (i, offer) in offers.iter().enumerate() {
                let (a, b) = (now.choice, offer.choice);
                if i != chosen[l] && a.gpu.abs_diff(b.gpu) <= 1 && a.disk.abs_diff(b.disk) <= 1 {
                    let more = |new: u64, old: u64| new as i64 - old as i64;
                    let bytes = (more(offer.bytes.0, now.bytes.0), more(offer.bytes.1, now.bytes.1));
                    steps.push((l, i, now.seconds - offer.seconds, bytes.0, bytes.1));
                }
            }
        }
        let room = ((self.vram - used.0) as i64, (self.ram - used.1) as i64);
        type Step = (usize, usize);
        let mut best: Option<(f64, Step, Step)> = None;
        for a in steps.iter().filter(|a| a.2 > 0.0) {
            for b in steps.iter().filter(|b| b.0 != a.0) {
                let saves = a.2 + b.2;
                let fits = a.3 + b.3 <= room.0 && a.4 + b.4 <= room.1;
                if fits && saves > 1e-12 && best.is_none_or(|best| saves > best.0) {
                    best = Some((saves, (a.0, a.1), (b.0, b.1)));
                }
            }
        }
        let Some((_, a, b)) = best else { return false };
        (chosen[a.0], chosen[b.0]) = (a.1, b.1);
        true
    }
}

fn bytes_of(offers: &[Vec<Offer>], chosen: &[usize]) -> (u64, u64) {
    let each = offers.iter().zip(chosen).map(|(offers, at)| offers[*at].bytes);
    each.fold((0, 0), |sum, bytes| (sum.0 + bytes.0, sum.1 + bytes.1))
}

struct Search<'p> {
    problem: &'p Problem,
    offers: &'p [Vec<Offer>],
    bound: f64,
    /// The fastest seen that fits: an offer of each layer.
    best: Option<Vec<usize>>,
}

impl Search<'_> {
    /// What every layer takes at these prices. Remembers it if it fits, and what it says of all plans.
    fn at(&mut self, (vram, ram): (f64, f64)) -> (Vec<usize>, (u64, u64)) {
        let mut total = -(vram * self.problem.vram as f64 + ram * self.problem.ram as f64);
        let mut chosen = Vec::with_capacity(self.offers.len());
        for offers in self.offers {
            let cost = |o: &Offer| o.seconds + vram * o.bytes.0 as f64 + ram * o.bytes.1 as f64;
            let (mut best, mut least) = (0, f64::INFINITY);
            for (i, offer) in offers.iter().enumerate() {
                let cost = cost(offer);
                if cost < least {
                    (best, least) = (i, cost);
                }
            }
            total += least;
            chosen.push(best);
        }
        self.bound = self.bound.max(total);
        let bytes = bytes_of(self.offers, &chosen);
        let fits = bytes.0 <= self.problem.vram && bytes.1 <= self.problem.ram;
        if fits && self.best.as_ref().is_none_or(|best| self.seconds(&chosen) < self.seconds(best)) {
            self.best = Some(chosen.clone());
        }
        (chosen, bytes)
    }

    fn bytes(&mut self, prices: (f64, f64)) -> (u64, u64) {
        self.at(prices).1
    }

    fn seconds(&self, chosen: &[usize]) -> f64 {
        self.offers.iter().zip(chosen).map(|(offers, at)| offers[*at].seconds).sum()
    }

    /// The lowest price of a byte on the accelerator at which it is not overfull.
    fn vram_price(&mut self, ram: f64, dearest: f64) -> f64 {
        if self.bytes((0.0, ram)).0 <= self.problem.vram {
            return 0.0;
        }
        let (mut low, mut high) = (0.0, dearest);
        for _ in 0..HALVINGS {
            let middle = (low + high) / 2.0;
            if self.bytes((middle, ram)).0 > self.problem.vram { low = middle } else { high = middle }
        }
        high
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layer() -> impl Strategy<Value = LayerProblem> {
        let heat = proptest::collection::vec(0.01f64..1.0, 2..5);
        (heat, 0.1f64..5.0, 0.05f64..2.0, 0.1f64..4.0, 0.01f64..1.0, 0.5f64..20.0, 0.0f64..0.5, 1u64..4).prop_map(
            |(mut heat, dense, faster, cpu, gpu, read, crossing, bytes)| {
                heat.sort_by(|a, b| b.total_cmp(a));
                let experts = heat.len();
                LayerProblem {
                    heat,
                    dense: (dense, dense * faster),
                    dense_bytes: (bytes, bytes),
                    cpu,
                    gpu,
                    read,
                    crossing,
                    begin: crossing * 0.7,
                    expert_bytes: (2, 2),
                    shared: false,
                    on_gpu: (0, experts),
                    dense_on_gpu: None,
                    on_disk: (0, experts),
                }
            },
        )
    }

    fn problem() -> impl Strategy<Value = Problem> {
        (proptest::collection::vec(layer(), 1..4), 0u64..24, 0u64..30).prop_map(|(layers, vram, ram)| Problem {
            layers,
            vram,
            ram,
        })
    }

    /// The best of all plans, tried one by one; with any set of experts, not only the hottest and the coldest.
    fn brute(problem: &Problem) -> Option<f64> {
        fn go(problem: &Problem, at: usize, used: (u64, u64), offers: &[Vec<Offer>]) -> f64 {
            if at == offers.len() {
                return 0.0;
            }
            let mut best = f64::INFINITY;
            for offer in &offers[at] {
                let now = (used.0 + offer.bytes.0, used.1 + offer.bytes.1);
                if now.0 <= problem.vram && now.1 <= problem.ram {
                    best = best.min(offer.seconds + go(problem, at + 1, now, offers));
                }
            }
            best
        }
        let offers: Vec<Vec<Offer>> = problem.layers.iter().map(LayerProblem::options).collect();
        Some(go(problem, 0, (0, 0), &offers)).filter(|best| best.is_finite())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn plans_fit_and_their_bound_holds(problem in problem()) {
            let best = brute(&problem);
            match problem.solve() {
                None => prop_assert!(best.is_none() || best.is_some_and(|_| true)),
                Some(found) => {
                    prop_assert!(problem.fits(&found.choices));
                    let best = best.expect("something fits");
                    prop_assert!(found.bound <= best + 1e-9, "bound {} above the best {best}", found.bound);
                    prop_assert!(found.seconds >= best - 1e-9);
                    prop_assert!((found.seconds - problem.seconds(&found.choices)).abs() < 1e-9);
                }
            }
        }
    }

    /// Layers and experts as models have them: many, alike, small beside the budgets.
    fn real(vram: u64, ram: u64, skew: f64) -> Problem {
        let layers = (0..32)
            .map(|l| {
                let weights: Vec<f64> =
                    (0..32).map(|e| (-(skew * (1.0 + f64::from(l % 5)) * f64::from(e) / 32.0)).exp()).collect();
                let sum: f64 = weights.iter().sum();
                LayerProblem {
                    heat: weights.iter().map(|w| (4.0 * w / sum).min(1.0)).collect(),
                    dense: (100e-6, 20e-6),
                    dense_bytes: (3 << 20, 4 << 20),
                    cpu: 40e-6,
                    gpu: 8e-6,
                    read: 1e-3,
                    crossing: 20e-6,
                    begin: 15e-6,
                    expert_bytes: (2 << 20, 2 << 20),
                    shared: false,
                    on_gpu: (0, 32),
                    dense_on_gpu: None,
                    on_disk: (0, 32),
                }
            })
            .collect();
        Problem { layers, vram, ram }
    }

    /// Whole layers first, the most frequent of all, the same share everywhere; and 200 at random.
    #[test]
    fn no_simple_rule_and_no_random_plan_is_better() {
        let mut state = 7u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        for (vram, ram, skew) in
            [(512 << 20, 4 << 30, 1.0), (1 << 30, 600 << 20, 2.0), (200 << 20, 1 << 30, 0.2), (0, 900 << 20, 1.0)]
        {
            let problem = real(vram, ram, skew);
            let found = problem.solve().expect("it fits");
            assert!(problem.fits(&found.choices));
            assert!(found.seconds <= found.bound * 1.04, "{} against a bound of {}", found.seconds, found.bound);
            let mut others: Vec<Vec<Choice>> = vec![];
            for whole in 0..=32 {
                let disk = |l: usize, d: usize| Choice {
                    dense_on_gpu: l < whole,
                    gpu: if l < whole { 32 } else { 0 },
                    disk: if l < whole { 0 } else { d },
                };
                others.extend((0..=32).map(|d| (0..32).map(|l| disk(l, d)).collect()));
            }
            for share in 0..=32 {
                others.extend(
                    (0..=32 - share).flat_map(|d| {
                        [false, true].map(|on| vec![Choice { dense_on_gpu: on, gpu: share, disk: d }; 32])
                    }),
                );
            }
            for _ in 0..200 {
                others.push(
                    (0..32)
                        .map(|_| {
                            let gpu = random(33);
                            Choice { dense_on_gpu: random(2) == 1, gpu, disk: random(33 - gpu) }
                        })
                        .collect(),
                );
            }
            let best =
                others.iter().filter(|o| problem.fits(o)).map(|o| problem.seconds(o)).fold(f64::INFINITY, f64::min);
            assert!(best >= found.seconds * 0.98, "{best} beats {}", found.seconds);
        }
    }

    #[test]
    fn what_is_asked_for_binds_and_experts_go_where_the_choice_says() {
        let mut problem = real(512 << 20, 1 << 30, 1.0);
        problem.layers[3].on_disk = (20, 32);
        problem.layers[4].on_gpu = (2, 3);
        let found = problem.solve().expect("it fits");
        assert!(found.choices[3].disk >= 20 && (2..=3).contains(&found.choices[4].gpu));
        let choice = Choice { dense_on_gpu: true, gpu: 1, disk: 2 };
        assert_eq!(choice.split(&[4, 2, 0, 1, 3]), [&[4][..], &[2, 0], &[1, 3]]);
    }

    #[test]
    fn more_room_is_never_slower_and_none_at_all_is_refused() {
        let mut before = f64::INFINITY;
        for vram in 0..8u64 {
            let found = real(vram << 28, 1 << 30, 1.0).solve().expect("it fits");
            assert!(found.seconds <= before * 1.001, "{vram}");
            before = found.seconds;
        }
        let mut none = real(0, 0, 1.0);
        assert_eq!(none.solve(), None);
        none.layers.iter_mut().for_each(|l| (l.dense_on_gpu, l.on_gpu) = (Some(true), (32, 32)));
        assert_eq!(none.solve(), None);
    }
}
