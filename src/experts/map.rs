//! The thermocline as it is now: how often each expert was chosen, where it lies, and which of them the last step used.

use super::{ExpertStore, Tally};

/// A picture of all experts at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    pub layers: Vec<LayerMap>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerMap {
    /// Tokens its router saw so far, and how many of them chose each expert.
    pub tokens: u64,
    pub chosen: Vec<u64>,
    pub places: Vec<Lies>,
    /// What the last step chose, ascending.
    pub now: Vec<u16>,
}

/// Where an expert lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lies {
    OnDisk,
    InMemory,
    OnAccelerator,
}

impl ExpertStore {
    /// Costs two locks held for a moment, and no time of anybody who does not ask.
    pub fn map(&self) -> Map {
        let mut map = Map::of(self.tally(), if self.slots_bytes() == 0 { Lies::InMemory } else { Lies::OnDisk });
        for id in self.at_hand() {
            map.layers[id.layer as usize].places[id.index as usize] = Lies::InMemory;
        }
        for id in self.on_device().iter().flat_map(|device| device.ids()) {
            map.layers[id.layer as usize].places[id.index as usize] = Lies::OnAccelerator;
        }
        map
    }
}

impl Map {
    fn of(tally: &Tally, place: Lies) -> Map {
        let layer = |(tokens, chosen, now): (u64, Vec<u64>, Vec<u16>)| {
            let places = vec![place; chosen.len()];
            LayerMap { tokens, chosen, places, now }
        };
        Map { layers: tally.heat().into_iter().map(layer).collect() }
    }

    /// By layer and expert: how often it was chosen, from 0 to 1 of the one chosen most often of all; zeros before the
    /// first token.
    pub fn heat(&self) -> Vec<Vec<f64>> {
        let chance = |layer: &LayerMap| -> Vec<f64> {
            layer.chosen.iter().map(|&chosen| chosen as f64 / layer.tokens.max(1) as f64).collect()
        };
        let mut heat: Vec<Vec<f64>> = self.layers.iter().map(chance).collect();
        let hottest = heat.iter().flatten().copied().fold(0.0, f64::max);
        if hottest > 0.0 {
            heat.iter_mut().flatten().for_each(|chance| *chance /= hottest);
        }
        heat
    }

    /// Experts that lie there.
    pub fn count(&self, place: Lies) -> usize {
        self.layers.iter().flat_map(|layer| &layer.places).filter(|lies| **lies == place).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experts::Choice;

    #[test]
    fn heat_is_relative_to_the_hottest_of_all() {
        let tally = Tally::of(2, 4);
        let chose = |layer: u16, experts: &[u16]| {
            let groups =
                Choice { layer, active: 2, experts: experts.to_vec(), weights: vec![0.5; experts.len()] }.groups();
            tally.chose(&groups, experts.len() / 2);
        };
        assert_eq!(Map::of(&tally, Lies::OnDisk).heat(), vec![vec![0.0; 4]; 2]);
        chose(0, &[1, 2, 1, 3]);
        chose(1, &[0, 3, 1, 2]);
        chose(0, &[3, 1]);
        let mut map = Map::of(&tally, Lies::OnDisk);
        assert_eq!(map.heat(), [[0.0, 1.0, 1.0 / 3.0, 2.0 / 3.0], [0.5; 4]]);
        assert_eq!((map.layers[0].tokens, &map.layers[0].now[..]), (3, &[1, 3][..]));
        assert_eq!((map.layers[1].tokens, &map.layers[1].now[..]), (2, &[0, 1, 2, 3][..]));
        map.layers[1].places[2] = Lies::InMemory;
        assert_eq!((map.count(Lies::OnDisk), map.count(Lies::InMemory), map.count(Lies::OnAccelerator)), (7, 1, 0));
    }
}
