//! What the tensors of a model are for, and their shapes.

use super::Config;

/// What a tensor is for. Containers map their own names onto this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    Embedding,
    OutputNorm,
    Head,
    NormIn(u16),
    Query(u16),
    Key(u16),
    Value(u16),
    AttentionOut(u16),
    NormFfn(u16),
    Router(u16),
    /// (layer, expert)
    Gate(u16, u16),
    Up(u16, u16),
    Down(u16, u16),
}

/// How a `down` matrix lies in its file: `[width, neurons]` (ordinary) or `[neurons, width]` (PowerInfer's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownOrder {
    ByOutput,
    ByNeuron,
}

impl Part {
    /// Everything of a layer but its experts.
    pub fn dense(layer: u16) -> [Part; 7] {
        use Part::*;
        [NormIn(layer), Query(layer), Key(layer), Value(layer), AttentionOut(layer), NormFfn(layer), Router(layer)]
    }

    /// The matrices of one expert.
    pub fn expert(layer: u16, index: u16) -> [Part; 3] {
        [Part::Gate(layer, index), Part::Up(layer, index), Part::Down(layer, index)]
    }

    /// Norms and routers stay f32 whatever the weights are rounded to.
    pub fn stays_f32(self) -> bool {
        matches!(self, Part::OutputNorm | Part::NormIn(_) | Part::NormFfn(_) | Part::Router(_))
    }

    /// A vector rather than a matrix.
    pub fn is_norm(self) -> bool {
        matches!(self, Part::OutputNorm | Part::NormIn(_) | Part::NormFfn(_))
    }
}

impl Config {
    /// Every part of this model once: the embedding, the layers in order, the last norm, the head.
    pub fn parts(&self) -> impl Iterator<Item = Part> + '_ {
        let layers = (0..self.layers.len() as u16).flat_map(move |l| {
            Part::dense(l).into_iter().chain((0..self.experts as u16).flat_map(move |e| Part::expert(l, e)))
        });
        std::iter::once(Part::Embedding).chain(layers).chain([Part::OutputNorm, Part::Head])
    }

    /// Rows and width of one part; a norm is one row.
    pub fn shape(&self, part: Part, down: DownOrder) -> (usize, usize) {
        let width = self.width;
        match part {
            Part::Embedding | Part::Head => (self.vocab, width),
            Part::OutputNorm | Part::NormIn(_) | Part::NormFfn(_) => (1, width),
            Part::Query(_) => (self.heads * self.head_width, width),
            Part::Key(_) | Part::Value(_) => (self.kv_heads * self.head_width, width),
            Part::AttentionOut(_) => (width, self.heads * self.head_width),
            Part::Router(_) => (self.experts, width),
            Part::Gate(..) | Part::Up(..) => (self.neurons, width),
            Part::Down(..) => match down {
                DownOrder::ByOutput => (width, self.neurons),
                DownOrder::ByNeuron => (self.neurons, width),
            },
        }
    }

    /// How many parts `parts` yields.
    pub fn part_count(&self) -> usize {
        3 + self.layers.len() * self.layer_parts()
    }

    fn layer_parts(&self) -> usize {
        7 + 3 * self.experts
    }

    /// Where `parts` yields this part. `None` for a layer or expert this model does not have.
    pub fn part_index(&self, part: Part) -> Option<usize> {
        let layers = self.layers.len();
        let within = |l: u16, i: usize| ((l as usize) < layers).then(|| 1 + l as usize * self.layer_parts() + i);
        let expert = |l: u16, e: u16, i: usize| {
            if (e as usize) < self.experts { within(l, 7 + 3 * e as usize + i) } else { None }
        };
        match part {
            Part::Embedding => Some(0),
            Part::OutputNorm => Some(1 + layers * self.layer_parts()),
            Part::Head => Some(2 + layers * self.layer_parts()),
            Part::NormIn(l) => within(l, 0),
            Part::Query(l) => within(l, 1),
            Part::Key(l) => within(l, 2),
            Part::Value(l) => within(l, 3),
            Part::AttentionOut(l) => within(l, 4),
            Part::NormFfn(l) => within(l, 5),
            Part::Router(l) => within(l, 6),
            Part::Gate(l, e) => expert(l, e, 0),
            Part::Up(l, e) => expert(l, e, 1),
            Part::Down(l, e) => expert(l, e, 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_the_index_it_is_yielded_at() {
        let config = crate::config::tests::small();
        let parts: Vec<Part> = config.parts().collect();
        assert_eq!(parts.len(), config.part_count());
        for (i, part) in parts.iter().enumerate() {
            assert_eq!(config.part_index(*part), Some(i), "{part:?}");
        }
        for beyond in [Part::Router(3), Part::Gate(0, 4), Part::Down(3, 0), Part::Up(u16::MAX, u16::MAX)] {
            assert_eq!(config.part_index(beyond), None);
        }
    }

    #[test]
    fn shapes_of_both_orders() {
        let config = crate::config::tests::small();
        assert_eq!(config.shape(Part::Down(0, 0), DownOrder::ByOutput), (64, 32));
        assert_eq!(config.shape(Part::Down(0, 0), DownOrder::ByNeuron), (32, 64));
        assert_eq!(config.shape(Part::Key(0), DownOrder::ByOutput), (32, 64));
        assert_eq!(config.shape(Part::Router(0), DownOrder::ByOutput), (4, 64));
    }
}
