//! `--grammar`, `--json-schema` and their files.

use super::program::{Home, Outcome};
use serde_json::{Value, json};

const YES_OR_NO: &str = "root ::= \"yes\" | \"no\"";
/// Whatever the sampler draws, the form decides.
const ASK: [&str; 9] = ["-p", "Is it raining?", "--temp", "2", "--top-k", "0", "--top-p", "1", "--no-perf"];

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": { "age": { "type": "integer", "maximum": 99 }, "name": { "type": "string", "maxLength": 8 } },
        "required": ["age", "name"],
        "additionalProperties": false,
    })
}

fn ask(home: &Home, more: &[&str]) -> Outcome {
    let outcome = home.run(&[&ASK[..], more].concat());
    assert_eq!(outcome.code, 0, "{more:?}: {outcome:?}");
    outcome
}

#[test]
fn answers_keep_to_a_grammar() {
    let home = Home::new();
    let file = home.path("form.gbnf");
    std::fs::write(&file, format!("# A word.\n{YES_OR_NO}\n")).expect("writes");
    let file = file.to_str().expect("UTF-8");
    for seed in ["1", "2", "3"] {
        let said = ask(&home, &["-s", seed, "--grammar", YES_OR_NO]).stdout;
        assert!(said == "yes\n" || said == "no\n", "{said:?}");
        assert_eq!(ask(&home, &["-s", seed, "--grammar-file", file]).stdout, said);
        assert!(ask(&home, &["-s", seed, "--grammar", "start: /[a-z]{3}/"]).stdout.trim_end().len() == 3, "Lark too");
    }
}

#[test]
fn answers_keep_to_a_schema_and_end_in_time() {
    let home = Home::new();
    let (schema, file) = (schema().to_string(), home.path("schema.json"));
    std::fs::write(&file, format!("{schema}\n")).expect("writes");
    let file = file.to_str().expect("UTF-8");
    let said = ask(&home, &["-s", "5", "--json-schema", &schema]).stdout;
    let answer: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
    let fields: Vec<&String> = answer.as_object().expect("an object").keys().collect();
    assert_eq!(fields, ["age", "name"], "{said}");
    for same in [&["-j", &schema][..], &["-jf", file], &["--json-schema-file", file], &[&format!("-j={schema}")]] {
        assert_eq!(ask(&home, &[&["-s", "5"], same].concat()).stdout, said, "{same:?}");
    }
    // Where tokens run out JSON is brought to an end, and it is said how much of it was not the model's choice.
    let list = r#"{"type": "array", "items": {"type": "string"}, "minItems": 1}"#;
    let mut landed = 0;
    for seed in 0..8 {
        let outcome =
            home.run(&["-s", &seed.to_string(), "-n", "12", "-j", list, "-p", "Tell me a story.", "--temp", "2"]);
        let said: Result<Vec<String>, _> = serde_json::from_str(&outcome.stdout);
        assert!(outcome.code == 0 && said.is_ok(), "{outcome:?}");
        landed += usize::from(outcome.stderr.contains("bring it to an end in time"));
    }
    assert!(landed > 0, "twelve tokens are few");
}

#[test]
fn a_form_in_the_environment_gives_way_to_the_command_line() {
    let home = Home::new();
    let variables = [("THERMOCLINE_GRAMMAR", YES_OR_NO), ("THERMOCLINE_TEMP", "2")];
    let said = home.with(&variables).run(&["-p", "Is it raining?", "--no-perf"]);
    assert!(said.stdout == "yes\n" || said.stdout == "no\n", "{said:?}");
    let number = home.with(&variables).run(&["-p", "How many?", "--no-perf", "-j", r#"{"enum": [7]}"#]);
    assert_eq!((number.code, number.stdout.as_str()), (0, "7\n"), "{number:?}");
}

#[test]
fn forms_that_make_no_sense_are_2_and_a_sentence() {
    let home = Home::new();
    let file = home.path("schema.json");
    std::fs::write(&file, "[1").expect("writes");
    let file = file.to_str().expect("UTF-8");
    for (line, words) in [
        (&["--grammar", YES_OR_NO, "-j", "{}"][..], "not several"),
        (&["-j", "{}", "-jf", file], "not several"),
        (&["--grammar", " "], "--grammar is empty"),
        (&["--grammar", "answer ::= \"yes\""], "no rule `root`"),
        (&["--grammar", "root ::= other"], "--grammar is refused"),
        (&["--grammar-file", "no-such-file"], "no-such-file"),
        (&["-j", ""], "--json-schema is empty"),
        (&["-j", "{\"type\": "], "--json-schema is no JSON schema"),
        (&["-j", "7"], "the schema is no object"),
        (&["-j", r#"{"not": {"type": "string"}}"#], "not"),
        (&["-jf", file], "schema.json is no JSON schema"),
        (&["-jf", "no-such-file"], "no-such-file"),
    ] {
        let outcome = home.run(&[&["-p", "x"], line].concat());
        assert_eq!((outcome.code, outcome.stdout.as_str()), (2, ""), "{line:?}: {outcome:?}");
        assert!(outcome.stderr.contains(words), "{line:?}: {outcome:?}");
    }
    for (flag, value) in [("--grammar", "x"), ("-j", "{}"), ("-jf", "x"), ("--json-schema-file", "x")] {
        let serve = home.run(&["serve", flag, value]);
        assert!(serve.code == 2 && serve.stderr.contains("response_format"), "{flag}: {serve:?}");
    }
}
