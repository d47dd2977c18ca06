//! `/metrics`: what the server counted, and what the engine and the process say of themselves when somebody asks.

use super::House;
use super::metrics::{Family, Kind};
use crate::engine::{Engine, Lies, StoreStats};
use crate::planner::memory;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use std::sync::Arc;

pub async fn metrics(State(house): State<Arc<House>>) -> impl IntoResponse {
    let served = house.served.get();
    let mut all = vec![
        Family::gauge("up", "1 once the model is loaded.", f64::from(u8::from(served.is_some()))),
        Family::gauge("slots", "Answers that can be written at a time.", house.settings.slots as f64),
        Family::gauge("queue_places", "Answers that can be written or wait.", house.queue.places() as f64),
        Family::gauge("queue_places_taken", "Places taken now.", house.queue.taken() as f64),
    ];
    if let Some(held) = memory::held() {
        all.push(Family::gauge("resident_bytes", "Memory this process holds.", held.now() as f64));
        all.push(Family::gauge("resident_peak_bytes", "The most it ever held.", held.peak as f64));
    }
    if let Some(served) = served {
        of_engine(&served.engine, &mut all);
        if let Some(predicted) = served.predicted {
            let help = "Tokens a second that one answer alone is expected to get.";
            all.push(Family::gauge("predicted_tokens_per_second", help, predicted));
        }
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], house.metrics.page(&all))
}

fn of_engine(engine: &Engine, all: &mut Vec<Family>) {
    let ledger = engine.ledger();
    all.extend([
        Family::gauge("slot_cache_bytes", "Keys and values of one slot.", engine.cache_bytes() as f64),
        Family::gauge("context_positions", "Tokens a slot can hold.", engine.context() as f64),
        Family::gauge("ledger_bytes", "What was promised to suffice.", ledger.total() as f64),
        Family::counter("pool_wait_seconds_total", "Seconds compute threads waited for each other.", engine.waited()),
    ]);
    if let Some(budget) = ledger.budget {
        all.push(Family::gauge("budget_bytes", "What this process may hold.", budget.bytes as f64));
    }
    if let Some(accelerator) = engine.accelerator() {
        let (held, peak) = accelerator.held();
        all.push(Family::gauge("accelerator_bytes", "Weights and caches on the accelerator.", held as f64));
        all.push(Family::gauge("accelerator_peak_bytes", "The most that was held there.", peak as f64));
    }
    let spent = engine.spent();
    let mut shares = |name, help, value: &dyn Fn(&crate::engine::Spent) -> f64| {
        let values = spent.iter().map(|(share, spent)| (format!("part=\"{}\"", share.name()), value(spent)));
        all.push(Family { name, help, kind: Kind::Counter, values: values.collect() });
    };
    shares("part_seconds_total", "Seconds of computing, by part of the model.", &|spent| spent.seconds);
    shares("part_bytes_total", "Bytes of weights and cache read, by part of the model.", &|spent| spent.bytes as f64);
    experts(engine, all);
}

/// Where experts lie, how often each tier gave one, and what the disk cost: by layer.
fn experts(engine: &Engine, all: &mut Vec<Family>) {
    let map = engine.map();
    let tiers = [("accelerator", Lies::OnAccelerator), ("memory", Lies::InMemory), ("disk", Lies::OnDisk)];
    let lie = tiers.map(|(name, place)| (format!("tier=\"{name}\""), map.count(place) as f64));
    all.push(Family { name: "experts", help: "Experts, by where they lie.", kind: Kind::Gauge, values: lie.into() });
    let moves = engine.moves();
    let kinds = [("memory", moves.resized), ("accelerator", moves.across)];
    let values = kinds.map(|(name, count)| (format!("with=\"{name}\""), count as f64));
    let help =
        "Plans changed between turns: the number of experts in memory, and experts exchanged with the accelerator.";
    all.push(Family { name: "replans_total", help, kind: Kind::Counter, values: values.into() });
    let Some(store) = engine.store_stats() else { return };
    all.extend([
        Family::gauge("experts_slots", "Experts memory has room for.", store.slots as f64),
        Family::counter("experts_evictions_total", "Experts let go.", store.evictions as f64),
        Family::counter("experts_guesses_total", "Experts read before a router asked for them.", store.guesses as f64),
        Family::counter("experts_guessed_right_total", "Of these, those it then asked for.", store.right as f64),
        Family::counter("disk_bytes_total", "Bytes of experts read from the disk.", store.bytes_read as f64),
        Family::counter("disk_reads_total", "Reads of the disk.", store.reads as f64),
        Family::counter("disk_retries_total", "Of these, those that had to be repeated.", store.retries as f64),
        Family::counter("disk_busy_seconds_total", "Seconds in which the disk was read.", store.busy),
        Family::counter("disk_wait_seconds_total", "Seconds in which the computation waited for it.", store.waited),
    ]);
    all.extend(by_layer(&store));
}

fn by_layer(store: &StoreStats) -> [Family; 3] {
    let layers = || store.layers.iter().enumerate();
    let hits = layers().map(|(l, layer)| (format!("tier=\"memory\",layer=\"{l}\""), layer.hits as f64));
    let misses = layers().map(|(l, layer)| (format!("tier=\"disk\",layer=\"{l}\""), layer.misses as f64));
    let of = |value: fn(&crate::engine::LayerStats) -> f64| {
        layers().map(move |(l, layer)| (format!("layer=\"{l}\""), value(layer))).collect()
    };
    [
        Family {
            name: "experts_chosen_total",
            help: "Experts a step needed, by the tier they came from: each once for a step.",
            kind: Kind::Counter,
            values: hits.chain(misses).collect(),
        },
        Family {
            name: "experts_missing_bytes_total",
            help: "Bytes of experts that had to be read first.",
            kind: Kind::Counter,
            values: of(|layer| layer.missing as f64),
        },
        Family {
            name: "experts_wait_seconds_total",
            help: "Seconds computations waited for experts, added up where several waited at once.",
            kind: Kind::Counter,
            values: of(|layer| layer.waited),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::LayerStats;

    #[test]
    fn layers_are_told_apart() {
        let layer = |hits, misses| LayerStats { hits, misses, missing: misses << 20, waited: 0.5 };
        let store = StoreStats { layers: vec![layer(7, 1), layer(5, 0)], ..StoreStats::default() };
        let page = super::super::metrics::Metrics::default().page(&by_layer(&store));
        for line in [
            "thermocline_experts_chosen_total{tier=\"memory\",layer=\"0\"} 7",
            "thermocline_experts_chosen_total{tier=\"disk\",layer=\"0\"} 1",
            "thermocline_experts_missing_bytes_total{layer=\"0\"} 1048576",
            "thermocline_experts_wait_seconds_total{layer=\"1\"} 0.5",
            "# TYPE thermocline_experts_chosen_total counter",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in {page}");
        }
    }
}
