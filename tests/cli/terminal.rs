//! The chat, through a real pseudo-terminal.

use super::program::Home;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Longer than any answer of the bundled model takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

struct Chat {
    child: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    /// Everything that was written so far, and how much of it has been looked at.
    seen: String,
    read: usize,
}

impl Chat {
    fn start(home: &Home, line: &[&str]) -> Chat {
        Chat::start_with(home, line, &[])
    }

    fn start_with(home: &Home, line: &[&str], environment: &[(&str, &str)]) -> Chat {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        let name = ptsname(&master, Vec::new()).expect("named").into_bytes();
        let slave = || -> Stdio {
            let name = std::ffi::OsString::from_vec(name.clone());
            OpenOptions::new().read(true).write(true).open(name).expect("opens").into()
        };
        let mut command = home.command(line);
        command.env("TERM", "xterm").env("XDG_STATE_HOME", home.path("state")).envs(environment.iter().copied());
        let child = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().expect("the program starts");
        // Our copies of the terminal's other end close here, so that its end is seen when the program ends.
        drop(command);
        let keys = File::from(master);
        let mut from = keys.try_clone().expect("a second handle");
        let (to, screen) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                if to.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Chat { child, keys, screen, seen: String::new(), read: 0 }
    }

    fn keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Waits for the prompt and types a line.
    fn line(&mut self, text: &str) {
        self.prompt();
        self.keys(text);
        self.keys("\r");
    }

    /// Waits for a text after the last one waited for; gives what came before it.
    fn wait_for(&mut self, text: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen[self.read..].find(text) {
                let before = self.seen[self.read..self.read + at].to_string();
                self.read += at + text.len();
                return before;
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("{text:?} never came; the screen shows:\n{}", self.seen),
            }
        }
    }

    fn prompt(&mut self) -> String {
        self.wait_for("> ")
    }

    fn interrupt(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::INT).expect("the program is there");
    }

    fn code(mut self) -> i32 {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status.code().expect("it ended by itself");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it did not end; the screen shows:\n{}", self.seen);
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const START: &[&str] = &["-n", "12", "--temp", "0", "-c", "512"];

#[test]
fn a_conversation_is_saved_loaded_and_taken_back() {
    let home = Home::new();
    let mut chat = Chat::start(&home, START);
    chat.wait_for("/help");
    chat.line("What is 2 + 3?");
    chat.wait_for("tok/s");
    chat.line("/stats");
    chat.wait_for("context: ");
    chat.wait_for("of 512 positions");
    chat.wait_for("ledger");
    chat.line("/save first.json");
    chat.wait_for("2 messages in first.json");
    // Three lines at once, as a terminal pastes them, go out as one message.
    chat.prompt();
    chat.keys("\x1b[200~And\nwhat is\n1 + 1?\x1b[201~\r");
    chat.wait_for("tok/s");
    chat.line("/regen");
    chat.wait_for("tok/s");
    chat.line("/save second.json");
    chat.wait_for("4 messages in second.json");
    chat.line("/undo");
    chat.wait_for("2 messages left");
    chat.line("/system Be brief.");
    chat.wait_for("from the next answer on");
    chat.line("/save third.json");
    chat.wait_for("2 messages in third.json");
    chat.line("/load second.json");
    chat.wait_for("4 messages from second.json");
    chat.line("/load nothing.json");
    chat.wait_for("nothing.json cannot be read");
    chat.line("/frobnicate");
    chat.wait_for("/help lists them");
    chat.line("/reset");
    chat.wait_for("a new conversation");
    chat.line("/regen");
    chat.wait_for("no answer yet");
    chat.line("/quit");
    assert_eq!(chat.code(), 0);

    let saved = |name: &str| -> serde_json::Value {
        let text = std::fs::read_to_string(home.path(name)).expect("saved");
        serde_json::from_str(&text).expect("JSON")
    };
    let (first, second, third) = (saved("first.json"), saved("second.json"), saved("third.json"));
    assert_eq!(first["messages"][0]["content"], "What is 2 + 3?");
    assert_eq!(second["messages"][2]["content"], "And\nwhat is\n1 + 1?");
    assert_eq!(first["messages"][1], second["messages"][1]);
    assert_eq!(
        (&third["messages"][0]["role"], &third["messages"][0]["content"]),
        (&"system".into(), &"Be brief.".into())
    );
    assert_eq!(third["messages"].as_array().map(Vec::len), Some(3));
    let history = std::fs::read_to_string(home.path("state/thermocline/history")).expect("kept");
    assert!(history.contains("What is 2 + 3?") && history.contains("/stats"), "{history}");
}

#[test]
fn at_the_prompt_one_ctrl_c_warns_and_two_end() {
    let home = Home::new();
    let mut chat = Chat::start(&home, START);
    chat.prompt();
    chat.keys("half a line\x03");
    chat.wait_for("Ctrl-C again");
    // A line in between: the count begins anew.
    chat.line("/stats");
    chat.wait_for("no answer yet");
    chat.prompt();
    chat.keys("\x03");
    chat.wait_for("Ctrl-C again");
    chat.prompt();
    chat.keys("\x03");
    assert_eq!(chat.code(), 130);
}

#[test]
fn ctrl_d_ends_the_chat() {
    let home = Home::new();
    let mut chat = Chat::start(&home, START);
    chat.prompt();
    chat.keys("\x04");
    assert_eq!(chat.code(), 0);
}

#[test]
fn an_interrupt_stops_the_answer_and_not_the_chat() {
    let home = Home::new();
    let no_end = super::no_end(&home);
    // An answer that takes a minute: the slowest kernels, and far more room than the model was made for.
    let line = ["--temp", "0", "-c", "40000", "-t", "1", "--logit-bias", &no_end];
    let mut chat = Chat::start_with(&home, &line, &[("KERNELS_ISA", "scalar")]);
    chat.line("Tell me a story.");
    chat.wait_for("reading");
    // That line is taken away when the answer begins.
    chat.wait_for("\r\x1b[K");
    chat.interrupt();
    chat.wait_for("tok/s");
    chat.line("/quit");
    assert_eq!(chat.code(), 0);
}

/// As it stands, too: what is held to a form is not laid out as Markdown.
#[test]
fn every_answer_of_a_chat_keeps_to_the_form() {
    let home = Home::new();
    let form = r#"{"enum": ["*yes*", "*no*"]}"#;
    let mut chat = Chat::start(&home, &["-n", "12", "--temp", "2", "-c", "512", "--json-schema", form]);
    for _ in 0..2 {
        chat.line("Is it?");
        chat.wait_for("*\"");
        chat.wait_for("tok/s");
    }
    chat.line("/quit");
    assert_eq!(chat.code(), 0);
}

#[test]
fn a_backslash_goes_on() {
    let home = Home::new();
    let mut chat = Chat::start(&home, START);
    chat.line("one\\");
    chat.wait_for("\n");
    chat.wait_for(". ");
    chat.keys("two\r");
    chat.wait_for("tok/s");
    chat.line("/save lines.json");
    chat.wait_for("2 messages");
    chat.line("/quit");
    assert_eq!(chat.code(), 0);
    assert!(std::fs::read_to_string(home.path("lines.json")).expect("saved").contains("one\\ntwo"));
}

#[test]
fn a_chat_survives_a_full_context() {
    let home = Home::new();
    let mut chat = Chat::start(&home, &["-n", "12", "--temp", "0", "-c", "40"]);
    chat.line("What is 2 + 3?");
    chat.wait_for("tok/s");
    chat.line("And what is 1 + 1, and after that 4 + 4, and 5 + 5?");
    chat.wait_for("do not fit in a context of 40");
    chat.wait_for("/reset");
    chat.line("/reset");
    chat.wait_for("a new conversation");
    chat.line("What is 2 + 3?");
    chat.wait_for("tok/s");
    chat.line("/quit");
    assert_eq!(chat.code(), 0);
}
