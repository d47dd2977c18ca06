//! A budget in bytes becomes a number of slots for experts, or a refusal that says what would fit. Pure arithmetic: what
//! things take is measured and computed elsewhere.

use crate::config::size;
use kernels::attend::KvFormat;

/// What a run takes, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// What is held wherever the weights are: the program, the cache, activations, stacks, the allocator's margin.
    pub fixed: u64,
    /// All weights as they are used when nothing is left on disk: mapped, or rounded in memory.
    pub weights: u64,
    /// How experts could stay on disk; `None` where they cannot.
    pub tiered: Option<Tiered>,
}

/// A model whose experts are read from disk into slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tiered {
    /// What lies in memory beside the slots: every other weight, and what reading takes.
    pub dense: u64,
    pub slot: u64,
    /// All experts of the model.
    pub experts: usize,
    /// The fewest slots that can run at all.
    pub least: usize,
    /// Experts that one token uses, over all layers.
    pub token: usize,
}

/// Where the experts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Everything fits: weights stay where they lie.
    Whole,
    /// So many slots, at least [`Tiered::least`] and at most [`Tiered::experts`].
    Slots(usize),
}

impl Needs {
    /// The smallest budget that runs at all.
    pub fn least(&self) -> u64 {
        let tiered = self.tiered.as_ref().map_or(u64::MAX, |t| t.bytes(t.least));
        self.fixed.saturating_add(self.weights.min(tiered))
    }

    /// What `plan` takes.
    pub fn bytes(&self, plan: Plan) -> u64 {
        let weights = match (plan, &self.tiered) {
            (Plan::Whole, _) => self.weights,
            (Plan::Slots(count), Some(tiered)) => tiered.bytes(count),
            (Plan::Slots(_), None) => u64::MAX,
        };
        self.fixed.saturating_add(weights)
    }

    /// The best plan within `budget` bytes; `None` below [`Needs::least`].
    pub fn plan(&self, budget: u64) -> Option<Plan> {
        if self.bytes(Plan::Whole) <= budget {
            return Some(Plan::Whole);
        }
        let tiered = self.tiered.as_ref()?;
        let room = budget.checked_sub(self.fixed)?.checked_sub(tiered.dense)?;
        let slots = room.checked_div(tiered.slot).map_or(tiered.experts, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let slots = slots.min(tiered.experts);
        (slots >= tiered.least).then_some(Plan::Slots(slots))
    }
}

impl Tiered {
    fn bytes(&self, slots: usize) -> u64 {
        self.dense.saturating_add(self.slot.saturating_mul(slots as u64))
    }

    /// Bytes that a token needs and slots do not hold, if every expert were as likely as any other. Real routers have
    /// favourites, so it is less; with fewer slots than a token uses, a queue of them holds nothing when it is needed.
    pub fn missing_per_token(&self, slots: usize) -> u64 {
        let all = self.token as u64 * self.slot;
        if slots < self.token {
            return all;
        }
        (all as f64 * (1.0 - slots as f64 / self.experts.max(1) as f64)) as u64
    }
}

/// What a user can give up for a smaller budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Positions of a session.
    pub context: usize,
    pub keys: KvFormat,
    pub values: KvFormat,
    /// Tokens of one step of a prompt.
    pub chunk: usize,
}

/// The base is measured anew at each start and differs by a few pages: advice leaves so much beside it.
const SLACK: u64 = 4 << 20;

/// A budget to be advised where so many bytes are needed now: it does at the next start too.
pub fn enough(bytes: u64) -> u64 {
    bytes.saturating_add(SLACK + (1 << 20) - 1) >> 20 << 20
}
/// Fewer positions than this are no conversation.
const LEAST_CONTEXT: usize = 64;
const LEAST_CHUNK: usize = 16;
/// A width that every format of a cache divides into.
const SCALED: usize = 32;

/// One change that makes a run fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    To(Wish),
    Budget(u64),
}

/// Every single change that makes `wish` fit `budget` (one knob turned no further than needed), and where none does, all
/// turned together; then the budget that would do. `needs` says what a wish takes, growing with its numbers; `cheapest` is
/// the smallest format of a cache that this model can have. Nothing where it fits already.
pub fn advice(wish: Wish, budget: u64, cheapest: KvFormat, needs: &dyn Fn(&Wish) -> u64) -> Vec<Change> {
    if needs(&wish) <= budget {
        return vec![];
    }
    let room = budget.saturating_sub(SLACK);
    let fits = |wish: &Wish| needs(wish) <= room;
    let small = |wish: Wish| {
        let cheaper = |format: KvFormat| if cheapest.bytes(SCALED) < format.bytes(SCALED) { cheapest } else { format };
        Wish { keys: cheaper(wish.keys), values: cheaper(wish.values), ..wish }
    };
    let mut changes: Vec<Wish> = vec![];
    changes.extend(shorter(wish, &fits));
    changes.extend(Some(small(wish)).filter(|w| *w != wish && fits(w)));
    changes.extend(narrower(wish, &fits));
    if changes.is_empty() {
        // Nothing alone will do: the cheapest formats, the smallest step, then as much context as is left.
        let least = small(Wish { chunk: wish.chunk.min(LEAST_CHUNK), ..wish });
        let together = if fits(&least) { Some(least) } else { shorter(least, &fits) };
        changes.extend(together.map(|w| narrower(Wish { chunk: wish.chunk, ..w }, &fits).unwrap_or(w)));
    }
    let more = Change::Budget(enough(needs(&wish)));
    changes.into_iter().map(Change::To).chain([more]).collect()
}

/// The longest context that fits, in whole hundreds of positions where it is long.
fn shorter(wish: Wish, fits: &dyn Fn(&Wish) -> bool) -> Option<Wish> {
    let with = |context| Wish { context, ..wish };
    let most = largest(LEAST_CONTEXT, wish.context, &|context| fits(&with(context)))?;
    let round = if most >= 1024 { 256 } else { 64 };
    Some(with(most / round * round))
}

/// The largest step, by halves, that fits.
fn narrower(wish: Wish, fits: &dyn Fn(&Wish) -> bool) -> Option<Wish> {
    let halves = std::iter::successors(Some(wish.chunk / 2), |chunk| Some(chunk / 2));
    let mut smaller = halves.take_while(|chunk| *chunk >= LEAST_CHUNK).map(|chunk| Wish { chunk, ..wish });
    smaller.find(|wish| fits(wish))
}

/// The largest number in `least..most` for which `fits` holds; `fits` is true up to some number and false beyond.
fn largest(least: usize, most: usize, fits: &dyn Fn(usize) -> bool) -> Option<usize> {
    if most <= least || !fits(least) {
        return None;
    }
    let (mut good, mut bad) = (least, most);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(middle) { good = middle } else { bad = middle }
    }
    Some(good)
}

impl Change {
    /// The flags that make this change to `from`: `-c 1024 -ctk q8_0`, or `--ram 812M`.
    pub fn flags(&self, from: &Wish) -> String {
        let to = match self {
            Change::Budget(bytes) => return format!("--ram {}", size::argument(*bytes)),
            Change::To(to) => to,
        };
        let mut flags = vec![];
        if to.context != from.context {
            flags.push(format!("-c {}", to.context));
        }
        if to.keys != from.keys {
            flags.push(format!("-ctk {}", to.keys.name()));
        }
        if to.values != from.values {
            flags.push(format!("-ctv {}", to.values.name()));
        }
        if to.chunk != from.chunk {
            flags.push(format!("-ub {}", to.chunk));
        }
        flags.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tiered() -> impl Strategy<Value = Tiered> {
        (0u64..1 << 34, 1u64..1 << 26, 1usize..5000, 0.0f64..1.0, 0.0f64..1.0).prop_map(
            |(dense, slot, experts, a, b)| {
                let part = |share: f64| ((experts as f64 * share) as usize).clamp(1, experts);
                Tiered { dense, slot, experts, least: part(a.min(b) / 4.0), token: part(a) }
            },
        )
    }

    fn needs() -> impl Strategy<Value = Needs> {
        (0u64..1 << 34, 0u64..1 << 36, proptest::option::of(tiered())).prop_map(|(fixed, weights, tiered)| Needs {
            fixed,
            weights,
            tiered,
        })
    }

    proptest! {
        #[test]
        fn a_plan_keeps_to_its_budget_and_wastes_nothing(needs in needs(), budget in 0u64..1 << 37) {
            match needs.plan(budget) {
                None => prop_assert!(budget < needs.least()),
                Some(plan) => {
                    prop_assert!(needs.bytes(plan) <= budget && needs.least() <= budget);
                    if let Plan::Slots(count) = plan {
                        let tiered = needs.tiered.as_ref().unwrap();
                        prop_assert!((tiered.least..=tiered.experts).contains(&count));
                        prop_assert!(needs.bytes(Plan::Whole) > budget, "everything would fit");
                        prop_assert!(count == tiered.experts || needs.bytes(Plan::Slots(count + 1)) > budget);
                    }
                }
            }
        }

        #[test]
        fn the_least_budget_is_enough_and_one_byte_less_is_not(needs in needs()) {
            prop_assert!(needs.plan(needs.least()).is_some());
            prop_assert!(needs.least() == 0 || needs.plan(needs.least() - 1).is_none());
        }

        #[test]
        fn all_advice_fits(
            (context, chunk, keys, values) in (2usize..1 << 20, 1usize..4096, 0usize..3, 0usize..3),
            (fixed, position, token) in (0u64..1 << 32, 1u64..1 << 18, 1u64..1 << 18),
            share in 0.0f64..1.2,
        ) {
            let wish = Wish { context, chunk, keys: KvFormat::ALL[keys], values: KvFormat::ALL[values] };
            let each = |format: KvFormat| position * format.bytes(32) as u64 / 64;
            let needs = |w: &Wish| fixed + w.context as u64 * (each(w.keys) + each(w.values)) + w.chunk as u64 * token;
            let budget = (needs(&wish) as f64 * share) as u64;
            let advice = advice(wish, budget, KvFormat::Q8_0, &needs);
            prop_assert_eq!(advice.is_empty(), needs(&wish) <= budget);
            for change in &advice {
                match change {
                    Change::To(to) => {
                        prop_assert!(needs(to) <= budget, "{}", change.flags(&wish));
                        prop_assert!(*to != wish && to.context <= wish.context && to.chunk <= wish.chunk);
                    }
                    Change::Budget(more) => {
                        prop_assert!(needs(&wish) <= *more && *more > budget);
                        let said = change.flags(&wish);
                        let read = size::parse(said.strip_prefix("--ram ").unwrap()).unwrap();
                        prop_assert!(read >= *more, "{said}");
                    }
                }
            }
            prop_assert!(advice.is_empty() || matches!(advice.last(), Some(Change::Budget(_))));
        }
    }

    const MB: u64 = 1 << 20;

    fn wish() -> Wish {
        Wish { context: 4096, keys: KvFormat::F16, values: KvFormat::F16, chunk: 512 }
    }

    /// 100 MB, 32 KB a position in f16, 128 KB a token of a step: 100 + 128 + 64.
    fn linear(w: &Wish) -> u64 {
        let each = |format: KvFormat| if format == KvFormat::F16 { 16u64 << 10 } else { 9 << 10 };
        100 * MB + w.context as u64 * (each(w.keys) + each(w.values)) + w.chunk as u64 * (128 << 10)
    }

    #[test]
    fn one_knob_is_turned_no_further_than_needed() {
        let flags: Vec<String> =
            advice(wish(), 262 * MB, KvFormat::Q8_0, &linear).iter().map(|c| c.flags(&wish())).collect();
        assert_eq!(flags, ["-c 2816", "-ctk q8_0 -ctv q8_0", "-ub 128", "--ram 296M"]);
        // Heads too narrow for q8_0.
        let flags: Vec<String> =
            advice(wish(), 262 * MB, KvFormat::F16, &linear).iter().map(|c| c.flags(&wish())).collect();
        assert_eq!(flags, ["-c 2816", "-ub 128", "--ram 296M"]);
    }

    #[test]
    fn together_where_nothing_alone_will_do() {
        let flags: Vec<String> =
            advice(wish(), 130 * MB, KvFormat::Q8_0, &linear).iter().map(|c| c.flags(&wish())).collect();
        assert_eq!(flags, ["-c 1280 -ctk q8_0 -ctv q8_0 -ub 16", "--ram 296M"]);
        // Not even then: only a larger budget is left.
        let flags: Vec<String> =
            advice(wish(), 50 * MB, KvFormat::Q8_0, &linear).iter().map(|c| c.flags(&wish())).collect();
        assert_eq!(flags, ["--ram 296M"]);
    }

    #[test]
    fn what_a_token_reads() {
        let t = Tiered { dense: 0, slot: 2 * MB, experts: 1000, least: 8, token: 100 };
        assert_eq!(t.missing_per_token(1000), 0);
        assert_eq!(t.missing_per_token(500), 100 * MB);
        assert_eq!(t.missing_per_token(99), 200 * MB);
    }
}
