//! What does not fit is refused at the door, with a sentence.

use kernels::{Activations, Columns, Format, Isa, Layout, Order, Pick, Rows, Tiles, add_rows, add_tiles, dot_rows};
use thermocline_kernels as kernels;

fn refused(format: Format, layout: Layout, width: usize, bytes: usize) -> String {
    Rows::new(format, layout, width, &vec![0; bytes]).expect_err("should be refused").to_string()
}

#[test]
fn rows_that_are_no_rows() {
    assert_eq!(refused(Format::Q4_0, Layout::File, 40, 18), "Q4_0 rows of width 40: expected a multiple of 32");
    assert_eq!(refused(Format::Q4_0, Layout::File, 0, 18), "Q4_0 rows of width 0: a row holds at least one block");
    assert!(refused(Format::Q4_0, Layout::File, 64, 0).contains("0 bytes"));
    assert!(refused(Format::Q4_0, Layout::File, 64, 37).contains("37 bytes are no whole number of Q4_0 rows"));
    assert!(refused(Format::Q6_K, Layout::Lanes, 256, 210).contains("no layout in lanes"));
    assert!(refused(Format::F32, Layout::File, usize::MAX / 2, 8).contains("expected a multiple"));
    let bytes = [0; 72];
    assert!(Rows::with_stride(Format::Q4_0, Layout::File, 32, 17, &bytes).unwrap_err().to_string().contains("overlap"));
    assert_eq!(Rows::with_stride(Format::Q4_0, Layout::File, 32, 36, &bytes).unwrap().len(), 2);
    assert_eq!(Rows::with_stride(Format::Q4_0, Layout::File, 32, 36, &bytes[..54]).unwrap().len(), 2);
    assert!(Rows::with_stride(Format::Q4_0, Layout::File, 32, 36, &bytes[..53]).is_err());
}

#[test]
fn tiles_that_are_no_tiles() {
    let bytes = vec![0; 32 * 32 / 32 * 18];
    assert!(Tiles::new(Format::Q4_0, 32, 32, &bytes).is_ok());
    assert!(Tiles::new(Format::Q4_0, 32, 64, &bytes).is_err());
    assert!(Tiles::new(Format::Q4_0, 33, 32, &bytes).is_err());
    assert!(Tiles::new(Format::Q4_0, 0, 32, &[]).is_err());
    assert!(Tiles::new(Format::Q6_K, 256, 256, &bytes).is_err());
    assert!(Tiles::new(Format::Q4_0, usize::MAX - 31, usize::MAX - 31, &bytes).is_err());
}

#[test]
fn relaying_that_does_not_fit() {
    let mut to = vec![0; 36];
    assert!(kernels::lanes_from_file(Format::Q4_0, 64, &[0; 36], &mut to).is_ok());
    assert!(kernels::lanes_from_file(Format::Q4_0, 64, &[0; 35], &mut to).is_err());
    assert!(kernels::lanes_from_file(Format::Q4_0, 64, &[0; 72], &mut to).is_err());
    assert!(kernels::lanes_from_file(Format::Q4_0, 64, &[], &mut []).is_err());
    assert!(kernels::file_from_lanes(Format::Q4_K, 256, &[0; 144], &mut [0; 144]).is_err());
    assert!(kernels::tiles_from_file(Format::Q4_0, 32, 32, &[0; 36], &mut to).is_err());
}

const X: [f32; 64] = [1.0; 64];

fn rows(bytes: &[u8]) -> Rows<'_> {
    Rows::new(Format::Q4_0, Layout::File, 64, bytes).unwrap()
}

#[test]
#[should_panic(expected = "dot_rows: width of the rows")]
fn dot_rows_of_other_width() {
    let x = Activations::new(Isa::SCALAR, &X[..32], 1, 32);
    dot_rows(Isa::SCALAR, rows(&[0; 36]), Pick::All, &x, Order::Lanes, &mut Columns::new(&mut [0.0], 1, 1));
}

#[test]
#[should_panic(expected = "dot_rows: columns of output")]
fn dot_rows_of_other_height() {
    let x = Activations::new(Isa::SCALAR, &X, 1, 64);
    dot_rows(Isa::SCALAR, rows(&[0; 72]), Pick::All, &x, Order::Lanes, &mut Columns::new(&mut [0.0], 1, 1));
}

#[test]
#[should_panic(expected = "dot_rows: rows of output")]
fn dot_rows_of_other_vectors() {
    let x = Activations::new(Isa::SCALAR, &X, 2, 32);
    let bytes = [0; 18];
    let w = Rows::new(Format::Q4_0, Layout::File, 32, &bytes).unwrap();
    dot_rows(Isa::SCALAR, w, Pick::All, &x, Order::Lanes, &mut Columns::new(&mut [0.0], 1, 1));
}

#[test]
#[should_panic(expected = "dot_rows: row 2 of 2")]
fn dot_rows_of_no_row() {
    let x = Activations::new(Isa::SCALAR, &X, 1, 64);
    let mut out = [0.0; 2];
    dot_rows(Isa::SCALAR, rows(&[0; 72]), Pick::These(&[0, 2]), &x, Order::Lanes, &mut Columns::new(&mut out, 1, 2));
}

#[test]
#[should_panic(expected = "add_rows: weights of the sum")]
fn add_rows_of_other_height() {
    add_rows(Isa::SCALAR, rows(&[0; 72]), &[1.0], 0..64, &mut [0.0; 64]);
}

#[test]
#[should_panic(expected = "add_rows: columns 0..65 of 64")]
fn add_rows_of_no_columns() {
    add_rows(Isa::SCALAR, rows(&[0; 36]), &[1.0], 0..65, &mut [0.0; 65]);
}

#[test]
#[should_panic(expected = "add_tiles: width of the activations")]
fn add_tiles_of_other_neurons() {
    let bytes = [0; 32 * 18];
    let tiles = Tiles::new(Format::Q4_0, 32, 32, &bytes).unwrap();
    let h = Activations::new(Isa::SCALAR, &X, 1, 64);
    add_tiles(Isa::SCALAR, tiles, &h, 0..32, &mut Columns::new(&mut [0.0; 32], 1, 32));
}

#[test]
#[should_panic(expected = "activations [2, 48]")]
fn activations_of_other_length() {
    Activations::new(Isa::SCALAR, &X, 2, 48);
}

#[test]
#[should_panic(expected = "rows 1..3 of 2")]
fn slice_past_the_end() {
    rows(&[0; 72]).slice(1..3);
}
