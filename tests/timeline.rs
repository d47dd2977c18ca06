//! `--timeline`: a file of trace events in which the time of every token is divided into named parts.

#[allow(dead_code, reason = "each test crate uses its own part")]
#[path = "cli/program.rs"]
mod program;
mod tiny;

use kernels::Format;
use program::Home;
use serde_json::Value;
use tiny::Tiny;

struct Span {
    name: String,
    from: f64,
    to: f64,
}

fn spans(text: &str) -> Vec<Span> {
    let events: Vec<Value> = serde_json::from_str(text).expect("a timeline is a list of events");
    let complete = events.iter().filter(|event| event["ph"] == "X");
    let number = |event: &Value, name: &str| event[name].as_f64().expect("microseconds");
    complete
        .map(|event| Span {
            name: event["name"].as_str().expect("a name").to_string(),
            from: number(event, "ts"),
            to: number(event, "ts") + number(event, "dur"),
        })
        .collect()
}

/// Of all time spent on tokens, at least 95 % is in named parts; no two parts overlap, and every part lies in a whole.
#[test]
fn named_parts_make_up_the_time_of_tokens() {
    let home = Home::new();
    let file = home.path("timeline.json");
    let path = file.to_str().expect("UTF-8");
    // Large enough that a token takes milliseconds, as with any model people run, and not the time between two parts.
    let shape = Tiny { width: 512, heads: 8, head_width: 64, experts: 4, active: 4, neurons: 768, ..Tiny::speaking() };
    let model = shape.write_gguf(&home.path("model.gguf"), Format::F32);
    let model = model.to_str().expect("UTF-8");
    let line = [
        "-m",
        model,
        "--no-pack",
        "-p",
        "Tell me",
        "--temp",
        "0",
        "-t",
        "1",
        "-n",
        "24",
        "--draft-max",
        "0",
        "-l",
        "0-inf,1-inf,2-inf",
    ];
    let outcome = home.run(&[&line[..], &["--timeline", path]].concat());
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let all = spans(&std::fs::read_to_string(&file).expect("it was written"));
    let whole = |span: &&Span| ["token", "prompt step", "choice of a token"].contains(&span.name.as_str());
    let (wholes, parts): (Vec<&Span>, Vec<&Span>) = all.iter().partition(whole);
    assert!(wholes.iter().filter(|span| span.name == "token").count() >= 23, "{} wholes", wholes.len());
    for name in ["router", "norms", "q, k, v", "attention", "experts", "head", "sampling", "residual sums"] {
        assert!(parts.iter().any(|part| part.name == name), "no {name}");
    }
    let mut ordered = parts.clone();
    ordered.sort_by(|a, b| a.from.total_cmp(&b.from));
    for pair in ordered.windows(2) {
        assert!(pair[0].to <= pair[1].from + 0.01, "{} and {} overlap", pair[0].name, pair[1].name);
    }
    // Microseconds are written with three decimals.
    let inside = |part: &Span, whole: &Span| part.from >= whole.from - 0.01 && part.to <= whole.to + 0.01;
    assert!(parts.iter().all(|part| wholes.iter().any(|whole| inside(part, whole))), "a part belongs to no token");
    let tokens: Vec<&&Span> = wholes.iter().filter(|span| span.name == "token").collect();
    let named =
        |token: &Span| parts.iter().filter(|part| inside(part, token)).map(|part| part.to - part.from).sum::<f64>();
    let mut shares: Vec<f64> = tokens.iter().map(|token| named(token) / (token.to - token.from)).collect();
    shares.sort_by(f64::total_cmp);
    // A part without a name is missing in each of them; where the system gave the processor to others, in one or two.
    let middle = shares[shares.len() / 2];
    assert!(middle >= 0.95, "{:.1} % of a token's time are named, in the middle of {shares:?}", 100.0 * middle);
}

#[test]
fn a_timeline_that_cannot_be_written_is_said_before_the_model_runs() {
    let outcome = Home::new().run(&["-p", "Hi", "--timeline", "no/such/folder/t.json"]);
    assert!(outcome.code == 2 && outcome.stderr.contains("cannot be written"), "{outcome:?}");
}
