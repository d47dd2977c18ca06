//! Shapes nobody thought of: any format, width, number of rows and vectors, any picks, on every instruction set.

mod cases;

use cases::{Kind, Matrix, Random, assert_same, dots};
use kernels::{Activations, Columns, Format, Isa, Order, Pick, Rows, Tiles, add_tiles};
use proptest::prelude::*;
use thermocline_kernels as kernels;

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn products_are_scalars_products(
        format in prop::sample::select(Format::ALL.to_vec()),
        blocks in 1usize..40,
        rows in 1usize..40,
        t in 1usize..14,
        sequence in any::<bool>(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let width = match format.block_weights() {
            1 => 7 * blocks,
            32 => 32 * blocks,
            n => n * (1 + blocks % 5),
        };
        let order = if sequence { Order::Sequence } else { Order::Lanes };
        let w = Matrix::new(&mut random, format, rows, width, Kind::Random);
        let values = cases::activations(&mut random, t, width, Kind::Random);
        let picks: Vec<u32> = picks.iter().map(|i| i.index(rows) as u32).collect();
        let x = Activations::new(Isa::SCALAR, &values, t, width);
        for pick in [Pick::All, Pick::These(&picks)] {
            let expected = dots(Isa::SCALAR, w.rows(), pick, &x, order);
            for isa in Isa::available() {
                let x = Activations::new(isa, &values, t, width);
                for w in [Some(&w), w.in_lanes().as_ref()].into_iter().flatten() {
                    let found = dots(isa, w.rows(), pick, &x, order);
                    assert_same(&found, &expected, || format!("{isa} {:?} {order:?} {t}", w.rows()));
                }
            }
        }
    }

    #[test]
    fn tiles_are_the_dense_product(
        format in prop::sample::select(vec![Format::Q4_0, Format::Q4_1, Format::Q8_0]),
        neurons in 1usize..10,
        width in 1usize..14,
        t in 1usize..7,
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let (neurons, width) = (32 * neurons, 32 * width);
        let file = cases::weights(&mut random, format, width, neurons, Kind::Random);
        let mut bytes = vec![0; file.len()];
        kernels::tiles_from_file(format, neurons, width, &file, &mut bytes).unwrap();
        let tiles = Tiles::new(format, neurons, width, &bytes).unwrap();
        let rows = Rows::new(format, kernels::Layout::File, neurons, &file).unwrap();
        let values = cases::activations(&mut random, t, neurons, Kind::Random);
        for isa in Isa::available() {
            let h = Activations::new(isa, &values, t, neurons);
            let expected = dots(Isa::SCALAR, rows, Pick::All, &h, Order::Sequence);
            let mut found = vec![0.0; t * width];
            add_tiles(isa, tiles, &h, 0..width, &mut Columns::new(&mut found, t, width));
            assert_same(&found, &expected, || format!("{isa} {format} [{neurons}, {width}] {t}"));
        }
    }
}
