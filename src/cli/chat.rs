//! The chat in a terminal: lines in with editing and history, answers out as they are written.

use super::conversation::Conversation;
use super::interrupt::Interrupts;
use super::markdown::Paper;
use super::terminal::{bold, dim, grouped, say, say_error, say_note};
use super::{Done, Stop, map, markdown, memory, places, terminal};
use crate::engine::Finish;
use crate::engine::text::Message;
use crate::error::{Error, Result};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Cmd, Config, Editor, KeyCode, KeyEvent, Modifiers};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Lines kept in the history file.
const HISTORY_LINES: usize = 1000;
const PROMPT: &str = "> ";
/// Before a line that continues the one above.
const MORE: &str = ". ";

const HELP: &str = "\
/system [TEXT]  show or set what the model is told before the conversation
/regen          answer the last question again
/undo           take back the last question and its answer
/reset          forget the conversation
/save FILE      write the conversation as JSON
/load FILE      go on with a saved conversation
/stats          speeds of the last answer, context and memory
/map            which experts are hot, and which of them are in memory
/quit           end (so does Ctrl-D)
Ctrl-C stops an answer; twice, it ends the program. Several lines: paste them, press Alt-Enter,
or end a line with a backslash. A message that begins with / needs a space before it.";

/// `raw`: answers are not laid out.
pub fn chat(mut conversation: Conversation, name: &str, raw: bool, interrupts: &Interrupts) -> Done {
    let (_, capacity) = conversation.room();
    let (threads, _) = conversation.engine.threads();
    let config = conversation.engine.config();
    say(&format!("{} {}", bold(name), dim(&format!("({}, {} layers)", config.family, config.layers.len()))));
    let machine =
        format!("context {}, {threads} threads, {} kernels", grouped(capacity as u64), conversation.engine.isa());
    say(&dim(&format!("{machine}; /help lists commands, Ctrl-C stops an answer, Ctrl-D quits")));
    let mut lines = Lines::new()?;
    loop {
        let line = match lines.next()? {
            Input::Line(line) => line,
            Input::End => break,
            Input::Interrupted => return Err(Error::Interrupted.into()),
        };
        match Command::of(&line) {
            _ if line.trim().is_empty() => {}
            Command::Say => {
                conversation.messages.push(Message::user(line));
                answer(&mut conversation, Paper::new(raw), interrupts)?;
            }
            Command::Quit => break,
            Command::Regenerate if conversation.take_back_answer() => {
                answer(&mut conversation, Paper::new(raw), interrupts)?
            }
            command => {
                if let Err(e) = obey(command, &mut conversation) {
                    say_error(&e);
                }
            }
        }
    }
    memory::say_peak(&conversation.engine, false);
    Ok(())
}

/// Answers the last message on standard output. Failures of the engine are told and leave the chat as it was before the
/// message; only a terminal that has gone ends it.
fn answer(conversation: &mut Conversation, mut paper: Paper, interrupts: &Interrupts) -> Done {
    let before = conversation.messages.len();
    let outcome = conversation.answer(interrupts, &mut |piece| paper.write(piece));
    match outcome {
        Ok(finish) => {
            paper.end()?;
            conversation.say_how_it_ended();
            let empty = conversation.messages.last().is_some_and(|m| m.content.is_empty());
            if finish == Finish::Interrupted && empty {
                // Stopped while the question was read: neither of the two happened.
                conversation.messages.truncate(before - 1);
            }
            Ok(())
        }
        Err(Stop::Failed(e)) => {
            paper.end()?;
            conversation.messages.truncate(before - 1);
            say_error(&e);
            let (_, capacity) = conversation.room();
            say_note(&format!(
                "the last message was taken back; /reset frees the context of {}",
                grouped(capacity as u64)
            ));
            Ok(())
        }
        Err(gone @ Stop::PipeClosed) => Err(gone),
    }
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    /// Not a command: a message.
    Say,
    Help,
    System(Option<String>),
    Regenerate,
    Undo,
    Reset,
    Save(PathBuf),
    Load(PathBuf),
    Stats,
    Map,
    Quit,
    /// Why it is none.
    Wrong(String),
}

impl Command {
    fn of(line: &str) -> Command {
        if !line.starts_with('/') {
            return Command::Say;
        }
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let file = |make: fn(PathBuf) -> Command| match rest {
            "" => Command::Wrong(format!("{name} needs a file name")),
            path => make(at_home(path)),
        };
        match (name, rest) {
            ("/help" | "/?", _) => Command::Help,
            ("/system", "") => Command::System(None),
            ("/system", text) => Command::System(Some(text.to_string())),
            ("/regen", _) => Command::Regenerate,
            ("/undo", _) => Command::Undo,
            ("/reset" | "/clear", _) => Command::Reset,
            ("/save", _) => file(Command::Save),
            ("/load", _) => file(Command::Load),
            ("/stats", _) => Command::Stats,
            ("/map", _) => Command::Map,
            ("/quit" | "/exit" | "/bye", _) => Command::Quit,
            _ => Command::Wrong(format!(
                "there is no command {name}; /help lists them, and a space before / sends it as text"
            )),
        }
    }
}

fn obey(command: Command, conversation: &mut Conversation) -> Result<()> {
    match command {
        Command::Say | Command::Quit => {}
        Command::Help => say(HELP),
        Command::Wrong(why) => return Err(Error::Usage(why)),
        Command::System(None) => say(conversation.settings.system.as_deref().unwrap_or("(no system prompt)")),
        Command::System(text) => {
            conversation.settings.system = text;
            say(&dim("the model is told this from the next answer on"));
        }
        // The arm that answers stands in the loop; here there is no answer to take back.
        Command::Regenerate => return Err(Error::Usage("there is no answer yet to make again".into())),
        Command::Undo => {
            if !conversation.take_back_answer() {
                return Err(Error::Usage("there is nothing to take back".into()));
            }
            conversation.messages.pop();
            say(&dim(&format!("{} messages left", conversation.messages.len())));
        }
        Command::Reset => {
            conversation.reset();
            say(&dim("a new conversation"));
        }
        Command::Save(file) => {
            save(conversation, &file)?;
            say(&dim(&format!("{} messages in {}", conversation.messages.len(), file.display())));
        }
        Command::Load(file) => {
            let (system, messages) = load(&file)?;
            conversation.reset();
            conversation.settings.system = system;
            conversation.messages = messages;
            say(&dim(&format!("{} messages from {}", conversation.messages.len(), file.display())));
        }
        Command::Stats => stats(conversation),
        Command::Map => say(map::drawn(&conversation.engine, terminal::size(), markdown::colours()).trim_end()),
    }
    Ok(())
}

fn stats(conversation: &Conversation) {
    say(conversation.last_speeds().as_deref().unwrap_or("no answer yet"));
    let (used, capacity) = conversation.room();
    say(&format!("context: {} of {} positions", grouped(used as u64), grouped(capacity as u64)));
    if let Some(all) = conversation.engine.store_stats() {
        say(&format!("since the start: {:.1} % of experts at hand, {}", 100.0 * all.hit_rate(), memory::disk(&all)));
        let moved = match conversation.engine.moves().resized {
            0 => String::new(),
            n => format!(", changed {n} times as memory came and went"),
        };
        say(&format!("room for {} experts in memory now, {} there{moved}", all.slots, all.resident));
    }
    if conversation.engine.accelerator().is_some() {
        say(&format!("{} experts changed sides with the accelerator", conversation.engine.moves().across));
    }
    memory::say_peak(&conversation.engine, true);
}

fn save(conversation: &Conversation, file: &Path) -> Result<()> {
    let system = conversation.settings.system.iter().map(|text| json!({"role": "system", "content": text}));
    let others = conversation.messages.iter().map(|m| json!({"role": m.role, "content": m.content}));
    let text = format!("{:#}\n", json!({"messages": system.chain(others).collect::<Vec<_>>()}));
    std::fs::write(file, text).map_err(|e| Error::Runtime(format!("{} cannot be written: {e}", file.display())))
}

/// The system prompt, where there is one, and the other messages.
fn load(file: &Path) -> Result<(Option<String>, Vec<Message>)> {
    let text = super::run::read_text(file)?;
    let wrong = |what: &str| Error::Usage(format!("{} is no saved conversation: {what}", file.display()));
    let value: Value = serde_json::from_str(&text).map_err(|e| wrong(&e.to_string()))?;
    let list = value["messages"].as_array().ok_or_else(|| wrong("a list \"messages\" is expected"))?;
    let (mut system, mut messages) = (None, Vec::new());
    for (number, entry) in list.iter().enumerate() {
        let (Some(role), Some(content)) = (entry["role"].as_str(), entry["content"].as_str()) else {
            return Err(wrong(&format!("message {number} lacks a text \"role\" or \"content\"")));
        };
        match role {
            "system" if number == 0 => system = Some(content.to_string()),
            "user" | "assistant" => messages.push(Message::new(role, content)),
            other => return Err(wrong(&format!("message {number} has the role {other:?}"))),
        }
    }
    Ok((system, messages))
}

/// `~/x` as shells read it; nobody else does it for us here.
fn at_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

enum Input {
    Line(String),
    End,
    /// Ctrl-C twice.
    Interrupted,
}

/// Lines from the terminal.
struct Lines {
    editor: Editor<(), FileHistory>,
    /// `None`: history is not kept.
    history: Option<PathBuf>,
}

impl Lines {
    fn new() -> Result<Lines> {
        let failed = |e: ReadlineError| Error::Runtime(format!("the terminal cannot be used: {e}"));
        let config = Config::builder()
            .max_history_size(HISTORY_LINES)
            .map_err(failed)?
            .history_ignore_dups(true)
            .map_err(failed)?
            .history_ignore_space(true)
            .bracketed_paste(true)
            .build();
        let mut editor = Editor::with_config(config).map_err(failed)?;
        editor.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), Cmd::Newline);
        // A history that cannot be kept is no reason not to talk.
        let history = places::state_folder().filter(|folder| std::fs::create_dir_all(folder).is_ok());
        let history = history.map(|folder| folder.join("history"));
        if let Some(file) = &history {
            let _ = editor.load_history(file);
        }
        Ok(Lines { editor, history })
    }

    fn next(&mut self) -> Result<Input> {
        let mut text = String::new();
        let mut warned = false;
        loop {
            match self.editor.readline(if text.is_empty() { PROMPT } else { MORE }) {
                Ok(line) => {
                    warned = false;
                    match line.strip_suffix('\\') {
                        Some(line) => {
                            text.push_str(line);
                            text.push('\n');
                        }
                        None => {
                            text.push_str(&line);
                            self.remember(&text);
                            return Ok(Input::Line(text));
                        }
                    }
                }
                Err(ReadlineError::Interrupted) if warned => return Ok(Input::Interrupted),
                Err(ReadlineError::Interrupted) => {
                    text.clear();
                    warned = true;
                    say(&dim("Ctrl-C again or Ctrl-D ends the chat"));
                }
                Err(ReadlineError::Eof) => return Ok(Input::End),
                Err(e) => return Err(Error::Runtime(format!("the terminal cannot be read: {e}"))),
            }
        }
    }

    fn remember(&mut self, text: &str) {
        if !text.trim().is_empty() && self.editor.add_history_entry(text).unwrap_or(false) {
            // Appended at once: several chats may run, and one may be killed.
            if let Some(file) = &self.history {
                let _ = self.editor.append_history(file);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_messages() {
        assert_eq!(Command::of("hello /quit"), Command::Say);
        assert_eq!(Command::of(" /quit"), Command::Say);
        assert_eq!(Command::of("/quit"), Command::Quit);
        assert_eq!(Command::of("/system  Be brief.\nAlways."), Command::System(Some("Be brief.\nAlways.".into())));
        assert_eq!(Command::of("/system"), Command::System(None));
        assert_eq!(Command::of("/save a b.json"), Command::Save("a b.json".into()));
        assert!(matches!(Command::of("/load "), Command::Wrong(why) if why.contains("file name")));
        assert!(matches!(Command::of("/frobnicate"), Command::Wrong(why) if why.contains("/frobnicate")));
    }

    #[test]
    fn what_is_loaded_is_checked() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("saved.json");
        let loaded = |text: &str| {
            std::fs::write(&file, text).expect("writes");
            load(&file)
        };
        let good = r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"u"},{"role":"assistant","content":"a"}]}"#;
        let (system, messages) = loaded(good).expect("loads");
        assert_eq!(system.as_deref(), Some("s"));
        assert_eq!(
            messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect::<Vec<_>>(),
            [("user", "u"), ("assistant", "a")]
        );
        for wrong in
            ["", "[]", "{}", r#"{"messages":[{"role":"user"}]}"#, r#"{"messages":[{"role":"tool","content":"x"}]}"#]
        {
            assert!(loaded(wrong).unwrap_err().to_string().contains("no saved conversation"), "{wrong}");
        }
    }
}
