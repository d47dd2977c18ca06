//! `run`, and what bare flags mean: one answer for a prompt, a file or piped text; a chat where there is a terminal.

use super::args::{RunArgs, SamplingArgs, TemplateArgs};
use super::conversation::{Conversation, Settings};
use super::expected::Foresight;
use super::interrupt::Interrupts;
use super::markdown::Paper;
use super::open::{self, Opened};
use super::values::{Predict, unescape};
use super::{Done, Stop, chat, device, memory, terminal};
use crate::engine::Finish;
use crate::engine::sampler::Sampling;
use crate::engine::text::{Message, TemplateOverride};
use crate::error::{Error, Result};
use std::io::{ErrorKind, IsTerminal, Read};
use std::path::Path;

/// A prompt is held in memory several times over (text, rendered text, tokens); no context is near as long.
const MOST_TEXT_BYTES: u64 = 256 << 20;

pub fn run(args: RunArgs) -> Done {
    // Everything that can be wrong with the request is found before a model is looked for.
    let prompt = prompt(&args)?;
    let form = args.form.read()?;
    let interrupts = Interrupts::watch()?;
    let mut options = open::options(&args.load, &args.machine.cores);
    options.wanted = Some(device::wanted(&args.place)?);
    options.context = args.machine.ctx_size;
    options.rewind = args.machine.rewind.unwrap_or(options.rewind);
    options.template = template(&args.text.template);
    open::draft(&args.draft, &args.model, &args.load, &mut options, &interrupts)?;
    let Opened { engine, name, recording } = open::open(&args.model, &args.load, &options, &interrupts)?;
    let system = args.text.system_prompt.as_deref();
    // What is held to a form is no Markdown.
    let raw_text = args.no_markdown || args.text.raw || form.is_some();
    let settings = Settings {
        raw: args.text.raw,
        system: system.map(|text| if args.escape { unescape(text) } else { text.to_string() }),
        sampling: sampling(&args.sampling, args.load.verbose),
        max_tokens: match args.predict {
            Some(Predict::Most(n)) => Some(n),
            Some(Predict::UntilFull) | None => None,
        },
        stop: args.stop,
        grammar: form.map(|asked| asked.compile(&engine)).transpose()?,
        perf: !args.no_perf,
        rewind: options.rewind,
    };
    let foresight = if settings.perf { Foresight::new(&engine, &options, recording.place(), true)? } else { None };
    let conversation = Conversation::new(engine.clone(), settings, foresight);
    let done = match prompt {
        Some(prompt) => once(conversation, prompt, Paper::new(raw_text), args.load.verbose, &interrupts),
        None => chat::chat(conversation, &name, raw_text, &interrupts),
    };
    let finished = open::finish(&engine);
    done.and(finished.map_err(Stop::Failed))
}

/// One answer on standard output, ended by a newline.
fn once(
    mut conversation: Conversation,
    prompt: String,
    mut paper: Paper,
    verbose: bool,
    interrupts: &Interrupts,
) -> Done {
    conversation.messages.push(Message::user(prompt));
    let outcome = conversation.answer(interrupts, &mut |piece| paper.write(piece));
    if !matches!(outcome, Err(Stop::PipeClosed)) {
        paper.end()?;
    }
    let finish = outcome?;
    // First, since what is expected may have to be measured, in memory that is no part of the run's.
    memory::say_peak(&conversation.engine, verbose);
    conversation.say_how_it_ended();
    match finish {
        Finish::Interrupted => Err(Error::Interrupted.into()),
        _ => Ok(()),
    }
}

/// What to answer; `None` to chat.
fn prompt(args: &RunArgs) -> Result<Option<String>> {
    let unescaped = |text: &String| if args.escape { unescape(text) } else { text.clone() };
    let text = match (args.prompt.as_ref().map(unescaped), &args.file) {
        (Some(prompt), None) => prompt,
        (None, Some(file)) => read_text(file)?,
        (Some(prompt), Some(file)) => format!("{prompt}\n\n{}", read_text(file)?),
        (None, None) => {
            let (input, output) = (std::io::stdin().is_terminal(), std::io::stdout().is_terminal());
            if input && output {
                return Ok(None);
            }
            if input {
                return Err(usage("standard output is not a terminal, so there is no chat"));
            }
            let piped = read_text(Path::new("-"))?;
            if piped.trim().is_empty() {
                return Err(usage("there is no terminal to chat in and nothing on standard input"));
            }
            piped
        }
    };
    match text.trim().is_empty() {
        true => Err(usage("the prompt is empty")),
        false => Ok(Some(text)),
    }
}

fn usage(problem: &str) -> Error {
    Error::Usage(format!(
        "{problem}: give --prompt TEXT, --file FILE or piped text, or start it in a terminal (see --help)"
    ))
}

/// A whole text file, or standard input for `-`; one newline at its end is dropped.
pub fn read_text(path: &Path) -> Result<String> {
    let stdin = path.as_os_str() == "-";
    let name = if stdin { "standard input".to_string() } else { path.display().to_string() };
    let failed = |e: std::io::Error| match e.kind() {
        ErrorKind::NotFound | ErrorKind::IsADirectory => Error::Usage(format!("{name} cannot be read: {e}")),
        _ => Error::Runtime(format!("{name} cannot be read: {e}")),
    };
    let mut bytes = Vec::new();
    let mut source: Box<dyn Read> =
        if stdin { Box::new(std::io::stdin().lock()) } else { Box::new(std::fs::File::open(path).map_err(failed)?) };
    source.by_ref().take(MOST_TEXT_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MOST_TEXT_BYTES {
        return Err(Error::Usage(format!("{name} is longer than {} MiB", MOST_TEXT_BYTES >> 20)));
    }
    let mut text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::Usage(format!("{name} is not UTF-8 text: byte {at} begins no character"))
    })?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

pub fn template(args: &TemplateArgs) -> TemplateOverride {
    match (&args.chat_template, &args.chat_template_file) {
        (Some(text), _) => TemplateOverride::Given(text.clone()),
        (None, Some(file)) => TemplateOverride::File(file.clone()),
        (None, None) => TemplateOverride::Checkpoint,
    }
}

/// The seed that was given; `-1`, which arrives as `u64::MAX`, asks for a new one, like none.
pub fn seed(args: &SamplingArgs) -> Option<u64> {
    args.seed.filter(|seed| *seed != u64::MAX)
}

pub fn sampling(args: &SamplingArgs, verbose: bool) -> Sampling {
    let base = Sampling::default();
    let seed = seed(args).unwrap_or_else(|| {
        use std::hash::{BuildHasher, RandomState};
        let seed = RandomState::new().hash_one(std::process::id()) >> 32;
        if verbose {
            terminal::say(&format!("seed {seed}"));
        }
        seed
    });
    Sampling {
        temperature: args.temp.unwrap_or(base.temperature),
        top_k: args.top_k.unwrap_or(base.top_k),
        top_p: args.top_p.unwrap_or(base.top_p),
        min_p: args.min_p.unwrap_or(base.min_p),
        repeat_penalty: args.repeat_penalty.unwrap_or(base.repeat_penalty),
        presence_penalty: args.presence_penalty.unwrap_or(base.presence_penalty),
        frequency_penalty: args.frequency_penalty.unwrap_or(base.frequency_penalty),
        repeat_last_n: args.repeat_last_n.unwrap_or(base.repeat_last_n),
        seed,
        logit_bias: args.logit_bias.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lose_one_newline() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("text");
        for (content, want) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("", "")] {
            std::fs::write(&file, content).expect("writes");
            assert_eq!(read_text(&file).expect("reads"), want);
        }
        std::fs::write(&file, b"ab\xff").expect("writes");
        assert!(read_text(&file).unwrap_err().to_string().contains("byte 2"));
        assert_eq!(read_text(folder.path()).unwrap_err().exit_code(), 2);
        assert_eq!(read_text(&folder.path().join("none")).unwrap_err().exit_code(), 2);
    }
}
