//! The thermocline: a map of layers by experts, coloured by heat, with the lines between tiers drawn through it. As SVG,
//! written by hand, or as PNG.

mod raster;

use super::plan::Choice;
use std::fmt::Write;

/// Size of one cell, at least and at most, and the room around the map.
const CELL: (f64, f64) = (12.0, 28.0);
const LEFT: f64 = 64.0;
const TOP: f64 = 56.0;
const FOOT: f64 = 60.0;
const RIGHT: f64 = 24.0;
/// Small models get larger cells, until the map is about so wide.
const USUAL: f64 = 448.0;

type Colour = [u8; 3];
const NIGHT: Colour = [0x0b, 0x10, 0x20];
const BRIGHT: Colour = [0xe8, 0xec, 0xf4];
const PALE: Colour = [0x9a, 0xa6, 0xbd];
const GOLD: Colour = [0xf7, 0xd3, 0x4a];
const WHITE: Colour = [0xff, 0xff, 0xff];

/// What a picture is drawn on. Lengths in points, from the upper left corner.
trait Canvas {
    /// `[x, y, width, height]`; what it stands for, where a picture can say so.
    fn rect(&mut self, place: [f64; 4], fill: Colour, title: Option<&str>);
    /// Its line stands on `y`; from `x` on, or until it.
    fn text(&mut self, at: (f64, f64), until: bool, size: f64, colour: Colour, text: &str);
    /// Straight pieces, across or down.
    fn line(&mut self, points: &[(f64, f64)], colour: Colour, width: f64);
}

/// `heat[layer]`: the chance of each expert, hottest first. `choices[layer]` says where the tiers end.
pub fn svg(title: &str, heat: &[Vec<f64>], choices: &[Choice]) -> String {
    let map = Map::of(heat, choices);
    let (across, down) = map.size();
    let mut svg = Svg(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {across} {down}\" width=\"{across}\" height=\"{down}\" \
         font-family=\"sans-serif\">\n"
    ));
    map.draw(&mut svg, title);
    svg.0.push_str("</svg>\n");
    svg.0
}

/// The same as the bytes of a PNG file, two dots a point.
pub fn png(title: &str, heat: &[Vec<f64>], choices: &[Choice]) -> Vec<u8> {
    let map = Map::of(heat, choices);
    let mut raster = raster::Raster::new(map.size(), 2);
    map.draw(&mut raster, title);
    raster.png()
}

struct Map<'a> {
    heat: &'a [Vec<f64>],
    choices: &'a [Choice],
    cell: f64,
    columns: usize,
    /// Which lines there are: accelerator from memory, memory from disk.
    lines: [bool; 2],
}

impl Map<'_> {
    fn of<'a>(heat: &'a [Vec<f64>], choices: &'a [Choice]) -> Map<'a> {
        let columns = heat.iter().map(Vec::len).max().unwrap_or(0);
        let cell = (USUAL / columns.max(1) as f64).floor().clamp(CELL.0, CELL.1);
        let lines = [choices.iter().any(|c| c.gpu > 0), choices.iter().any(|c| c.disk > 0)];
        Map { heat, choices, cell, columns, lines }
    }

    fn size(&self) -> (f64, f64) {
        let legend = 150.0 + 200.0 * self.lines.iter().filter(|drawn| **drawn).count() as f64;
        let map = self.columns as f64 * self.cell;
        (LEFT + map.max(legend).max(USUAL - LEFT) + RIGHT, TOP + self.heat.len() as f64 * self.cell + FOOT)
    }

    fn draw(&self, on: &mut dyn Canvas, title: &str) {
        let (across, down) = self.size();
        on.rect([0.0, 0.0, across, down], NIGHT, None);
        on.text((LEFT, 28.0), false, 16.0, BRIGHT, title);
        on.text((LEFT, 46.0), false, 12.0, PALE, "experts of each layer, the most chosen first");
        // An even choice is in the middle of the scale, unless one expert is hotter than twice that.
        let mean = |row: &Vec<f64>| row.iter().sum::<f64>() / row.len().max(1) as f64;
        let even = self.heat.iter().map(mean).fold(0.0, f64::max);
        let hottest = self.heat.iter().flatten().copied().fold((2.0 * even).max(1e-9), f64::max);
        for (l, row) in self.heat.iter().enumerate() {
            let y = TOP + l as f64 * self.cell;
            if l % 4 == 0 {
                on.text((LEFT - 8.0, y + self.cell / 2.0 + 4.0), true, 12.0, PALE, &l.to_string());
            }
            for (e, q) in row.iter().enumerate() {
                let (x, side) = (LEFT + e as f64 * self.cell, self.cell - 1.0);
                let title = format!("layer {l}: chosen by {:.1} % of tokens", q * 100.0);
                on.rect([x, y, side, side], rgb(q / hottest), Some(&title));
            }
        }
        // Beside each other, so that both are seen where no expert lies between them.
        if self.lines[0] {
            self.border(on, &|_, c| c.gpu, -2.0, GOLD);
        }
        if self.lines[1] {
            self.border(on, &|l, c| self.heat[l].len() - c.disk, 2.0, WHITE);
        }
        self.legend(on, TOP + self.heat.len() as f64 * self.cell + 24.0);
    }

    /// A staircase through the map: after so many experts of each layer.
    fn border(&self, on: &mut dyn Canvas, after: &dyn Fn(usize, &Choice) -> usize, aside: f64, colour: Colour) {
        let step = |(l, choice): (usize, &Choice)| {
            let (x, y) = (LEFT + after(l, choice) as f64 * self.cell - 0.5 + aside, TOP + l as f64 * self.cell);
            [(x, y), (x, y + self.cell)]
        };
        let points: Vec<(f64, f64)> = self.choices.iter().enumerate().flat_map(step).collect();
        on.line(&points, NIGHT, 5.0);
        on.line(&points, colour, 2.5);
    }

    fn legend(&self, on: &mut dyn Canvas, y: f64) {
        for step in 0..40 {
            let x = LEFT + f64::from(step) * 3.0;
            on.rect([x, y, 3.0, 10.0], rgb(1.0 - f64::from(step) / 39.0), None);
        }
        let below = y + 26.0;
        on.text((LEFT, below), false, 12.0, PALE, "hot");
        on.text((LEFT + 120.0, below), true, 12.0, PALE, "cold");
        let mut x = LEFT + 150.0;
        let borders = [(GOLD, "accelerator | memory"), (WHITE, "memory | disk")];
        for (_, (colour, text)) in self.lines.iter().zip(borders).filter(|(drawn, _)| **drawn) {
            on.line(&[(x, y + 5.0), (x + 18.0, y + 5.0)], colour, 2.5);
            on.text((x + 24.0, y + 10.0), false, 12.0, BRIGHT, text);
            x += 200.0;
        }
    }
}

struct Svg(String);

impl Canvas for Svg {
    fn rect(&mut self, [x, y, width, height]: [f64; 4], fill: Colour, title: Option<&str>) {
        let title = title.map_or(String::new(), |title| format!("<title>{}</title>", escaped(title)));
        let fill = hex(fill);
        let _ = writeln!(
            self.0,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{fill}\">{title}</rect>"
        );
    }

    fn text(&mut self, (x, y): (f64, f64), until: bool, size: f64, colour: Colour, text: &str) {
        let (anchor, fill, text) = (if until { "end" } else { "start" }, hex(colour), escaped(text));
        let _ = writeln!(
            self.0,
            "<text x=\"{x}\" y=\"{y}\" fill=\"{fill}\" font-size=\"{size}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    }

    fn line(&mut self, points: &[(f64, f64)], colour: Colour, width: f64) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x},{y}")).collect();
        let (points, stroke) = (points.join(" "), hex(colour));
        let _ = writeln!(
            self.0,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"{width}\"/>"
        );
    }
}

fn hex([r, g, b]: Colour) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// From cold (deep blue) to hot (red), by the square root of what it is relative to the hottest: rare ones differ too.
pub fn rgb(heat: f64) -> [u8; 3] {
    const STOPS: [(f64, [f64; 3]); 5] = [
        (0.0, [20.0, 32.0, 84.0]),
        (0.3, [24.0, 92.0, 148.0]),
        (0.55, [38.0, 166.0, 154.0]),
        (0.8, [244.0, 162.0, 54.0]),
        (1.0, [226.0, 60.0, 48.0]),
    ];
    let at = heat.clamp(0.0, 1.0).sqrt();
    let upper = STOPS.iter().position(|stop| at <= stop.0).unwrap_or(STOPS.len() - 1).max(1);
    let ((from, a), (to, b)) = (STOPS[upper - 1], STOPS[upper]);
    let mix = (at - from) / (to - from);
    [0, 1, 2].map(|i| (a[i] + (b[i] - a[i]) * mix).round() as u8)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_expert_is_a_cell_and_every_tier_a_line() {
        let heat = vec![vec![0.9, 0.4, 0.1, 0.0]; 3];
        let choices = vec![Choice { dense_on_gpu: false, gpu: 1, disk: 2 }; 3];
        let text = svg("a <model>", &heat, &choices);
        assert_eq!(text.matches("<title>").count(), 12);
        assert!(
            text.contains("a &lt;model&gt;") && text.contains("accelerator | memory") && text.contains("memory | disk")
        );
        assert_eq!(text.matches("<polyline").count(), 6);
        let plain = svg("x", &heat, &[Choice::default(); 3]);
        assert_eq!(plain.matches("<polyline").count(), 0);
        assert_eq!((hex(rgb(0.0)).as_str(), hex(rgb(1.0)).as_str()), ("#142054", "#e23c30"));
        // Where all are alike nothing is the hottest.
        assert!(
            !svg("x", &[vec![0.25; 4]], &[Choice::default()])
                .split("legend")
                .next()
                .unwrap()
                .contains("#e23c30\"><title>")
        );
    }

    #[test]
    fn a_png_has_the_same_cells() {
        let heat = vec![vec![0.9, 0.4, 0.1, 0.0]; 3];
        let choices = vec![Choice { dense_on_gpu: false, gpu: 1, disk: 2 }; 3];
        let bytes = png("a model", &heat, &choices);
        let mut reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().expect("a PNG");
        let mut dots = vec![0; reader.output_buffer_size().expect("small")];
        let info = reader.next_frame(&mut dots).expect("a frame");
        let (across, _) = Map::of(&heat, &choices).size();
        assert_eq!(info.width, 2 * across.ceil() as u32);
        let dot = |x: f64, y: f64| -> Colour {
            let at = 3 * ((2.0 * y) as usize * info.width as usize + (2.0 * x) as usize);
            dots[at..at + 3].try_into().expect("three")
        };
        let cell = |l: f64, e: f64| dot(LEFT + (e + 0.5) * 28.0, TOP + (l + 0.5) * 28.0);
        assert_eq!([cell(0.0, 0.0), cell(2.0, 3.0)], [rgb(1.0), rgb(0.0)]);
        assert_eq!(dot(LEFT + 28.0 - 2.5, TOP + 40.0), GOLD);
        assert_eq!(dot(LEFT + 56.0 + 1.0, TOP + 40.0), WHITE);
        assert!(dots.chunks(3).any(|dot| dot == BRIGHT), "there is a title");
    }
}
