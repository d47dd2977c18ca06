//! Runs the program in a home of its own, away from the user's settings and caches.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// What a run left behind.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

pub struct Home {
    folder: TempDir,
}

impl Home {
    pub fn new() -> Home {
        Home { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program, not started, with an environment that holds nothing of the user's.
    pub fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thermocline"));
        command.args(line).current_dir(self.folder.path()).env_clear().env("HOME", self.folder.path());
        // The address of a hub that refuses at once, should anything try.
        command.env("HF_ENDPOINT", "http://127.0.0.1:9").env("XDG_CACHE_HOME", shared_cache());
        command.env("HF_HOME", self.folder.path().join("hub"));
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, line: &[&str]) -> Outcome {
        outcome(self.command(line))
    }

    /// With text on standard input.
    pub fn piped(&self, line: &[&str], input: &str) -> Outcome {
        let mut child = self.command(line).stdin(Stdio::piped()).spawn().expect("the program starts");
        child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("the program reads");
        finished(child.wait_with_output().expect("the program ends"))
    }

    /// With nobody left to read standard output.
    pub fn unread(&self, line: &[&str]) -> Outcome {
        let mut child = self.command(line).spawn().expect("the program starts");
        drop(child.stdout.take());
        finished(child.wait_with_output().expect("the program ends"))
    }

    /// With more in the environment.
    pub fn with<'h>(&'h self, variables: &'h [(&'h str, &'h str)]) -> With<'h> {
        With { home: self, variables }
    }

    /// What a successful run printed, as JSON.
    pub fn json(&self, line: &[&str]) -> serde_json::Value {
        let outcome = self.run(line);
        assert_eq!(outcome.code, 0, "{line:?}: {outcome:?}");
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{line:?}: {e}: {outcome:?}"))
    }
}

pub struct With<'h> {
    home: &'h Home,
    variables: &'h [(&'h str, &'h str)],
}

impl With<'_> {
    pub fn run(&self, line: &[&str]) -> Outcome {
        let mut command = self.home.command(line);
        command.envs(self.variables.iter().copied());
        outcome(command)
    }
}

/// Where the bundled model is unpacked: once for all tests.
fn shared_cache() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

fn outcome(mut command: Command) -> Outcome {
    finished(command.output().expect("the program starts"))
}

pub fn finished(output: std::process::Output) -> Outcome {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program writes UTF-8");
    Outcome {
        code: output.status.code().unwrap_or_else(|| panic!("ended by a signal: {output:?}")),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}
