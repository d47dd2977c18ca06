//! The same problem with fractions of layers allowed, solved to the end: a linear programme in which each layer takes
//! one offer in all and two budgets hold everything together.
//!
//! The simplex method for generalised upper bounds (Dantzig and Van Slyke 1967): of each layer one offer is its key, and
//! but two more columns, offers or room left over, are in the basis. So a step solves two equations, and in the answer all
//! layers but two at most take one offer whole.

/// What an offer costs and takes of both budgets.
#[derive(Clone, Copy)]
pub(super) struct Column {
    pub cost: f64,
    pub takes: [f64; 2],
}

pub(super) struct Relaxed {
    /// Of each layer the offer that it takes, or takes most of.
    pub chosen: Vec<usize>,
    /// Layers that take several.
    pub several: Vec<usize>,
    /// What one more of each budget is worth.
    pub prices: [f64; 2],
}

/// One of the two columns beside the keys.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Extra {
    /// What is left of a budget.
    Left(usize),
    /// An offer of a layer.
    Offer(usize, usize),
}

struct Simplex<'c> {
    columns: &'c [Vec<Column>],
    budgets: [f64; 2],
    key: Vec<usize>,
    extras: [Extra; 2],
    /// The sum of what all keys take.
    taken: [f64; 2],
}

/// Below this a number is taken for none; costs and amounts are of the order of one.
const NOTHING: f64 = 1e-10;

/// Steps for each layer before the search ends as it is. What was found is right even then, if not the best.
const MOST_STEPS: usize = 400;

/// `None` where not even fractions fit. Layers without offers are not allowed.
pub(super) fn solve(columns: &[Vec<Column>], budgets: [f64; 2]) -> Option<Relaxed> {
    // In units of what is usual, so that one tolerance does for all.
    let most = |of: &dyn Fn(&Column) -> f64| columns.iter().flatten().map(of).fold(0.0, f64::max);
    let unit = |most: f64| if most > 0.0 { most } else { 1.0 };
    let cost = unit(most(&|c| c.cost.abs()));
    let units = [0, 1].map(|i| unit(most(&|c| c.takes[i])));
    let scaled = |cost_of: &dyn Fn(&Column) -> f64| -> Vec<Vec<Column>> {
        let one = |c: &Column| Column { cost: cost_of(c), takes: [0, 1].map(|i| c.takes[i] / units[i]) };
        columns.iter().map(|layer| layer.iter().map(one).collect()).collect()
    };
    let limits = [0, 1].map(|i| budgets[i] / units[i]);

    // Something that fits: what takes least of the first budget, then of the second as far as the first allows.
    let second = scaled(&|c| c.takes[1] / units[1]);
    let least = |layer: &Vec<Column>| {
        let key = |i: &usize| (layer[*i].takes[0], layer[*i].takes[1]);
        (0..layer.len()).min_by(|a, b| key(a).partial_cmp(&key(b)).expect("numbers")).expect("offers")
    };
    let key: Vec<usize> = second.iter().map(least).collect();
    let room: f64 = second.iter().map(|layer| layer.iter().map(|c| c.takes[1]).fold(0.0, f64::max)).sum();
    let mut first = Simplex::new(&second, [limits[0], 1e6 * (room + 1.0)], key, [Extra::Left(0), Extra::Left(1)]);
    if first.taken[0] > limits[0] + NOTHING {
        return None;
    }
    first.run(Some(limits[1]));
    let (key, extras) = (first.key, first.extras);
    let costs = scaled(&|c| c.cost / cost);
    let mut all = Simplex::new(&costs, limits, key, extras);
    if all.values().iter().any(|value| *value < -1e-7) {
        return None;
    }
    all.run(None);
    let prices = all.prices();
    let values = all.values();
    let mut chosen = all.key.clone();
    let mut several: Vec<usize> = vec![];
    for (at, extra) in all.extras.iter().enumerate() {
        let Extra::Offer(layer, offer) = *extra else { continue };
        if values[at] > all.of_key(layer, &values) {
            chosen[layer] = offer;
        }
        if !several.contains(&layer) {
            several.push(layer);
        }
    }
    Some(Relaxed { chosen, several, prices: [0, 1].map(|i| (-prices[i]).max(0.0) * cost / units[i]) })
}

impl<'c> Simplex<'c> {
    fn new(columns: &'c [Vec<Column>], budgets: [f64; 2], key: Vec<usize>, extras: [Extra; 2]) -> Simplex<'c> {
        let mut simplex = Simplex { columns, budgets, key, extras, taken: [0.0; 2] };
        simplex.add_up();
        simplex
    }

    fn add_up(&mut self) {
        let each = self.columns.iter().zip(&self.key).map(|(layer, at)| layer[*at].takes);
        self.taken = each.fold([0.0; 2], |sum, takes| [sum[0] + takes[0], sum[1] + takes[1]]);
    }

    /// What a column costs and takes more than the key of its layer.
    fn beyond(&self, extra: Extra) -> Column {
        match extra {
            Extra::Left(i) => Column { cost: 0.0, takes: [f64::from(i == 0), f64::from(i == 1)] },
            Extra::Offer(layer, offer) => {
                let (column, key) = (self.columns[layer][offer], self.columns[layer][self.key[layer]]);
                let takes = [column.takes[0] - key.takes[0], column.takes[1] - key.takes[1]];
                Column { cost: column.cost - key.cost, takes }
            }
        }
    }

    /// How much of both extras makes up `amount` of the budgets.
    fn made_up(&self, amount: [f64; 2]) -> [f64; 2] {
        let [a, b] = self.extras.map(|extra| self.beyond(extra).takes);
        let det = a[0] * b[1] - a[1] * b[0];
        [(amount[0] * b[1] - amount[1] * b[0]) / det, (a[0] * amount[1] - a[1] * amount[0]) / det]
    }

    /// Shares of the extras.
    fn values(&self) -> [f64; 2] {
        self.made_up([self.budgets[0] - self.taken[0], self.budgets[1] - self.taken[1]])
    }

    /// The share of a layer's key.
    fn of_key(&self, layer: usize, values: &[f64; 2]) -> f64 {
        1.0 - self.sum_of(layer, values)
    }

    /// Of those of `values` whose extras are of this layer.
    fn sum_of(&self, layer: usize, values: &[f64; 2]) -> f64 {
        let of = |(extra, value): (&Extra, &f64)| match extra {
            Extra::Offer(l, _) if *l == layer => *value,
            _ => 0.0,
        };
        self.extras.iter().zip(values).map(of).sum()
    }

    /// What more of each budget would cost (it saves: they are negative in the end).
    fn prices(&self) -> [f64; 2] {
        let [a, b] = self.extras.map(|extra| self.beyond(extra));
        let det = a.takes[0] * b.takes[1] - a.takes[1] * b.takes[0];
        [(a.cost * b.takes[1] - b.cost * a.takes[1]) / det, (a.takes[0] * b.cost - b.takes[0] * a.cost) / det]
    }

    /// Takes in columns that make it cheaper until there are none. `enough`: ends where the second budget takes no more.
    fn run(&mut self, enough: Option<f64>) {
        let layers = self.columns.len();
        let (mut quiet, mut at) = (0, 0);
        for _ in 0..MOST_STEPS * (layers + 1) {
            if enough.is_some_and(|enough| self.second() <= enough) {
                return;
            }
            // A layer after the other, and after them what is left of the budgets.
            let entering = loop {
                if quiet > layers {
                    return;
                }
                let found = if at < layers { self.cheaper(at) } else { self.cheaper_left() };
                at = (at + 1) % (layers + 1);
                match found {
                    Some(found) => break found,
                    None => quiet += 1,
                }
            };
            quiet = 0;
            self.enter(entering);
        }
    }

    /// What is taken of the second budget.
    fn second(&self) -> f64 {
        let values = self.values();
        let extra = |(extra, value): (&Extra, &f64)| match extra {
            Extra::Offer(..) => self.beyond(*extra).takes[1] * value,
            Extra::Left(_) => 0.0,
        };
        self.taken[1] + self.extras.iter().zip(&values).map(extra).sum::<f64>()
    }

    fn cheaper(&self, layer: usize) -> Option<Extra> {
        let [a, b] = self.prices();
        let key = self.columns[layer][self.key[layer]];
        let base = key.cost - a * key.takes[0] - b * key.takes[1];
        let (mut best, mut least) = (None, base - NOTHING);
        for (i, column) in self.columns[layer].iter().enumerate() {
            let cost = column.cost - a * column.takes[0] - b * column.takes[1];
            if cost < least {
                (best, least) = (Some(i), cost);
            }
        }
        best.map(|offer| Extra::Offer(layer, offer)).filter(|extra| !self.extras.contains(extra))
    }

    fn cheaper_left(&self) -> Option<Extra> {
        let prices = self.prices();
        let left = [0, 1].into_iter().filter(|i| prices[*i] > NOTHING).map(Extra::Left);
        left.into_iter().find(|extra| !self.extras.contains(extra))
    }

    /// Takes a column into the basis for the one that runs out first.
    fn enter(&mut self, entering: Extra) {
        let values = self.values();
        let slopes = self.made_up(self.beyond(entering).takes);
        let layer_of = |extra: Extra| if let Extra::Offer(layer, _) = extra { Some(layer) } else { None };
        enum Leaves {
            Extra(usize),
            Key(usize),
        }
        let (mut leaves, mut soonest) = (None, f64::INFINITY);
        for at in 0..2 {
            let after = (values[at] / slopes[at]).max(0.0);
            if slopes[at] > NOTHING && after < soonest {
                (leaves, soonest) = (Some(Leaves::Extra(at)), after);
            }
        }
        for layer in [layer_of(entering), layer_of(self.extras[0]), layer_of(self.extras[1])].into_iter().flatten() {
            let falls = f64::from(layer_of(entering) == Some(layer)) - self.sum_of(layer, &slopes);
            let after = (self.of_key(layer, &values) / falls).max(0.0);
            if falls > NOTHING && after < soonest {
                (leaves, soonest) = (Some(Leaves::Key(layer)), after);
            }
        }
        match leaves {
            None => {} // without end: budgets and shares are bounded, so only rounding leads here
            Some(Leaves::Extra(at)) => self.extras[at] = entering,
            Some(Leaves::Key(layer)) => {
                // Another of its layer becomes the key: of the extras the larger one, or what has come.
                let own = (0..2).filter(|at| layer_of(self.extras[*at]) == Some(layer));
                let share = |at: &usize| values[*at] - soonest * slopes[*at];
                match (own.max_by(|a, b| share(a).total_cmp(&share(b))), entering) {
                    (Some(at), _) => {
                        let Extra::Offer(_, offer) = self.extras[at] else { unreachable!("an offer of this layer") };
                        self.key[layer] = offer;
                        self.extras[at] = entering;
                    }
                    (None, Extra::Offer(_, offer)) => self.key[layer] = offer,
                    (None, Extra::Left(_)) => unreachable!("its key would not change"),
                }
            }
        }
        self.add_up();
    }
}
