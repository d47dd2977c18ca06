//! `completions SHELL`: a script for the shell to load.

use super::args::{self, CompletionsArgs};
use super::{Done, terminal};

pub fn run(wanted: &CompletionsArgs) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(wanted.shell, &mut args::command(), "thermocline", &mut script);
    terminal::answer(&String::from_utf8_lossy(&script))
}
