//! Makes the bundled model: writes its text, trains its tokenizer, trains it, measures it, writes its folder.
//!
//! ```sh
//! cargo run --release --example train_tiny                # everything, about an hour on two cores
//! cargo run --release --example train_tiny -- --evaluate  # figures and twenty answers of the folder as it is
//! ```

mod corpus;
mod evaluate;
mod folder;
mod loss;
mod plot;
mod report;
mod rows;
mod shape;
mod tokenizer;
mod train;

use anyhow::Result;
use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Parser)]
struct Args {
    /// Folder of the finished model
    #[arg(long, default_value = "assets/tiny")]
    out: PathBuf,
    /// Folder for what resuming needs
    #[arg(long, default_value = "target/train_tiny")]
    work: PathBuf,
    /// Steps of training
    #[arg(long, default_value_t = 4000)]
    steps: usize,
    /// Finish within this many minutes of training, whatever the step
    #[arg(long)]
    minutes: Option<f64>,
    /// Threads that learn; the result is the same for any number
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Go on from the last saved step
    #[arg(long)]
    resume: bool,
    /// Train nothing: print figures and answers of the folder
    #[arg(long)]
    evaluate: bool,
    /// Train nothing: print this many documents of the corpus
    #[arg(long)]
    corpus: Option<usize>,
    /// Train nothing: print this many documents of the text the figures are measured on
    #[arg(long)]
    held_out: Option<usize>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(count) = args.corpus {
        let mut random = corpus::random::Random::new(corpus::SEED);
        for _ in 0..count {
            let document = corpus::document(&mut random);
            println!("--- {}\n{}", document.domain.name(), document.text);
        }
        return Ok(());
    }
    if let Some(count) = args.held_out {
        let mut random = corpus::random::Random::new(evaluate::HELD_OUT_SEED);
        (0..count).for_each(|_| print!("{}{}", corpus::document(&mut random).text, tokenizer::END_OF_TEXT));
        return Ok(());
    }
    if !args.evaluate {
        let tokenizer = match args.resume {
            true => folder::read_tokenizer(&args.out)?,
            false => tokenizer::train(shape::VOCAB, corpus::SEED)?,
        };
        let config = shape::config(tokenizer::ends(&tokenizer)?);
        let limit = args.minutes.map(|minutes| Duration::from_secs_f64(60.0 * minutes));
        let (out, work) = (args.out.clone(), args.work.clone());
        train::run(&train::Job {
            config: &config,
            tokenizer: &tokenizer,
            steps: args.steps,
            limit,
            out,
            work,
            resume: args.resume,
            threads: args.threads,
        })?;
    }
    report::run(&args.out, &args.work)
}
