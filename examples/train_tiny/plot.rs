//! The loss curve as a picture, written by hand.

use crate::train::Progress;
use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 44.0;

/// Bits per token over tokens seen, with the two counting models as lines to beat.
pub fn svg(progress: &Progress, unigram: f64, bigram: f64) -> String {
    let most = progress.tokens.max(1) as f64;
    let highest = unigram.ceil() + 1.0;
    let x = |tokens: f64| LEFT + tokens / most * (WIDTH - LEFT - RIGHT);
    let y = |bits: f64| TOP + (1.0 - bits.clamp(0.0, highest) / highest) * (HEIGHT - TOP - BOTTOM);
    let line = |points: &[(usize, f64)]| {
        points
            .iter()
            .map(|&(tokens, bits)| format!("{:.1},{:.1}", x(tokens as f64), y(bits)))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let mut put = |text: String| writeln!(svg, "{text}").expect("writing to a string does not fail");
    for bits in 0..=highest as usize {
        let at = y(bits as f64);
        put(format!("<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{}\" y2=\"{at:.1}\" stroke=\"#e5e5e5\"/>", WIDTH - RIGHT));
        put(format!(
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#444\">{bits}</text>",
            LEFT - 8.0,
            at + 4.0
        ));
    }
    let step = [0.5e6, 1e6, 2e6, 5e6, 10e6, 20e6].into_iter().find(|step| most / step <= 8.0).unwrap_or(50e6);
    for i in 0..=(most / step) as usize {
        let tokens = i as f64 * step;
        put(format!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#444\">{} M</text>",
            x(tokens),
            HEIGHT - BOTTOM + 18.0,
            tokens / 1e6
        ));
    }
    for (name, bits) in [("unigram", unigram), ("bigram", bigram)] {
        let at = y(bits);
        put(format!(
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{}\" y2=\"{at:.1}\" stroke=\"#999\" stroke-dasharray=\"5 4\"/>",
            WIDTH - RIGHT
        ));
        put(format!(
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#666\">{name}, held out: {bits:.2}</text>",
            WIDTH - RIGHT - 4.0,
            at - 5.0
        ));
    }
    put(format!(
        "<polyline fill=\"none\" stroke=\"#7fb2e5\" stroke-width=\"1.5\" points=\"{}\"/>",
        line(&progress.training)
    ));
    put(format!(
        "<polyline fill=\"none\" stroke=\"#c0392b\" stroke-width=\"2\" points=\"{}\"/>",
        line(&progress.held_out)
    ));
    if let Some(&(tokens, bits)) = progress.held_out.last() {
        put(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#c0392b\">held out: {bits:.2}</text>",
            x(tokens as f64) - 4.0,
            y(bits) - 10.0
        ));
    }
    put(format!(
        "<text x=\"{LEFT}\" y=\"{}\" fill=\"#444\">tokens seen; bits per token (blue: training, answers weighted; red: held out, every token)</text>",
        HEIGHT - 8.0
    ));
    svg + "</svg>\n"
}
