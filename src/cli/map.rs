//! `/map`: the thermocline in little. Layers from top to bottom, in each the experts in fast memory and then those on the
//! disk, the hottest first: two layers in a line of half blocks, or a layer in a line of letters where there are no colours.

use super::markdown::Colours;
use super::terminal::grouped;
use crate::engine::{Engine, LayerMap, Lies, Map};
use crate::planner::picture::rgb;
use std::fmt::Write;

/// Where the terminal does not say how wide it is.
const COLUMNS: usize = 80;
/// Before each line: the number of its first layer.
const MARGIN: usize = 4;
/// From cold to hot.
const LETTERS: &[u8] = b" .:-=+*#%@";

/// One expert as it is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cell {
    place: Lies,
    heat: f64,
    /// The last step used it.
    now: bool,
}

pub fn drawn(engine: &Engine, size: Option<(usize, usize)>, colours: Colours) -> String {
    let map = engine.map();
    let room = size.map_or(COLUMNS, |(columns, _)| columns).saturating_sub(MARGIN + 1).max(8);
    let mut out = picture(&map, room, colours);
    let at_hand = engine.store_stats().map(|stats| stats.hit_rate());
    out.push_str(&legend(&map, at_hand, colours));
    out
}

fn picture(map: &Map, room: usize, colours: Colours) -> String {
    let heat = map.heat();
    let rows: Vec<Vec<Cell>> = map.layers.iter().zip(&heat).map(|(layer, heat)| row(layer, heat, room)).collect();
    let mut out = String::new();
    match colours {
        Colours::Many | Colours::True => {
            for (at, pair) in rows.chunks(2).enumerate() {
                let _ = write!(out, "{:>3} ", 2 * at); // writing to a string does not fail
                half_blocks(&mut out, &pair[0], pair.get(1), colours);
                out.push_str("\x1b[0m\n");
            }
        }
        Colours::None | Colours::Sixteen => {
            for (at, row) in rows.iter().enumerate() {
                let _ = writeln!(out, "{at:>3} {}", letters(row));
            }
        }
    }
    out
}

/// A layer's experts in the order they are drawn; where they are more than `room`, several share a cell, which is as hot as
/// the hottest of them and lies where that does.
fn row(layer: &LayerMap, heat: &[f64], room: usize) -> Vec<Cell> {
    let cell = |(at, (&place, &heat)): (usize, (&Lies, &f64))| Cell {
        place,
        heat,
        now: layer.now.binary_search(&(at as u16)).is_ok(),
    };
    let mut cells: Vec<Cell> = layer.places.iter().zip(heat).enumerate().map(cell).collect();
    cells.sort_by(|a, b| b.place.cmp(&a.place).then(b.heat.total_cmp(&a.heat)));
    let share = cells.len().div_ceil(room).max(1);
    cells.chunks(share).map(|part| Cell { now: part.iter().any(|cell| cell.now), ..part[0] }).collect()
}

fn half_blocks(out: &mut String, upper: &[Cell], lower: Option<&Vec<Cell>>, colours: Colours) {
    for (at, cell) in upper.iter().enumerate() {
        let _ = write!(out, "\x1b[38;{}m", code(colour(cell), colours));
        if let Some(below) = lower.and_then(|row| row.get(at)) {
            let _ = write!(out, "\x1b[48;{}m", code(colour(below), colours));
        }
        out.push('▀');
    }
}

/// White where it was just used, faded where it lies on the disk.
fn colour(cell: &Cell) -> [u8; 3] {
    let warm = if cell.now { [255; 3] } else { rgb(cell.heat) };
    match cell.place {
        Lies::OnDisk => warm.map(|part| (u16::from(part) * 2 / 5) as u8),
        Lies::InMemory | Lies::OnAccelerator => warm,
    }
}

/// As SGR wants it: in full, or the nearest of the 216 colours of the cube.
fn code([r, g, b]: [u8; 3], colours: Colours) -> String {
    let step = |part: u8| match part {
        0..48 => 0,
        48..115 => 1,
        part => (u32::from(part) - 35) / 40,
    };
    match colours {
        Colours::True => format!("2;{r};{g};{b}"),
        _ => format!("5;{}", 16 + 36 * step(r) + 6 * step(g) + step(b)),
    }
}

/// A bar stands where the disk begins.
fn letters(row: &[Cell]) -> String {
    let mut out = String::with_capacity(row.len() + 1);
    let mut before = None;
    for cell in row {
        if cell.place == Lies::OnDisk && before.is_some_and(|place| place != Lies::OnDisk) {
            out.push('|');
        }
        before = Some(cell.place);
        let letter = (cell.heat.sqrt() * (LETTERS.len() - 1) as f64).round() as usize;
        out.push(LETTERS[letter.min(LETTERS.len() - 1)].into());
    }
    out
}

fn legend(map: &Map, at_hand: Option<f64>, colours: Colours) -> String {
    let (layers, experts) = (map.layers.len(), map.layers.first().map_or(0, |layer| layer.places.len()));
    let tokens = map.layers.first().map_or(0, |layer| layer.tokens);
    let mut out =
        format!("{layers} layers of {experts} experts after {} tokens, the hottest on the left", grouped(tokens));
    let drawn = matches!(colours, Colours::Many | Colours::True);
    if drawn {
        out.push_str("; white: used by the last step");
    }
    out.push('\n');
    for (place, name) in
        [(Lies::OnAccelerator, "on the accelerator"), (Lies::InMemory, "in memory"), (Lies::OnDisk, "on the disk")]
    {
        let count = map.count(place);
        if count > 0 {
            let separator = if out.ends_with('\n') { "" } else { ", " };
            let faded = if place != Lies::OnDisk {
                ""
            } else if drawn {
                " (faded)"
            } else {
                " (behind the bar)"
            };
            let _ = write!(out, "{separator}{} {name}{faded}", grouped(count as u64));
        }
    }
    if let Some(share) = at_hand {
        let _ = write!(out, "; {:.1} % of chosen experts were at hand", 100.0 * share);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> Map {
        let layer = |chosen: [u64; 4], places: [Lies; 4], now: Vec<u16>| LayerMap {
            tokens: 10,
            chosen: chosen.into(),
            places: places.into(),
            now,
        };
        let (memory, disk) = (Lies::InMemory, Lies::OnDisk);
        Map {
            layers: vec![
                layer([0, 5, 10, 5], [disk, memory, memory, disk], vec![2, 3]),
                layer([5; 4], [memory; 4], vec![0, 1]),
            ],
        }
    }

    #[test]
    fn without_colours_a_layer_is_a_line_of_letters() {
        assert_eq!(picture(&map(), 70, Colours::None), "  0 @*|* \n  1 ****\n");
        assert_eq!(picture(&map(), 2, Colours::None), "  0 @|*\n  1 **\n", "two share a cell");
    }

    #[test]
    fn with_colours_two_layers_share_a_line() {
        let text = picture(&map(), 70, Colours::True);
        assert_eq!((text.lines().count(), text.matches('▀').count()), (1, 4));
        // The hottest lies in memory and was just used; the one on the disk is faded.
        assert!(text.starts_with("  0 \x1b[38;2;255;255;255m\x1b[48;2;"), "{text:?}");
        assert!(text.contains("\x1b[38;2;102;102;102m"), "{text:?}");
        assert!(picture(&map(), 70, Colours::Many).contains("\x1b[38;5;231m"));
    }

    #[test]
    fn the_legend_counts() {
        let text = legend(&map(), Some(0.5), Colours::None);
        for part in ["2 layers of 4 experts after 10 tokens", "6 in memory, 2 on the disk (behind the bar)", "50.0 %"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
