//! `doctor`: what this machine can do, what is missing, and what would help. It changes nothing, and asks the network only
//! where it is told to.

mod system;

use super::terminal::{self, Passing, bytes};
use super::{Done, forecast};
use crate::checkpoint::hub::HubOptions;
use crate::checkpoint::pack::cache;
use crate::error::Result;
use crate::planner::disk;
use crate::planner::hardware::{self, Pages};
use crate::pool::Pool;
use clap::Args;
use clap::builder::FalseyValueParser;
use kernels::Isa;
use serde_json::{Map, Value, json};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of a read, where no model says how large its experts are: those of the 4B shape.
const PIECE: usize = 2 << 20;
/// For the hub to answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args, Debug, Clone)]
pub struct DoctorArgs {
    /// Print an object instead of lines
    #[arg(long, env = "THERMOCLINE_DOCTOR_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
    /// Try to reach the hub too; otherwise nothing leaves this machine
    #[arg(long, env = "THERMOCLINE_ONLINE", value_parser = FalseyValueParser::new())]
    pub online: bool,
}

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Good,
    /// It works, and could be better.
    Could,
    /// Something does not work without it.
    Missing,
    Unknown,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Good => "good",
            State::Could => "could be better",
            State::Missing => "missing",
            State::Unknown => "unknown",
        }
    }
}

/// One thing looked at.
#[derive(Clone, Debug)]
struct Finding {
    name: &'static str,
    state: State,
    fact: String,
    /// What would help.
    advice: Option<String>,
    /// The figures of it, for programs.
    figures: Map<String, Value>,
}

impl Finding {
    fn new(name: &'static str, state: State, fact: impl Into<String>) -> Finding {
        Finding { name, state, fact: fact.into(), advice: None, figures: Map::new() }
    }

    fn advise(mut self, advice: impl Into<String>) -> Finding {
        self.advice = Some(advice.into());
        self
    }

    fn figure(mut self, name: &str, value: impl Into<Value>) -> Finding {
        self.figures.insert(name.into(), value.into());
        self
    }
}

pub fn run(args: &DoctorArgs) -> Done {
    let root = Path::new("/");
    let mut found = vec![processor(), system::memory(root), bandwidth()?, system::huge_pages(root), system::pinning()];
    let folder = cache::folder();
    found.extend(storage(folder.as_deref(), root));
    found.push(system::gpu(root, cfg!(feature = "cuda"), cfg!(feature = "metal")));
    found.push(hub(args.online));
    let text = if args.json { format!("{:#}\n", as_json(&found)) } else { as_text(&found) };
    terminal::answer(&text)
}

fn processor() -> Finding {
    let machine = forecast::machine(Isa::best(), false).name;
    let (has, lacks): (Vec<&str>, Vec<&str>) = (Isa::available().map(Isa::name).collect(), Isa::missing().collect());
    let fact = format!("{machine}; kernels for {}", has.join(", "));
    let finding = match lacks.is_empty() {
        true => Finding::new("processor", State::Good, fact),
        false => Finding::new("processor", State::Good, format!("{fact} (not here: {})", lacks.join(", "))),
    };
    finding.figure("cores", Pool::cores()).figure("instruction_sets", has).figure("not_here", lacks)
}

fn bandwidth() -> Result<Finding> {
    let mut passing = Passing::show("measuring the memory");
    let measured = hardware::read_bandwidth(Pool::cores(), None)?;
    passing.clear();
    let (threads, best) = measured.best();
    let many = if threads == 1 { "" } else { "s" };
    let fact = format!("{:.1} GB/s read by {threads} thread{many}, in {}", best / 1e9, measured.pages);
    let state = if measured.pages == Pages::Small { State::Could } else { State::Good };
    let finding = Finding::new("memory bandwidth", state, fact);
    Ok(finding.figure("bytes_per_second", best).figure("threads", threads).figure("pages", measured.pages.to_string()))
}

/// Where packed models are kept, and the disk under it.
fn storage(folder: Option<&Path>, root: &Path) -> Vec<Finding> {
    let Some(folder) = folder else {
        let missing =
            Finding::new("cache folder", State::Missing, "this user has no home, so nothing is kept between runs");
        return vec![missing.advise("set THERMOCLINE_CACHE to a folder")];
    };
    let existing = folder.ancestors().find(|at| at.exists()).unwrap_or(root).to_path_buf();
    let mut found = vec![system::folder(folder, &existing)];
    let largest = cache::list(folder).ok().and_then(|kept| {
        let models = kept.into_iter().filter(|kept| kept.path.extension().is_some_and(|end| end == "gguf"));
        models.filter(|kept| kept.bytes > 8 * PIECE as u64).max_by_key(|kept| kept.bytes)
    });
    found.push(disk_speed(largest.map(|kept| kept.path)));
    found.extend(system::block_device(&existing, root));
    found
}

fn disk_speed(file: Option<PathBuf>) -> Finding {
    let Some(file) = file else {
        let fact = "not measured: no packed model of more than 16 MiB is there to be read";
        return Finding::new("disk", State::Unknown, fact)
            .advise("run a model once, or pack it: thermocline pack MODEL");
    };
    let mut passing = Passing::show("measuring the disk");
    let measured = disk::read_speed(&file, PIECE, disk::WHOLE);
    passing.clear();
    let speed = match measured {
        Err(e) => return Finding::new("disk", State::Unknown, e.to_string()),
        Ok(speed) => speed,
    };
    let (depth, best) = speed.best();
    let cached = if speed.direct { "" } else { "; through the page cache, so this may be the speed of memory" };
    let state = if best < 0.5e9 { State::Could } else { State::Good };
    let fact = format!("{:.2} GB/s in reads of {} with {depth} in flight{cached}", best / 1e9, bytes(PIECE as u64));
    let finding = Finding::new("disk", state, fact).figure("bytes_per_second", best).figure("direct", speed.direct);
    match state {
        State::Could => {
            finding.advise("a model larger than memory waits for this disk: an SSD would help, or a smaller model")
        }
        _ => finding,
    }
}

/// Whether the hub can be reached, where that was asked for.
fn hub(online: bool) -> Finding {
    let options = HubOptions::from_env();
    let endpoint = &options.endpoint;
    if !online {
        let fact = format!("{endpoint}: not asked (--online does)");
        return Finding::new("hub", State::Unknown, fact);
    }
    match reach(endpoint) {
        Ok(()) => Finding::new("hub", State::Good, format!("{endpoint} answers")),
        Err(why) => Finding::new("hub", State::Missing, format!("{endpoint} cannot be reached: {why}"))
            .advise("models that are here already run with --offline; HF_ENDPOINT names a mirror"),
    }
}

/// Opens a connection, and says nothing.
fn reach(endpoint: &str) -> std::result::Result<(), String> {
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("https", endpoint));
    let host = rest.split('/').next().unwrap_or_default();
    let port = if scheme == "http" { 80 } else { 443 };
    let full = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        host.to_string()
    } else {
        format!("{host}:{port}")
    };
    let addresses: Vec<_> = full.to_socket_addrs().map_err(|e| e.to_string())?.collect();
    let mut why = "the name has no address".to_string();
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return Ok(()),
            Err(e) => why = e.to_string(),
        }
    }
    Err(why)
}

fn as_text(found: &[Finding]) -> String {
    let width = found.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for Finding { name, state, fact, advice, .. } in found {
        let mark = match state {
            State::Good => "ok",
            State::Could => "!",
            State::Missing => "--",
            State::Unknown => "?",
        };
        out.push_str(&format!("{mark:<3}{name:<width$}  {fact}\n"));
        if let Some(advice) = advice {
            out.push_str(&format!("{:1$}what would help: {advice}\n", "", width + 5));
        }
    }
    out
}

fn as_json(found: &[Finding]) -> Value {
    let list = found.iter().map(|Finding { name, state, fact, advice, figures }| {
        json!({ "name": name, "state": state.name(), "fact": fact, "advice": advice, "figures": figures })
    });
    json!({ "version": env!("CARGO_PKG_VERSION"), "findings": list.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_lines_and_objects() {
        let found = [
            Finding::new("disk", State::Could, "slow").advise("another").figure("bytes_per_second", 1.5),
            Finding::new("processor", State::Good, "fast"),
        ];
        assert_eq!(as_text(&found), "!  disk       slow\n              what would help: another\nok processor  fast\n");
        let value = as_json(&found);
        assert_eq!(value["findings"][0]["figures"]["bytes_per_second"], 1.5);
        assert_eq!(value["findings"][1]["state"], "good");
    }

    #[test]
    fn a_hub_that_is_not_there_is_said() {
        assert!(reach("http://127.0.0.1:1").is_err());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it has one");
        assert_eq!(reach(&format!("http://{address}/some/path")), Ok(()));
    }
}
