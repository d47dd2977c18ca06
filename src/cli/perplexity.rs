//! `perplexity`: how well a model predicts a text.
//!
//! The text is cut into windows that do not overlap; each is read alone, and the tokens of its second half are scored, so that
//! every scored token has at least half a window before it. Windows and scores follow llama.cpp's tool, so figures compare.

use super::args::PerplexityArgs;
use super::interrupt::Interrupts;
use super::open::{self, Opened};
use super::{Done, device, run, terminal};
use crate::error::{Error, Result};

pub fn run(args: &PerplexityArgs) -> Done {
    let text = run::read_text(&args.file)?;
    if args.ctx_size < 4 {
        return Err(Error::Usage("a window has at least 4 tokens".into()).into());
    }
    let interrupts = Interrupts::watch()?;
    let mut options = open::options(&args.load, &args.cores);
    options.wanted = Some(device::wanted(&args.place)?);
    options.context = Some(args.ctx_size);
    options.logits = args.ctx_size.div_ceil(2);
    let Opened { engine, name, recording: _recording } = open::open(&args.model, &args.load, &options, &interrupts)?;
    let leading = engine.text().leading();
    let tokens: Vec<u32> = leading.into_iter().chain(engine.text().encode(&text, args.parse_special)?).collect();
    let windows = windows(tokens.len(), args.ctx_size, args.chunks)?;
    let first = args.ctx_size / 2;
    let mut score = Score::default();
    let mut session = engine.session();
    for (number, window) in tokens.chunks_exact(args.ctx_size).take(windows).enumerate() {
        session.truncate(0);
        // Where texts begin with a token of their own, every window does.
        let mut window = window.to_vec();
        if let Some(id) = leading {
            window[0] = id;
        }
        // The logits of a position are about the next token: the last position of the window has nothing to be judged by.
        session.feed(&window, first..window.len() - 1, &mut |position, logits| {
            score.add(surprise(logits, window[position + 1] as usize));
        })?;
        let (perplexity, error) = score.perplexity();
        terminal::answer(&format!("window {} of {windows}: {perplexity:.4} +/- {error:.4}\n", number + 1))?;
    }
    open::finish(&engine)?;
    let (perplexity, error) = score.perplexity();
    terminal::answer(&format!(
        "perplexity of {name}: {perplexity:.4} +/- {error:.4} ({} tokens scored in {windows} windows of {})\n",
        terminal::grouped(score.count),
        args.ctx_size
    ))
}

fn windows(tokens: usize, width: usize, most: Option<usize>) -> Result<usize> {
    match tokens / width {
        0 => Err(Error::Usage(format!(
            "the text has {tokens} tokens, fewer than one window of {width}: give a longer text or a smaller --ctx-size"
        ))),
        n => Ok(most.map_or(n, |most| n.min(most))),
    }
}

/// -log p(target), by a softmax in f64.
fn surprise(logits: &[f32], target: usize) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - most).exp()).sum();
    sum.ln() - f64::from(logits[target] - most)
}

/// Sums over all scored tokens.
#[derive(Default)]
struct Score {
    count: u64,
    sum: f64,
    squares: f64,
}

impl Score {
    fn add(&mut self, surprise: f64) {
        self.count += 1;
        self.sum += surprise;
        self.squares += surprise * surprise;
    }

    /// exp(mean), and by the delta method exp(mean) times the standard error of the mean.
    fn perplexity(&self) -> (f64, f64) {
        let n = self.count as f64;
        let mean = self.sum / n;
        let variance = (self.squares / n - mean * mean).max(0.0);
        let error = if self.count > 1 { (variance / (n - 1.0)).sqrt() } else { 0.0 };
        (mean.exp(), mean.exp() * error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_model_is_as_perplexed_as_its_vocabulary_is_large() {
        let mut score = Score::default();
        for target in 0..10 {
            score.add(surprise(&[1.5; 32], target));
        }
        let (perplexity, error) = score.perplexity();
        assert!((perplexity - 32.0).abs() < 1e-9 && error < 1e-6, "{perplexity} {error}");
    }

    #[test]
    fn the_error_is_that_of_the_mean() {
        let mut score = Score::default();
        for x in [1.0, 2.0, 3.0, 4.0] {
            score.add(x);
        }
        let (perplexity, error) = score.perplexity();
        // Sample deviation 1.2910 over the root of 4.
        assert!((perplexity - 2.5f64.exp()).abs() < 1e-9);
        assert!((error / perplexity - 1.290_994_448_7 / 2.0).abs() < 1e-9);
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        assert!(surprise(&[3e38, -3e38, 0.0], 0).abs() < 1e-12);
        assert!(surprise(&[1000.0, 0.0], 1).is_finite());
    }

    #[test]
    fn a_short_text_is_refused() {
        assert_eq!(windows(1030, 512, None).expect("two"), 2);
        assert_eq!(windows(1030, 512, Some(1)).expect("one"), 1);
        assert!(windows(511, 512, None).unwrap_err().to_string().contains("fewer than one window"));
    }
}
