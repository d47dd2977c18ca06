//! What a decoded token had to take at least, given which experts it missed and how fast the disk is.

use crate::engine::StoreStats;

/// One step, of a token for each sequence: seconds, those of them spent waiting for the disk, and the bytes of experts it missed, by layer.
#[derive(Clone, Debug)]
pub struct Token {
    pub seconds: f64,
    pub waited: f64,
    pub missing: Vec<u64>,
}

impl Token {
    pub fn new(seconds: f64, disk: &StoreStats) -> Token {
        Token { seconds, waited: disk.waited, missing: disk.layers.iter().map(|layer| layer.missing).collect() }
    }

    fn computing(&self) -> f64 {
        (self.seconds - self.waited).max(0.0)
    }
}

/// Means over tokens, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ideal {
    pub measured: f64,
    /// The sum over layers of the longer of computing and reading what the layer misses: the best a router can do that
    /// speaks when its layer begins. Computing is taken to be the same in each layer.
    pub by_layer: f64,
    /// The longer of all computing and all reading: only reading ahead of the routers comes near it.
    pub at_once: f64,
}

impl Ideal {
    /// `rate`: bytes per second of the disk. `None` without tokens.
    pub fn of(tokens: &[Token], rate: f64) -> Option<Ideal> {
        let mean = |of: &dyn Fn(&Token) -> f64| tokens.iter().map(of).sum::<f64>() / tokens.len() as f64;
        let reading = |bytes: u64| bytes as f64 / rate;
        let by_layer = |token: &Token| {
            let computing = token.computing() / token.missing.len().max(1) as f64;
            token.missing.iter().map(|&bytes| reading(bytes).max(computing)).sum()
        };
        (!tokens.is_empty() && rate > 0.0).then(|| Ideal {
            measured: mean(&|token| token.seconds),
            by_layer: mean(&by_layer),
            at_once: mean(&|token| reading(token.missing.iter().sum()).max(token.computing())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_of_both_counts_by_layer_or_at_once() {
        // Computing takes 1 s in each of four layers; reading 3 s in one and half a second in another.
        let token = Token { seconds: 6.5, waited: 2.5, missing: vec![0, 300, 50, 0] };
        let ideal = Ideal::of(&[token.clone(), token], 100.0).expect("two tokens");
        assert_eq!(ideal, Ideal { measured: 6.5, by_layer: 6.0, at_once: 4.0 });
        assert_eq!(Ideal::of(&[], 100.0), None);
    }
}
