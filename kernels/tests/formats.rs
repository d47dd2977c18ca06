//! Blocks mean what the other implementation says they mean.

mod cases;

use cases::{Kind, Random};
use kernels::{Activations, Format, Isa, Layout, Rows};
use thermocline_kernels as kernels;

struct Fixture {
    given: Vec<f32>,
    blocks: Vec<u8>,
    decoded: Vec<f32>,
}

fn fixture(bytes: &[u8]) -> Fixture {
    let mut rest = bytes;
    let mut take = |size: usize| {
        let (length, tail) = rest.split_at(4);
        let length = u32::from_le_bytes(length.try_into().unwrap()) as usize * size;
        let (array, tail) = tail.split_at(length);
        rest = tail;
        array
    };
    let floats = |bytes: &[u8]| bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    Fixture { given: floats(take(4)), blocks: take(1).to_vec(), decoded: floats(take(4)) }
}

fn fixtures() -> Vec<(Format, Fixture)> {
    vec![
        (Format::F16, fixture(include_bytes!("fixtures/f16.bin"))),
        (Format::BF16, fixture(include_bytes!("fixtures/bf16.bin"))),
        (Format::Q4_0, fixture(include_bytes!("fixtures/q4_0.bin"))),
        (Format::Q4_1, fixture(include_bytes!("fixtures/q4_1.bin"))),
        (Format::Q8_0, fixture(include_bytes!("fixtures/q8_0.bin"))),
        (Format::Q3_K, fixture(include_bytes!("fixtures/q3_k.bin"))),
        (Format::Q4_K, fixture(include_bytes!("fixtures/q4_k.bin"))),
        (Format::Q5_K, fixture(include_bytes!("fixtures/q5_k.bin"))),
        (Format::Q6_K, fixture(include_bytes!("fixtures/q6_k.bin"))),
    ]
}

#[test]
fn foreign_blocks_decode_to_the_foreign_numbers() {
    for (format, fixture) in fixtures() {
        let mut ours = vec![0.0; fixture.decoded.len()];
        format.decode(&fixture.blocks, &mut ours);
        for (i, (a, b)) in ours.iter().zip(&fixture.decoded).enumerate() {
            assert!(a == b, "{format}: number {i} is {a:e}, expected {b:e}");
        }
    }
}

#[test]
fn numbers_encode_to_the_foreign_blocks() {
    for (format, fixture) in fixtures().into_iter().filter(|(format, _)| format.encodes()) {
        let mut ours = vec![0; fixture.blocks.len()];
        format.encode(&fixture.given, &mut ours);
        let size = format.block_bytes();
        for (i, (a, b)) in ours.chunks(size).zip(fixture.blocks.chunks(size)).enumerate() {
            assert_eq!(a, b, "{format}: block {i}");
        }
    }
}

#[test]
fn what_was_decoded_encodes_to_the_same_numbers() {
    let mut random = Random::new(1);
    for format in Format::ALL.into_iter().filter(|format| format.encodes()) {
        let given = cases::activations(&mut random, 4, 1024, Kind::Random);
        let mut bytes = vec![0; format.row_bytes(given.len()).unwrap()];
        let (mut once, mut twice) = (vec![0.0; given.len()], vec![0.0; given.len()]);
        format.encode(&given, &mut bytes);
        format.decode(&bytes, &mut once);
        for (x, y) in given.iter().zip(&once) {
            assert!((x - y).abs() <= 0.376, "{format}: {x} became {y}");
        }
        if matches!(format, Format::F32 | Format::F16 | Format::BF16) {
            format.encode(&once, &mut bytes);
            format.decode(&bytes, &mut twice);
            assert_eq!(once, twice, "{format}");
        }
    }
}

#[test]
fn lanes_and_back_is_the_same_file() {
    let mut random = Random::new(2);
    for format in Format::ALL.into_iter().filter(|format| Layout::Lanes.holds(*format)) {
        for width in cases::widths(format) {
            let file = cases::Matrix::new(&mut random, format, 3, width, Kind::Random);
            let lanes = file.in_lanes().unwrap();
            let mut back = vec![0; file.bytes.len()];
            kernels::file_from_lanes(format, width, &lanes.bytes, &mut back).unwrap();
            assert_eq!(back, file.bytes, "{format}, width {width}");
            let (mut a, mut b) = (vec![0.0; width], vec![0.0; width]);
            for row in 0..3 {
                file.rows().decode_row(row, &mut a);
                lanes.rows().decode_row(row, &mut b);
                assert_eq!(a, b, "{format}, width {width}");
            }
        }
    }
}

/// The sketch of the layout, written down once more by hand.
#[test]
fn a_lane_is_a_block() {
    let mut random = Random::new(3);
    let file = cases::weights(&mut random, Format::Q4_0, 1, 24 * 32, Kind::Random);
    let mut lanes = vec![0; file.len()];
    kernels::lanes_from_file(Format::Q4_0, 24 * 32, &file, &mut lanes).unwrap();
    for block in 0..24 {
        let (group, n, j) = if block < 16 { (0, 16, block) } else { (288, 8, block - 16) };
        for k in 0..4 {
            for byte in 0..4 {
                assert_eq!(lanes[group + k * n * 4 + j * 4 + byte], file[block * 18 + 2 + 4 * k + byte]);
            }
        }
        assert_eq!(lanes[group + 16 * n + 2 * j..][..2], file[block * 18..][..2]);
    }
}

#[test]
fn tiles_and_back_is_the_same_file() {
    let mut random = Random::new(4);
    for format in [Format::Q4_0, Format::Q4_1, Format::Q8_0] {
        for (neurons, width) in [(32, 32), (64, 96), (32, 64), (96, 128), (64, 160), (32, 224), (64, 384)] {
            let file = cases::weights(&mut random, format, width, neurons, Kind::Random);
            let (mut tiles, mut back) = (vec![0; file.len()], vec![0; file.len()]);
            kernels::tiles_from_file(format, neurons, width, &file, &mut tiles).unwrap();
            kernels::file_from_tiles(format, neurons, width, &tiles, &mut back).unwrap();
            assert_eq!(back, file, "{format} [{neurons}, {width}]");
        }
    }
}

#[test]
fn activations_round_to_the_nearest_even_code() {
    let mut x = vec![0.0f32; 64];
    x[..6].copy_from_slice(&[127.0, 0.5, 1.5, -0.5, -2.5, 126.5]);
    for isa in Isa::available() {
        let rounded = Activations::new(isa, &x, 1, 64);
        assert_eq!((0..6).map(|i| rounded.code(0, i)).collect::<Vec<_>>(), [127, 0, 2, 0, -2, 126]);
        assert_eq!((rounded.scale(0, 0), rounded.scale(0, 1)), (1.0, 0.0));
    }
}

#[test]
fn every_set_rounds_alike() {
    cases::say_missing();
    let mut random = Random::new(5);
    for width in [32, 64, 96, 480, 512, 544, 768, 2560] {
        let mut x = cases::activations(&mut random, 3, width, Kind::Random);
        x[0] = 1e-36;
        x[width] = f32::MAX;
        x[2 * width] = f32::from_bits(1);
        let scalar = Activations::new(Isa::SCALAR, &x, 3, width);
        for isa in Isa::available() {
            let rounded = Activations::new(isa, &x, 3, width);
            for t in 0..3 {
                for i in 0..width {
                    assert_eq!(rounded.code(t, i), scalar.code(t, i), "{isa}, width {width}, number {i} of {t}");
                }
                for b in 0..width / 32 {
                    assert_eq!(rounded.scale(t, b).to_bits(), scalar.scale(t, b).to_bits(), "{isa}, width {width}");
                }
            }
        }
    }
}

#[test]
fn what_is_no_number_is_seen() {
    for isa in Isa::available() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1.0; 96];
            x[40] = bad;
            let rounded = Activations::new(isa, &x, 1, 96);
            let one = half::f16::from_f32(1.0 / 127.0).to_f32();
            assert!(rounded.scale(0, 1).is_nan() && rounded.scale(0, 0) == one, "{isa} {bad}");
            let weights = vec![0x11; 3 * 18];
            let rows = Rows::new(Format::Q4_0, Layout::File, 96, &weights).unwrap();
            let out = cases::dots(isa, rows, kernels::Pick::All, &rounded, kernels::Order::Lanes);
            assert!(out[0].is_nan(), "{isa} {bad}");
        }
    }
}
