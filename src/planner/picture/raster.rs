//! A picture as dots.

use super::{Canvas, Colour};
use font8x8::UnicodeFonts;

pub struct Raster {
    width: usize,
    height: usize,
    /// Dots a point.
    scale: usize,
    dots: Vec<u8>,
}

impl Raster {
    pub fn new((across, down): (f64, f64), scale: usize) -> Raster {
        let (width, height) = (scale * across.ceil() as usize, scale * down.ceil() as usize);
        Raster { width, height, scale, dots: vec![0; 3 * width * height] }
    }

    pub fn png(self) -> Vec<u8> {
        let mut bytes = vec![];
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header().expect("a vector takes every byte");
        writer.write_image_data(&self.dots).expect("as many dots as were said");
        drop(writer);
        bytes
    }

    /// The dot nearest to so many points.
    fn dot(&self, points: f64, most: usize) -> usize {
        ((points * self.scale as f64).round().max(0.0) as usize).min(most)
    }
}

impl Canvas for Raster {
    fn rect(&mut self, [x, y, width, height]: [f64; 4], fill: Colour, _: Option<&str>) {
        let (left, right) = (self.dot(x, self.width), self.dot(x + width, self.width));
        for row in self.dot(y, self.height)..self.dot(y + height, self.height) {
            let row = &mut self.dots[3 * (row * self.width + left)..3 * (row * self.width + right)];
            row.chunks_exact_mut(3).for_each(|dot| dot.copy_from_slice(&fill));
        }
    }

    /// In letters of 8 by 8 dots, enlarged to about two thirds of the size: what does not fit is left out.
    fn text(&mut self, (x, y): (f64, f64), until: bool, size: f64, colour: Colour, text: &str) {
        let dot = (size * self.scale as f64 / 12.0).round() / self.scale as f64; // points
        let width = 8.0 * dot;
        let from = if until { x - width * text.chars().count() as f64 } else { x };
        for (i, letter) in text.chars().enumerate() {
            let known = font8x8::BASIC_FONTS.get(letter).or_else(|| font8x8::LATIN_FONTS.get(letter));
            let rows = known.or_else(|| font8x8::BASIC_FONTS.get('?')).unwrap_or_default();
            for (r, row) in rows.iter().enumerate() {
                for c in (0..8).filter(|c| row >> c & 1 == 1) {
                    let at = (from + width * i as f64 + dot * f64::from(c), y - dot * (7.0 - r as f64));
                    self.rect([at.0, at.1, dot, dot], colour, None);
                }
            }
        }
    }

    fn line(&mut self, points: &[(f64, f64)], colour: Colour, width: f64) {
        for two in points.windows(2) {
            let ((a, b), (c, d)) = (two[0], two[1]);
            let (x, y, half) = (a.min(c), b.min(d), width / 2.0);
            let (w, h) = ((a - c).abs(), (b - d).abs());
            // Pieces across are as much longer as corners are wide.
            let place = if w > 0.0 { [x - half, y - half, w + width, width] } else { [x - half, y, width, h] };
            self.rect(place, colour, None);
        }
    }
}
