//! Both verbs, every format, every instruction set this processor has: scalar against the mathematics, all others against
//! scalar, to the bit.

mod cases;

use cases::{KINDS, Kind, Matrix, Random, assert_same, dots};
use kernels::{Activations, Columns, Format, Isa, Order, Pick, Rows, Tiles, add_rows, add_rows_many, add_tiles};
use thermocline_kernels as kernels;

/// Rows and tokens around every boundary of the register blocks.
const ROWS: [usize; 9] = [1, 2, 3, 4, 5, 15, 16, 17, 35];
const TOKENS: [usize; 10] = [1, 2, 3, 4, 5, 7, 8, 9, 16, 19];

/// Scalar against double precision: `n` float terms may be off by `(n + 2) 2^-23` of the sum of their magnitudes.
#[test]
fn scalar_follows_the_mathematics() {
    let mut random = Random::new(10);
    for format in Format::ALL {
        for width in cases::widths(format) {
            let w = Matrix::new(&mut random, format, 3, width, Kind::Random);
            let values = cases::activations(&mut random, 2, width, Kind::Random);
            let x = Activations::new(Isa::SCALAR, &values, 2, width);
            let float = matches!(format, Format::F32 | Format::F16 | Format::BF16);
            for order in [Order::Lanes, Order::Sequence] {
                let ours = dots(Isa::SCALAR, w.rows(), Pick::All, &x, order);
                let mut row = vec![0.0; width];
                for (i, ours) in ours.iter().enumerate() {
                    let t = i / 3;
                    w.rows().decode_row(i % 3, &mut row);
                    let term = |c: usize| match float {
                        true => f64::from(row[c]) * f64::from(x.vector(t)[c]),
                        false => f64::from(row[c]) * f64::from(x.code(t, c)) * f64::from(x.scale(t, c / 32)),
                    };
                    let exact: f64 = (0..width).map(term).sum();
                    // A minimum is taken off after the sum, so that its terms count by themselves.
                    let size: f64 = (0..width).map(|c| term(c).abs()).sum::<f64>() * 8.0 + 1e-6;
                    let tolerance = (width + 2) as f64 * 2f64.powi(-23) * size;
                    assert!((f64::from(*ours) - exact).abs() <= tolerance, "{format} {width}: {ours} for {exact}");
                }
            }
        }
    }
}

fn compare_dots(isa: Isa, w: &Matrix, x: &Activations, pick: Pick, what: &str) {
    let rounded = Activations::new(isa, x.values(), x.t(), x.width());
    for order in [Order::Lanes, Order::Sequence] {
        let expected = dots(Isa::SCALAR, w.rows(), pick, x, order);
        for w in [Some(w), w.in_lanes().as_ref()].into_iter().flatten() {
            let found = dots(isa, w.rows(), pick, &rounded, order);
            assert_same(&found, &expected, || format!("{isa} {:?} {order:?} {}, {what}", w.rows(), x.t()));
        }
    }
}

#[test]
fn dots_have_the_same_bits_at_every_width() {
    cases::say_missing();
    for format in Format::ALL {
        let mut random = Random::new(11);
        for width in cases::widths(format) {
            for kind in KINDS {
                let w = Matrix::new(&mut random, format, 5, width, kind);
                for (t, other) in [(1, Kind::Random), (5, kind), (9, Kind::Random)] {
                    let values = cases::activations(&mut random, t, width, other);
                    let x = Activations::new(Isa::SCALAR, &values, t, width);
                    for isa in Isa::available() {
                        compare_dots(isa, &w, &x, Pick::All, &format!("{kind:?}"));
                    }
                }
            }
        }
    }
}

#[test]
fn dots_have_the_same_bits_for_any_number_of_rows_and_vectors() {
    for format in Format::ALL {
        let mut random = Random::new(12);
        let width = format.block_weights().max(32) * 3;
        for rows in ROWS {
            let w = Matrix::new(&mut random, format, rows, width, Kind::Random);
            for t in TOKENS {
                let values = cases::activations(&mut random, t, width, Kind::Random);
                let x = Activations::new(Isa::SCALAR, &values, t, width);
                for isa in Isa::available() {
                    compare_dots(isa, &w, &x, Pick::All, "rows and vectors");
                }
            }
        }
    }
}

#[test]
fn picked_rows_are_the_rows_picked() {
    for format in Format::ALL {
        let mut random = Random::new(13);
        let width = format.block_weights().max(32) * 2;
        let w = Matrix::new(&mut random, format, 70, width, Kind::Random);
        for t in [1, 3] {
            let values = cases::activations(&mut random, t, width, Kind::Random);
            let x = Activations::new(Isa::SCALAR, &values, t, width);
            let all = dots(Isa::SCALAR, w.rows(), Pick::All, &x, Order::Lanes);
            let some: Vec<u32> = (0..70).filter(|_| random.below(5) < 2).collect();
            let lists: [&[u32]; 6] = [&[], &[69], &[3, 3, 3], &[69, 0, 68, 1], &some, &(0..70).collect::<Vec<_>>()];
            for pick in lists {
                let expected: Vec<f32> = (0..t)
                    .flat_map(|t| pick.iter().map(move |i| (t, *i)))
                    .map(|(t, i)| all[t * 70 + i as usize])
                    .collect();
                for isa in Isa::available() {
                    let found = dots(isa, w.rows(), Pick::These(pick), &x, Order::Lanes);
                    assert_same(&found, &expected, || format!("{isa} {format} {pick:?}"));
                    compare_dots(isa, &w, &x, Pick::These(pick), "picked");
                }
            }
        }
    }
}

#[test]
fn rows_may_lie_apart_and_outputs_too() {
    for format in Format::ALL {
        let mut random = Random::new(14);
        let width = format.block_weights().max(32) * 2;
        let row = format.row_bytes(width).unwrap();
        let w = Matrix::new(&mut random, format, 8, width, Kind::Random);
        let values = cases::activations(&mut random, 3, width, Kind::Random);
        let x = Activations::new(Isa::SCALAR, &values, 3, width);
        // Every other row, between rows that belong to someone else; then a slice of those.
        let apart = Rows::with_stride(format, kernels::Layout::File, width, 2 * row, &w.bytes).unwrap();
        assert_eq!(apart.len(), 4);
        let expected = dots(Isa::SCALAR, w.rows(), Pick::These(&[2, 4, 6]), &x, Order::Lanes);
        for isa in Isa::available() {
            let found = dots(isa, apart.slice(1..4), Pick::All, &x, Order::Lanes);
            assert_same(&found, &expected, || format!("{isa} {format}, apart"));
            let mut wide = vec![7.0; 3 * 10];
            let mut columns = Columns::new(&mut wide, 3, 10);
            kernels::dot_rows(isa, apart.slice(1..4), Pick::All, &x, Order::Lanes, &mut columns.slice(2..5));
            for t in 0..3 {
                assert_same(&wide[10 * t + 2..10 * t + 5], &expected[3 * t..3 * t + 3], || format!("{isa} {format}"));
                assert!(wide[10 * t..10 * t + 2].iter().chain(&wide[10 * t + 5..10 * t + 10]).all(|v| *v == 7.0));
            }
        }
    }
}

#[test]
fn gathered_vectors_are_the_same_vectors() {
    let mut random = Random::new(15);
    let w = Matrix::new(&mut random, Format::Q4_0, 4, 96, Kind::Random);
    let values = cases::activations(&mut random, 5, 96, Kind::Random);
    let x = Activations::new(Isa::best(), &values, 5, 96);
    let all = dots(Isa::best(), w.rows(), Pick::All, &x, Order::Lanes);
    let gathered = x.gather(&[4, 0, 4]);
    assert_eq!((gathered.t(), gathered.width()), (3, 96));
    let found = dots(Isa::best(), w.rows(), Pick::All, &gathered, Order::Lanes);
    assert_same(&found, &[&all[16..20], &all[..4], &all[16..20]].concat(), || "gathered".into());
}

#[test]
fn sums_of_rows_have_the_same_bits() {
    for format in Format::ALL {
        let mut random = Random::new(16);
        for width in cases::widths(format) {
            for rows in [1, 3, 4, 9] {
                let w = Matrix::new(&mut random, format, rows, width, Kind::Random);
                let h = cases::activations(&mut random, 1, rows, Kind::Random);
                let start = cases::activations(&mut random, 1, width, Kind::Random);
                let cuts = [0..width, 0..width / 2, width / 3..width, width / 2..width / 2, width - 1..width];
                for columns in cuts {
                    let mut expected = start[columns.clone()].to_vec();
                    add_rows(Isa::SCALAR, w.rows(), &h, columns.clone(), &mut expected);
                    for isa in Isa::available() {
                        for w in [Some(&w), w.in_lanes().as_ref()].into_iter().flatten() {
                            let mut found = start[columns.clone()].to_vec();
                            add_rows(isa, w.rows(), &h, columns.clone(), &mut found);
                            assert_same(&found, &expected, || format!("{isa} {:?}, columns {columns:?}", w.rows()));
                            let mut found = start[columns.clone()].to_vec();
                            add_rows(isa, w.rows().with_silent(), &h, columns.clone(), &mut found);
                            assert_same(&found, &expected, || format!("{isa} {:?}, silent rows too", w.rows()));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn sums_of_many_vectors_have_the_same_bits() {
    for format in Format::ALL {
        let mut random = Random::new(20);
        for width in cases::widths(format) {
            let w = Matrix::new(&mut random, format, 7, width, Kind::Random);
            for t in [1, 3, 4, 8, 13] {
                let h = cases::activations(&mut random, t, 7, Kind::Random);
                let h = Activations::new(Isa::SCALAR, &h, t, 7);
                for columns in [0..width, width / 3..width, 0..width / 2, width / 2..width / 2] {
                    let n = columns.len();
                    let start = cases::activations(&mut random, t, n, Kind::Random);
                    let mut expected = start.clone();
                    for t in 0..t {
                        let out = &mut expected[t * n..(t + 1) * n];
                        add_rows(Isa::SCALAR, w.rows(), h.vector(t), columns.clone(), out);
                    }
                    for isa in Isa::available() {
                        let mut found = start.clone();
                        let out = &mut Columns::new(&mut found, t, n);
                        add_rows_many(isa, w.rows(), &h, columns.clone(), out);
                        assert_same(&found, &expected, || format!("{isa} {:?} {t}, columns {columns:?}", w.rows()));
                        let mut found = start.clone();
                        let out = &mut Columns::new(&mut found, t, n);
                        add_rows_many(isa, w.rows().with_silent(), &h, columns.clone(), out);
                        assert_same(&found, &expected, || format!("{isa} {:?} {t}, silent rows too", w.rows()));
                    }
                }
            }
        }
    }
}

/// A weight that is no number shows who reads it.
#[test]
fn silent_rows_are_read_only_when_asked_for() {
    let (rows, width) = (9, 64);
    let weights: Vec<f32> = (0..rows * width).map(|i| if i / width == 4 { f32::NAN } else { 0.5 }).collect();
    let mut bytes = vec![0; 4 * weights.len()];
    Format::F32.encode(&weights, &mut bytes);
    let w = Rows::new(Format::F32, kernels::Layout::File, width, &bytes).unwrap();
    let h: Vec<f32> = (0..rows).map(|i| if i == 4 { 0.0 } else { 1.0 }).collect();
    for isa in Isa::available() {
        for (w, expected) in [(w, 4.0), (w.with_silent(), f32::NAN)] {
            let mut out = vec![0.0; width];
            add_rows(isa, w, &h, 0..width, &mut out);
            assert!(out.iter().all(|sum| *sum == expected || sum.is_nan() && expected.is_nan()), "{isa} {out:?}");
        }
    }
}

/// For float formats the two orders of `down` are one definition.
#[test]
fn floats_by_neuron_equal_floats_by_output() {
    for format in [Format::F32, Format::F16, Format::BF16] {
        let mut random = Random::new(17);
        let (neurons, width) = (48, 80);
        let by_output = Matrix::new(&mut random, format, width, neurons, Kind::Random);
        let size = format.block_bytes();
        let mut bytes = vec![0; by_output.bytes.len()];
        for c in 0..width {
            for i in 0..neurons {
                bytes[(i * width + c) * size..][..size]
                    .copy_from_slice(&by_output.bytes[(c * neurons + i) * size..][..size]);
            }
        }
        let by_neuron = Matrix { format, layout: kernels::Layout::File, width, bytes };
        let h = cases::activations(&mut random, 1, neurons, Kind::Random);
        let x = Activations::new(Isa::SCALAR, &h, 1, neurons);
        let expected = dots(Isa::SCALAR, by_output.rows(), Pick::All, &x, Order::Sequence);
        for isa in Isa::available() {
            let mut found = vec![0.0; width];
            add_rows(isa, by_neuron.rows(), &h, 0..width, &mut found);
            assert_same(&found, &expected, || format!("{isa} {format}"));
        }
    }
}

#[test]
fn tiles_equal_the_dense_product() {
    for format in [Format::Q4_0, Format::Q4_1, Format::Q8_0] {
        let mut random = Random::new(18);
        for (neurons, width) in [(32, 32), (96, 96), (64, 128), (512, 256), (768, 416), (64, 480)] {
            for kind in KINDS {
                let file = cases::weights(&mut random, format, width, neurons, kind);
                let mut bytes = vec![0; file.len()];
                kernels::tiles_from_file(format, neurons, width, &file, &mut bytes).unwrap();
                let tiles = Tiles::new(format, neurons, width, &bytes).unwrap();
                let rows = Rows::new(format, kernels::Layout::File, neurons, &file).unwrap();
                for t in TOKENS {
                    if kind != Kind::Random && t > 3 {
                        continue;
                    }
                    let h = cases::activations(&mut random, t, neurons, if t == 2 { kind } else { Kind::Random });
                    let h = Activations::new(Isa::SCALAR, &h, t, neurons);
                    let expected = dots(Isa::SCALAR, rows, Pick::All, &h, Order::Sequence);
                    for isa in Isa::available() {
                        for tiles in [tiles, tiles.with_silent()] {
                            let mut found = vec![0.0; t * width];
                            add_tiles(isa, tiles, &h, 0..width, &mut Columns::new(&mut found, t, width));
                            let what = || format!("{isa} {format} [{neurons}, {width}] {t} {kind:?}");
                            assert_same(&found, &expected, what);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn tiles_add_to_what_is_there_and_to_the_columns_asked() {
    for format in [Format::Q4_0, Format::Q4_1, Format::Q8_0] {
        let mut random = Random::new(19);
        let (neurons, width) = (64, 416);
        let file = cases::weights(&mut random, format, width, neurons, Kind::Random);
        let mut bytes = vec![0; file.len()];
        kernels::tiles_from_file(format, neurons, width, &file, &mut bytes).unwrap();
        let tiles = Tiles::new(format, neurons, width, &bytes).unwrap();
        for t in [1, 4] {
            let h = cases::activations(&mut random, t, neurons, Kind::Random);
            let h = Activations::new(Isa::SCALAR, &h, t, neurons);
            for columns in [0..416, 128..256, 1..416, 127..129, 130..250, 384..416, 5..5, 256..400] {
                let n = columns.len();
                let start = cases::activations(&mut random, 1, t * n, Kind::Random);
                let mut expected = start.clone();
                add_tiles(Isa::SCALAR, tiles, &h, columns.clone(), &mut Columns::new(&mut expected, t, n));
                for isa in Isa::available() {
                    let mut found = start.clone();
                    add_tiles(isa, tiles, &h, columns.clone(), &mut Columns::new(&mut found, t, n));
                    assert_same(&found, &expected, || format!("{isa} {format} {columns:?} {t}"));
                }
            }
        }
    }
}
