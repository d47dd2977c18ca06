//! Rows of named values as Markdown, JSON or CSV.

use super::values::Output;
use serde_json::{Map, Value};

/// A row: keys, which are an interface that programs read, with their values; and the cells people are shown.
pub struct Line {
    pub values: Map<String, Value>,
    pub cells: Vec<String>,
}

/// `header` is that of the cells; the first column is left-aligned, the others hold numbers. Ends with a newline.
pub fn render(output: Output, header: &[&str], lines: &[Line]) -> String {
    match output {
        Output::Md => markdown(header, lines),
        Output::Json => {
            let list = lines.iter().map(|line| Value::Object(line.values.clone())).collect();
            format!("{:#}\n", Value::Array(list))
        }
        Output::Csv => csv(lines),
    }
}

/// Four decimals: more than is known, short enough to read.
pub fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

fn markdown(header: &[&str], lines: &[Line]) -> String {
    let length = |text: &str| text.chars().count();
    let width = |column: usize| {
        let cells = lines.iter().map(|line| length(&line.cells[column]));
        cells.chain([length(header[column])]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let row = |cells: &[&str]| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!(" {cell:<width$} "),
            _ => format!(" {cell:>width$} "),
        });
        format!("|{}|\n", padded.collect::<Vec<_>>().join("|"))
    };
    let rule = widths.iter().enumerate().map(|(column, width)| match column {
        0 => "-".repeat(width + 2),
        _ => format!("{}:", "-".repeat(width + 1)),
    });
    let mut out = row(header);
    out.push_str(&format!("|{}|\n", rule.collect::<Vec<_>>().join("|")));
    for line in lines {
        out.push_str(&row(&line.cells.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    out
}

fn csv(lines: &[Line]) -> String {
    let mut out = String::new();
    if let Some(first) = lines.first() {
        out.push_str(&first.values.keys().cloned().collect::<Vec<_>>().join(","));
        out.push('\n');
    }
    for line in lines {
        let cells = line.values.values().map(|value| match value {
            Value::String(text) => quoted(text),
            Value::Null => String::new(),
            other => other.to_string(),
        });
        out.push_str(&cells.collect::<Vec<_>>().join(","));
        out.push('\n');
    }
    out
}

/// As RFC 4180 wants it: quotes only around what needs them.
fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines() -> Vec<Line> {
        let line = |name: &str, n: u64| {
            let Value::Object(values) = json!({ "name": name, "n": n, "none": null }) else {
                unreachable!("an object")
            };
            Line { values, cells: vec![name.to_string(), n.to_string()] }
        };
        vec![line("a,\"b\"", 1), line("ä", 12345)]
    }

    #[test]
    fn markdown_lines_up() {
        let text = render(Output::Md, &["name", "count"], &lines());
        assert_eq!(text, "| name  | count |\n|-------|------:|\n| a,\"b\" |     1 |\n| ä     | 12345 |\n");
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(render(Output::Csv, &[], &lines()), "name,n,none\n\"a,\"\"b\"\"\",1,\nä,12345,\n");
        assert_eq!(render(Output::Csv, &[], &[]), "");
    }

    #[test]
    fn json_is_a_list_of_objects() {
        let list: Value = serde_json::from_str(&render(Output::Json, &[], &lines())).expect("valid JSON");
        assert_eq!((&list[1]["name"], &list[1]["n"]), (&json!("ä"), &json!(12345)));
    }
}
