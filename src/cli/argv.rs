//! Makes llama.cpp's spellings fit for clap, before clap looks: `-hf`, `-ctk` and the like have two or more letters
//! behind one dash, which clap would take for `-h -f`. Also the place where a flag we lack is answered with a hint.

use super::hints;
use crate::error::{Error, Result};
use clap::{Arg, Command};
use std::ffi::OsString;

/// Spellings of several letters behind one dash, and the flag each means.
const SPELLINGS: [(&str, &str); 14] = [
    ("-hf", "--hf-repo"),
    ("-hfr", "--hf-repo"),
    ("-tb", "--threads-batch"),
    ("-ub", "--ubatch-size"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-sys", "--system-prompt"),
    ("-no-cnv", "--raw"),
    ("-n-predict", "--n-predict"),
    ("-temp", "--temp"),
    ("-seed", "--seed"),
    ("-np", "--parallel"),
    ("-md", "--model-draft"),
    ("-jf", "--json-schema-file"),
];

/// The same, where the command has that flag; elsewhere a hint answers.
const PLACING: [(&str, &str); 5] = [
    ("-ngl", "--gpu-layers"),
    ("-cmoe", "--cpu-moe"),
    ("-ncmoe", "--n-cpu-moe"),
    ("-dev", "--device"),
    ("-ot", "--override-tensor"),
];

/// Rewrites `argv` (program name first). `Err` is a usage sentence.
pub fn normalise(argv: impl IntoIterator<Item = OsString>, root: &Command) -> Result<Vec<OsString>> {
    let mut argv = argv.into_iter();
    let mut out: Vec<OsString> = argv.next().into_iter().collect();
    let mut argv = argv.peekable();
    // The flags of the command that was asked for; without one those of `run`, which stand at the root.
    let mut command = root;
    if let Some(named) = argv.peek().and_then(|first| first.to_str()).and_then(|name| root.find_subcommand(name)) {
        command = named;
        out.extend(argv.next());
    }
    while let Some(token) = argv.next() {
        let Some(text) = token.to_str().filter(|t| t.len() > 1 && t.starts_with('-')) else {
            if let Some(named) = token.to_str().filter(|_| out.len() > 1 && std::ptr::eq(command, root)) {
                command_comes_first(named, root)?;
            }
            out.push(token);
            continue;
        };
        if text == "--" {
            out.push(token);
            out.extend(argv);
            break;
        }
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let name = SPELLINGS.iter().find(|(short, _)| *short == name).map_or(name, |(_, long)| long);
        let placed = PLACING.iter().find(|(short, long)| *short == name && find(command, long).is_some());
        let name = placed.map_or(name, |(_, long)| long);
        let known = find(command, name);
        if known.is_none()
            && let Some(hint) = hints::for_flag(name, command.get_name())
        {
            return Err(Error::Usage(hint));
        }
        out.push(match value {
            Some(value) => format!("{name}={value}").into(),
            None => name.into(),
        });
        // What follows a flag that takes a value is that value, whatever it looks like.
        if value.is_none() && known.is_some_and(|arg| arg.get_action().takes_values()) {
            out.extend(argv.next());
        }
    }
    Ok(out)
}

/// The argument a whole token stands for: `-p` or `--prompt`. A short flag with its value glued on (`-n128`) is not
/// whole, and clap reads it.
fn find<'c>(command: &'c Command, name: &str) -> Option<&'c Arg> {
    command.get_arguments().find(|arg| match name.strip_prefix("--") {
        Some(long) => arg.get_long() == Some(long) || arg.get_all_aliases().is_some_and(|all| all.contains(&long)),
        None => arg.get_short().is_some_and(|short| name.strip_prefix('-') == Some(short.encode_utf8(&mut [0; 4]))),
    })
}

fn command_comes_first(token: &str, root: &Command) -> Result<()> {
    match root.find_subcommand(token) {
        Some(named) => {
            Err(Error::Usage(format!("the command comes first: {} {} [flags]", root.get_name(), named.get_name())))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::args;
    use super::*;

    fn run(line: &[&str]) -> Result<Vec<String>> {
        let mut root = args::command();
        root.build();
        let argv = std::iter::once("thermocline").chain(line.iter().copied()).map(OsString::from);
        let out = normalise(argv, &root)?;
        Ok(out.into_iter().skip(1).map(|t| t.into_string().expect("the tests are UTF-8")).collect())
    }

    fn ok(line: &[&str]) -> Vec<String> {
        run(line).unwrap_or_else(|e| panic!("{line:?}: {e}"))
    }

    fn hint(line: &[&str]) -> String {
        match run(line) {
            Err(Error::Usage(hint)) => hint,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn letters_behind_one_dash_become_the_long_flag() {
        assert_eq!(ok(&["-hf", "a/b:Q4_0"]), ["--hf-repo", "a/b:Q4_0"]);
        assert_eq!(ok(&["-ctk", "q8_0", "-ctv=f32"]), ["--cache-type-k", "q8_0", "--cache-type-v=f32"]);
        assert_eq!(ok(&["-tb", "2", "-ub", "64"]), ["--threads-batch", "2", "--ubatch-size", "64"]);
        assert_eq!(ok(&["-sys", "Be brief.", "-no-cnv"]), ["--system-prompt", "Be brief.", "--raw"]);
        assert_eq!(ok(&["bench", "-hf", "a/b", "-ctk", "f32"]), ["bench", "--hf-repo", "a/b", "--cache-type-k", "f32"]);
        for (short, long) in SPELLINGS {
            let mut root = args::command();
            root.build();
            let anywhere =
                std::iter::once(&root).chain(root.get_subcommands()).any(|command| find(command, long).is_some());
            assert!(anywhere, "{short} stands for {long}, which does not exist");
        }
    }

    #[test]
    fn values_are_left_alone() {
        assert_eq!(ok(&["-p", "-hf"]), ["-p", "-hf"]);
        assert_eq!(ok(&["-p", "-ngl"]), ["-p", "-ngl"]);
        assert_eq!(ok(&["-p", "bench"]), ["-p", "bench"]);
        assert_eq!(ok(&["--stop", "--mlock", "-n128"]), ["--stop", "--mlock", "-n128"]);
        assert_eq!(ok(&["--raw", "--", "-ngl"]), ["--raw", "--", "-ngl"]);
        assert_eq!(ok(&["--prompt=-ngl 3"]), ["--prompt=-ngl 3"]);
    }

    #[test]
    fn foreign_flags_get_a_hint() {
        assert!(hint(&["-mg", "1"]).contains("-mg"));
        assert!(hint(&["-m", "x", "--no-mmap"]).contains("--no-mmap"));
        assert!(hint(&["--split-mode=row"]).contains("--split-mode"));
        // `-r` is ours in bench and not in run.
        assert!(hint(&["-r", "User:"]).contains("--stop"));
        assert_eq!(ok(&["bench", "-r", "3"]), ["bench", "-r", "3"]);
    }

    #[test]
    fn a_command_after_flags_is_told_where_it_belongs() {
        assert!(hint(&["-m", "x", "bench"]).contains("thermocline bench"));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_not_unicode_passes() {
        use std::os::unix::ffi::OsStringExt;
        let odd = OsString::from_vec(vec![b'-', 0xff]);
        let mut root = args::command();
        root.build();
        assert_eq!(normalise(["x".into(), "-f".into(), odd.clone()], &root).expect("passes")[2], odd);
    }
}
