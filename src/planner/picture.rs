//! The thermocline: a map of layers by experts, coloured by heat, with the lines between tiers drawn through it. SVG,
//! written by hand.

use super::plan::Choice;
use std::fmt::Write;

/// Size of one cell, and the room around the map.
const CELL: f64 = 12.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 56.0;
const FOOT: f64 = 60.0;

/// `heat[layer]`: the chance of each expert, hottest first. `choices[layer]` says where the tiers end.
pub fn svg(title: &str, heat: &[Vec<f64>], choices: &[Choice]) -> String {
    let columns = heat.iter().map(Vec::len).max().unwrap_or(0);
    let (width, height) = (columns as f64 * CELL, heat.len() as f64 * CELL);
    let (across, down) = ((LEFT + width + 24.0).max(480.0), TOP + height + FOOT);
    let hottest = heat.iter().flatten().copied().fold(1e-9, f64::max);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {across} {down}\" width=\"{across}\" height=\"{down}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#0b1020\"/>\n\
         <text x=\"{LEFT}\" y=\"28\" fill=\"#e8ecf4\" font-size=\"16\">{}</text>\n\
         <text x=\"{LEFT}\" y=\"46\" fill=\"#9aa6bd\">experts of each layer, the most chosen first</text>\n",
        escaped(title)
    );
    for (l, row) in heat.iter().enumerate() {
        let y = TOP + l as f64 * CELL;
        if l % 4 == 0 {
            let (x, y) = (LEFT - 8.0, y + CELL - 2.0);
            let _ = writeln!(out, "<text x=\"{x}\" y=\"{y}\" fill=\"#9aa6bd\" text-anchor=\"end\">{l}</text>");
        }
        for (e, q) in row.iter().enumerate() {
            let x = LEFT + e as f64 * CELL;
            let (fill, side) = (colour(q / hottest), CELL - 1.0);
            let _ = writeln!(
                out,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\" fill=\"{fill}\"><title>layer {l}: chosen by \
                 {:.1} % of tokens</title></rect>",
                q * 100.0
            );
        }
    }
    let counts = |of: &dyn Fn(usize, &Choice) -> usize| -> Vec<usize> {
        choices.iter().enumerate().map(|(l, choice)| of(l, choice)).collect()
    };
    let gpu = counts(&|_, choice| choice.gpu);
    let disk = counts(&|l, choice| heat[l].len() - choice.disk);
    if gpu.iter().any(|n| *n > 0) {
        line(&mut out, &gpu, "#f7d34a");
    }
    if choices.iter().any(|choice| choice.disk > 0) {
        line(&mut out, &disk, "#ffffff");
    }
    legend(&mut out, TOP + height + 24.0, gpu.iter().any(|n| *n > 0), choices.iter().any(|c| c.disk > 0));
    out.push_str("</svg>\n");
    out
}

/// A staircase through the map: after so many experts of each layer.
fn line(out: &mut String, after: &[usize], colour: &str) {
    let mut points = String::new();
    for (l, n) in after.iter().enumerate() {
        let (x, y) = (LEFT + *n as f64 * CELL - 0.5, TOP + l as f64 * CELL);
        let _ = write!(points, "{x},{y} {x},{} ", y + CELL);
    }
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#0b1020\" stroke-width=\"5\"/>\n<polyline points=\"{}\" \
         fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>",
        points.trim_end(),
        points.trim_end()
    );
}

fn legend(out: &mut String, y: f64, gpu: bool, disk: bool) {
    for step in 0..40 {
        let x = LEFT + f64::from(step) * 3.0;
        let fill = colour(1.0 - f64::from(step) / 39.0);
        let _ = writeln!(out, "<rect x=\"{x}\" y=\"{y}\" width=\"3\" height=\"10\" fill=\"{fill}\"/>");
    }
    let below = y + 26.0;
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{below}\" fill=\"#9aa6bd\">hot</text>");
    let _ =
        writeln!(out, "<text x=\"{}\" y=\"{below}\" fill=\"#9aa6bd\" text-anchor=\"end\">cold</text>", LEFT + 120.0);
    let mut x = LEFT + 150.0;
    for (shown, colour, text) in [(gpu, "#f7d34a", "accelerator | memory"), (disk, "#ffffff", "memory | disk")] {
        if shown {
            let (to, words) = (x + 18.0, x + 24.0);
            let middle = y + 5.0;
            let _ = writeln!(
                out,
                "<line x1=\"{x}\" y1=\"{middle}\" x2=\"{to}\" y2=\"{middle}\" stroke=\"{colour}\" stroke-width=\"2.5\"/>\n\
                 <text x=\"{words}\" y=\"{}\" fill=\"#e8ecf4\">{text}</text>",
                y + 10.0
            );
            x += 170.0;
        }
    }
}

/// From cold (deep blue) to hot (red), by the square root of what it is relative to the hottest: rare ones differ too.
fn colour(heat: f64) -> String {
    let [r, g, b] = rgb(heat);
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// The same in parts of 255.
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
        assert_eq!(text.matches("<polyline").count(), 4);
        let plain = svg("x", &heat, &[Choice::default(); 3]);
        assert_eq!(plain.matches("<polyline").count(), 0);
        assert_eq!((colour(0.0).as_str(), colour(1.0).as_str()), ("#142054", "#e23c30"));
    }
}
