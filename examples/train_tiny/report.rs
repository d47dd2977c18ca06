//! Prints what the finished folder can do, as text ready for `assets/README.md`, and keeps the figures a test holds it to.

use crate::corpus::Domain;
use crate::evaluate::{self, Counts, Figures};
use crate::{folder, plot, shape, tokenizer, train};
use anyhow::{Context, Result};
use serde_json::json;
use std::path::Path;

/// Rows for counting pairs of tokens; about as many tokens as training sees would change the figures little.
const COUNTED_ROWS: usize = 8000;
/// Held-out rows measured over all domains together and in each.
const ROWS: usize = 64;
const ROWS_BY_DOMAIN: usize = 24;
/// Questions with one right answer, in each domain that has them.
const EXAMINED: usize = 200;

/// Figures go to `figures.json` and the curve to `loss.svg`, beside the folder.
pub fn run(out: &Path, work: &Path) -> Result<()> {
    let tokenizer = folder::read_tokenizer(out)?;
    let weights = folder::read_weights(out)?;
    let parameters: usize = weights.values().map(|tensor| tensor.elem_count()).sum();
    let model = shape::model(&shape::config(tokenizer::ends(&tokenizer)?), &weights)?;

    let counts = Counts::of_training(&tokenizer, COUNTED_ROWS)?;
    let (all, by_domain) = {
        let measured = |only: Option<Domain>, rows: usize| -> Result<Measured> {
            let (unigram, bigram) = counts.measure(&tokenizer, only, rows)?;
            Ok(Measured { figures: evaluate::measure(&model, &tokenizer, only, rows)?, unigram, bigram })
        };
        let by_domain =
            Domain::ALL.iter().map(|&domain| measured(Some(domain), ROWS_BY_DOMAIN)).collect::<Result<Vec<_>>>()?;
        (measured(None, ROWS)?, by_domain)
    };
    print(&all, &by_domain, parameters, model.config().active);
    let right = |domain| evaluate::right_answers(&model, &tokenizer, domain, EXAMINED);
    println!(
        "Right answers, of {EXAMINED}: {} sums below one hundred, {} sentences into Russian.",
        right(Domain::Sums)?,
        right(Domain::Russian)?
    );

    let beside = out.parent().unwrap_or(out);
    let mut stated = json!({
        "parameters": parameters,
        "held_out_bits_per_token": all.figures.bits,
        "unigram_bits_per_token": all.unigram,
        "bigram_bits_per_token": all.bigram,
        "silent": all.figures.silent,
        "silent_by_domain": by_domain.iter().map(|m| (m.figures.name.to_string(), json!(m.figures.silent))).collect::<serde_json::Map<_, _>>(),
    });
    match train::read_progress(work) {
        Ok(progress) => {
            println!(
                "Tokens seen: {:.1} million in {} steps, {:.0} minutes.",
                progress.tokens as f64 / 1e6,
                progress.step,
                progress.seconds / 60.0
            );
            stated["tokens_seen"] = json!(progress.tokens);
            stated["steps"] = json!(progress.step);
            stated["seconds"] = json!(progress.seconds.round());
            let path = beside.join("loss.svg");
            std::fs::write(&path, plot::svg(&progress, all.unigram, all.bigram))
                .with_context(|| format!("writing {}", path.display()))?;
            let path = beside.join("figures.json");
            folder::replace(&path, (serde_json::to_string_pretty(&stated)? + "\n").as_bytes())?;
        }
        Err(_) => println!("(no training record in {}: figures and curve are not rewritten)", work.display()),
    }

    println!("\nTwenty answers, each token the most likely one:\n");
    for (i, question) in evaluate::QUESTIONS.iter().enumerate() {
        let answer = evaluate::answer(&model, &tokenizer, question, 200)?.replace('\n', "\n    ");
        println!("{:2}. {question}\n    {answer}\n", i + 1);
    }
    Ok(())
}

struct Measured {
    figures: Figures,
    unigram: f64,
    bigram: f64,
}

fn print(all: &Measured, by_domain: &[Measured], parameters: usize, active: usize) {
    println!("Parameters: {parameters}.\n");
    println!("| held-out text | tokens | bits per token | bigram | unigram | silent neurons |");
    println!("|---|---:|---:|---:|---:|---:|");
    for Measured { figures: f, unigram, bigram } in std::iter::once(all).chain(by_domain) {
        println!(
            "| {} | {} | {:.3} | {bigram:.2} | {unigram:.2} | {:.1} % |",
            f.name,
            f.tokens,
            f.bits,
            100.0 * f.silent
        );
    }
    let by_layer: Vec<String> = all.figures.silent_by_layer.iter().map(|s| format!("{:.0} %", 100.0 * s)).collect();
    println!("\nSilent by layer, all text: {}.\n", by_layer.join(", "));
    let even = active as f64 / all.figures.choices[0].len() as f64;
    println!("An even share of tokens for each expert would be {:.1} %.\n", 100.0 * even);
    println!("| domain | experts over 1.5 times that | over twice | the five hottest: layer.expert, share of tokens |");
    println!("|---|---:|---:|---|");
    for f in by_domain.iter().map(|m| &m.figures) {
        let hottest = f.hottest();
        let over = |times: f64| hottest.iter().filter(|(_, _, share)| *share > times * even).count();
        let five: Vec<String> = hottest.iter().take(5).map(|(l, e, s)| format!("{l}.{e} {:.0} %", 100.0 * s)).collect();
        println!("| {} | {} | {} | {} |", f.name, over(1.5), over(2.0), five.join(", "));
    }
    println!();
}
