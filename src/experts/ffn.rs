//! The mathematics of chosen experts on host memory (specification 3.1, step 2.10):
//! `y = sum of w_e * down_e(relu(gate_e x) * (up_e x))`, in ascending order of expert.
//!
//! A neuron whose gate is not positive adds exactly nothing: its `up` row is not read, nor its `down` row where `down`
//! lies by neuron. One parallel region for those experts of a wave that are at hand, cut by neuron and by output column, the
//! same again for late ones as they come, and for several tokens one more region that adds them up.

use super::{Down, Expert, ExpertId, Group, Step, Tally};
use crate::error::Result;
use crate::host::{Host, Share};
use kernels::norm::axpy;
use kernels::{Activations, Columns, Format, Order, Pick, Tiles, add_rows_many, add_tiles, dot_rows};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tokens, summed over experts, whose intermediate vectors are held at once: enough to fill the cores, small enough to
/// stay in the outer caches (256 x 768 f32 = 768 KiB).
pub const WAVE_TOKENS: usize = 256;

/// Fewest neurons one chunk computes, and what their number is a multiple of.
const NEURONS: (usize, usize) = (64, 32);

/// Above this share of firing neurons all rows are read in order: jumping over so few saves nothing.
const DENSE: f32 = 0.9;

/// Memory for what experts give, kept from layer to layer of a step: what one core wrote last it need not fetch from another
/// to fill it with zeros.
#[derive(Default)]
pub struct Room {
    h: Vec<f32>,
    y: Vec<f32>,
}

/// `x` `[t, width]` -> sum over each token's experts, `[t, width]`. Errors when an expert cannot be had.
pub fn mixture(
    host: &Host,
    experts: &Step<'_>,
    groups: &[Group],
    x: &Activations,
    room: &mut Room,
) -> Result<Vec<f32>> {
    let mut out = vec![0f32; x.t() * x.width()];
    let mut rest = groups;
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |g: &&Group| {
            tokens += g.tokens.len();
            tokens <= WAVE_TOKENS
        };
        let (now, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        wave(host, experts, now, x, room, &mut out)?;
        rest = later;
    }
    Ok(out)
}

/// One wave: adds these experts' share to `out` `[t, width]`. Those at hand are computed first, the others as they come;
/// they are added up when all are done, in one order.
fn wave(
    host: &Host,
    experts: &Step<'_>,
    groups: &[Group],
    x: &Activations,
    Room { h, y }: &mut Room,
    out: &mut Vec<f32>,
) -> Result<()> {
    let width = x.width();
    let ids: Vec<ExpertId> = groups.iter().map(|g| g.id).collect();
    let mut y = parts(y, groups.iter().map(|g| g.tokens.len() * width));
    let mut arrivals = host.timed(Share::Wait, || experts.ready(&ids));
    loop {
        let here = host.timed(Share::Wait, || arrivals.take())?;
        if here.places().is_empty() {
            break;
        }
        let now: Vec<&Group> = here.places().iter().map(|&place| &groups[place]).collect();
        let mut theirs: Vec<&mut [f32]> = here.places().iter().map(|&place| std::mem::take(&mut y[place])).collect();
        outputs(host, &here.experts(), &now, x, experts.tally(), h, &mut theirs);
        here.places().iter().zip(theirs).for_each(|(&place, theirs)| y[place] = theirs);
        host.timed(Share::Wait, || drop(here)); // others may wait for their slots
    }

    // Per output column the experts come in ascending order, whoever computed them.
    let sum = |range: Range<usize>, out: &mut Columns<'_>| {
        for (group, y) in groups.iter().zip(&y) {
            for ((&token, &weight), y) in group.tokens.iter().zip(&group.weights).zip(y.chunks_exact(width)) {
                axpy(host.isa, weight, &y[range.clone()], out.row(token));
            }
        }
    };
    host.timed(Share::Gather, || match x.t() {
        1 => sum(0..width, &mut Columns::new(out, 1, width)), // less work than handing it out
        _ => host.pool.columns(out, width, (256, 32), sum),
    });
    Ok(())
}

/// Parts of these lengths, one after the other, of `memory`, which grows where it has to. What they hold is left over.
fn parts(memory: &mut Vec<f32>, lengths: impl Iterator<Item = usize> + Clone) -> Vec<&mut [f32]> {
    let total = lengths.clone().sum();
    if memory.len() < total {
        memory.resize(total, 0.0);
    }
    let mut rest = memory.as_mut_slice();
    lengths.map(|length| rest.split_off_mut(..length).expect("made long enough above")).collect()
}

/// Computes some experts at hand and throws away what they give: it serves to measure.
pub fn compute(
    host: &Host,
    experts: &[Expert<'_>],
    groups: &[&Group],
    x: &Activations,
    tally: &Tally,
    Room { h, y }: &mut Room,
) {
    let mut y = parts(y, groups.iter().map(|g| g.tokens.len() * x.width()));
    outputs(host, experts, groups, x, tally, h, &mut y);
    std::hint::black_box(y);
}

/// What some experts at hand give: fills for each `y` `[its tokens, width]`. `h` is memory to do it in.
fn outputs(
    host: &Host,
    experts: &[Expert<'_>],
    groups: &[&Group],
    x: &Activations,
    tally: &Tally,
    h: &mut Vec<f32>,
    y: &mut [&mut [f32]],
) {
    let (neurons, width) = (experts[0].gate.len(), x.width());
    let mut h = parts(h, groups.iter().map(|g| g.tokens.len() * neurons));
    // As few cuts as keep the cores busy: an expert read in long runs comes a tenth faster.
    let cut = host.pool.chunk(neurons * groups.len(), NEURONS.0, NEURONS.1).min(neurons);
    let cuts = (2 * host.pool.width()).div_ceil(groups.len());
    let columns = width.div_ceil(cuts).next_multiple_of(128); // whole chunks of tiles
    // Made by whichever chunk of an expert comes first: once, and where it is used.
    let once = || -> Vec<OnceLock<Activations>> { groups.iter().map(|_| OnceLock::new()).collect() };
    let (inputs, rounded) = (once(), once());
    let fired: Vec<AtomicU64> = groups.iter().map(|_| AtomicU64::new(0)).collect();
    let hidden = |e: usize, range: Range<usize>, h: &mut Columns<'_>| {
        let tokens = &groups[e].tokens;
        let gather = || host.timed_within(Share::Experts, Share::Regroup, || x.gather(tokens));
        let x = if tokens.len() == x.t() { x } else { inputs[e].get_or_init(gather) };
        fire(host, &experts[e], x, range, h);
        let first = h.row(0).iter().filter(|h| **h != 0.0).count();
        fired[e].fetch_add(first as u64, Ordering::Relaxed);
    };
    let output = |e: usize, h: &[f32], range: Range<usize>, y: &mut Columns<'_>| {
        let round = || Activations::new(host.isa, h, groups[e].tokens.len(), neurons);
        let h = rounded[e].get_or_init(|| host.timed_within(Share::Experts, Share::Regroup, round));
        (0..y.t()).for_each(|t| y.row(t).fill(0.0));
        host.timed_within(Share::Experts, Share::Down, || project(host, experts[e].down, h, range, y));
    };
    // One core goes through gates in order, which memory gives fast, while another jumps over silent neurons.
    host.timed(Share::Experts, || {
        host.pool.grid_then((&mut h, neurons, cut), hidden, (y, width, columns), output);
    });
    host.timed(Share::Regroup, || tally.fired(groups, &fired, neurons));
}

/// `h[t][i] = relu(gate_i x_t) * (up_i x_t)` for the neurons in `range`.
fn fire(host: &Host, expert: &Expert<'_>, x: &Activations, range: Range<usize>, h: &mut Columns<'_>) {
    let (gate, up) = (expert.gate.slice(range.clone()), expert.up.slice(range.clone()));
    host.timed_within(Share::Experts, Share::Gate, || dot_rows(host.isa, gate, Pick::All, x, Order::Lanes, h));
    let firing = firing(h);
    let dense = reads_all(host, firing.len(), range.len());
    let count = if dense { range.len() } else { firing.len() };
    let mut u = vec![0f32; x.t() * count];
    let pick = if dense { Pick::All } else { Pick::These(&firing) };
    host.timed_within(Share::Experts, Share::Up, || {
        dot_rows(host.isa, up, pick, x, Order::Lanes, &mut Columns::new(&mut u, x.t(), count));
    });
    host.touch(Share::Gate, gate.row_bytes() * range.len());
    host.touch(Share::Up, up.row_bytes() * count);
    for t in 0..x.t() {
        let (h, u) = (h.row(t), &u[t * count..][..count]); // no numbers in `u` where all of them are silent
        let times = |g: f32, u: f32| if g > 0.0 { g * u } else { 0.0 };
        if dense {
            h.iter_mut().zip(u).for_each(|(g, u)| *g = times(*g, *u));
        } else {
            h.iter_mut().for_each(|g| *g = times(*g, 1.0));
            firing.iter().zip(u).for_each(|(&i, &u)| h[i as usize] = times(h[i as usize], u));
        }
    }
}

/// The neurons that fire for any token, ascending. Which do is anybody's guess, a branch predictor's too: there is no branch.
fn firing(gates: &mut Columns<'_>) -> Vec<u32> {
    let mut fires = vec![false; gates.columns()];
    for t in 0..gates.t() {
        fires.iter_mut().zip(gates.row(t)).for_each(|(fires, gate)| *fires |= *gate > 0.0);
    }
    let (mut firing, mut count) = (vec![0; fires.len()], 0);
    for (i, fires) in fires.into_iter().enumerate() {
        firing[count] = i as u32;
        count += fires as usize;
    }
    firing.truncate(count);
    firing
}

/// `y[t][c] = sum over neurons of h[t][i] * down[c][i]` for the columns in `range`.
fn project(host: &Host, down: Down<'_>, h: &Activations, range: Range<usize>, y: &mut Columns<'_>) {
    match down {
        Down::ByOutput(rows) => {
            let rows = rows.slice(range);
            host.touch(Share::Down, rows.row_bytes() * rows.len());
            dot_rows(host.isa, rows, Pick::All, h, Order::Sequence, y);
        }
        Down::Tiled(tiles) => {
            let mut fired = fired_by_block(h);
            let all = reads_all(host, fired.iter().sum(), tiles.neurons());
            let tiles = if all { tiles.with_silent() } else { tiles };
            if all {
                fired.fill(BLOCK);
            }
            host.touch(Share::Down, tile_bytes(tiles, &fired, range.len()));
            add_tiles(host.isa, tiles, h, range, y);
        }
        Down::ByNeuron(rows) => {
            let fires = |i: &usize| h.values().iter().skip(*i).step_by(rows.len()).any(|&h| h != 0.0);
            let fired = (0..rows.len()).filter(fires).count();
            let all = reads_all(host, fired, rows.len());
            let (rows, read) = if all { (rows.with_silent(), rows.len()) } else { (rows, fired) };
            host.touch(Share::Down, read * rows.row_bytes() * range.len() / rows.width());
            add_rows_many(host.isa, rows, h, range, y);
        }
    }
}

/// Whether silent neurons are read like the others: where they are few, jumping over them costs more than it saves.
fn reads_all(host: &Host, fired: usize, neurons: usize) -> bool {
    !host.skip || fired as f32 > DENSE * neurons as f32
}

/// Neurons that share a scale in tiles.
const BLOCK: usize = 32;

/// How many neurons of each block fire for any token, after rounding.
fn fired_by_block(h: &Activations) -> Vec<usize> {
    let fires = |block| (0..h.t()).fold(0, |any, t| any | h.fires(t, block));
    (0..h.width() / BLOCK).map(|block| fires(block).count_ones() as usize).collect()
}

/// Bytes read of `columns` columns, where so many neurons of each block are: their weights, and scales of blocks with any.
fn tile_bytes(tiles: Tiles<'_>, read: &[usize], columns: usize) -> usize {
    let scales = if tiles.format() == Format::Q4_1 { 4 } else { 2 };
    let weights = tiles.format().block_bytes() - scales; // of a block
    let bytes = |&read: &usize| scales * columns + weights * columns * read / BLOCK;
    read.iter().filter(|read| **read > 0).map(bytes).sum()
}
