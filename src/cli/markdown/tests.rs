use super::*;

const TEXT: &str = "\
# Title with *slant*

A paragraph that is long enough to be broken somewhere, with **bold words** and `code`, 漢字 and 🦊.
#hashtag goes on

1. one
2. two
   - inside `x`

   a second paragraph

> quoted text, also long enough to be broken on a narrow screen

| left | right |
|------|------:|
| a    | 1     |
| a longer cell than fits | 22 |

```rust
fn main() {
    println!(\"a line of code that is much longer than the screen is wide\"); // yes
}
```

- [x] done
- [ ] not done

***

The [end](https://example.org) ~~gone~~.
A verse:
  indented.
";

/// A terminal that knows what we send.
struct Screen {
    columns: usize,
    lines: Vec<Vec<char>>,
    row: usize,
    column: usize,
}

impl Screen {
    fn new(columns: usize) -> Screen {
        Screen { columns, lines: vec![vec![]], row: 0, column: 0 }
    }

    fn send(&mut self, text: &str) {
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            match c {
                '\r' => self.column = 0,
                '\n' => {
                    self.row += 1;
                    self.column = 0; // the terminal's driver adds the return
                    if self.row == self.lines.len() {
                        self.lines.push(vec![]);
                    }
                }
                '\x1b' => {
                    assert_eq!(rest.next(), Some('['));
                    let mut number = String::new();
                    let letter = loop {
                        match rest.next().expect("an escape ends") {
                            c if c.is_ascii_digit() || c == ';' => number.push(c),
                            c => break c,
                        }
                    };
                    match letter {
                        'A' => {
                            self.row = self.row.checked_sub(number.parse().expect("a count")).expect("on the screen")
                        }
                        'K' => self.lines[self.row].truncate(self.column),
                        'J' => {
                            self.lines[self.row].truncate(self.column);
                            self.lines.truncate(self.row + 1);
                        }
                        'm' => {}
                        other => panic!("ESC [ {number} {other}"),
                    }
                }
                c => {
                    let line = &mut self.lines[self.row];
                    for _ in 0..width::columns_of(c) {
                        line.resize(line.len().max(self.column + 1), ' ');
                        line[self.column] = c;
                        self.column += 1;
                    }
                    assert!(self.column < self.columns, "a line is too long: {:?}", line.iter().collect::<String>());
                }
            }
        }
    }

    fn text(&self) -> String {
        self.lines.iter().map(|line| line.iter().collect::<String>().trim_end().to_string() + "\n").collect()
    }
}

fn written(pieces: impl Iterator<Item = String>, columns: usize) -> String {
    let (mut laid, mut screen) = (Laid::new(columns, 1000, Colours::Sixteen), Screen::new(columns));
    pieces.for_each(|piece| screen.send(&laid.push(&piece)));
    screen.send(laid.end());
    screen.text()
}

/// However an answer is cut into pieces, and on any width, the screen shows the same in the end.
#[test]
fn an_answer_in_pieces_looks_like_one_that_came_whole() {
    for columns in [12, 20, 33, 60, 100] {
        let whole = written(std::iter::once(TEXT.to_string()), columns);
        assert_eq!(written(TEXT.chars().map(String::from), columns), whole, "{columns}");
        let some: Vec<String> = TEXT.split_inclusive(' ').map(String::from).collect();
        assert_eq!(written(some.into_iter(), columns), whole, "{columns}");
    }
}

#[test]
fn markdown_is_laid_out() {
    let screen = written(std::iter::once(TEXT.to_string()), 60);
    let expected = [
        "Title with slant\n\nA paragraph",
        "#hashtag goes on\n\n1. one",
        "2. two\n\n   • inside x\n\n   a second paragraph\n\n▎ quoted",
        "left                    │ right\n────────────────────────┼──────\na                       │     1",
        "\n  fn main() {\n      println!(",
        "☑ done\n• ☐ not done\n\n──",
        "The end (https://example.org) gone.\nA verse:\n  indented.\n",
    ];
    for part in expected {
        assert!(screen.contains(part), "{part:?} in\n{screen}");
    }
}

/// A block longer than the screen is written to its end; what has scrolled away is left alone.
#[test]
fn the_cursor_does_not_leave_the_screen() {
    let text: String = (0..40).map(|n| format!("- item {n} with words\n")).collect();
    let (mut laid, mut screen) = (Laid::new(30, 10, Colours::None), Screen::new(30));
    let mut pieces = text.chars().map(String::from).collect::<Vec<_>>();
    pieces.push("\n\n  now the list is loose".into()); // every line of it moves
    for piece in pieces {
        let sent = laid.push(&piece);
        for (at, _) in sent.match_indices("\x1b[") {
            if let Some(up) = sent[at + 2..].split_once('A').and_then(|(number, _)| number.parse::<usize>().ok()) {
                assert!(up < 10, "{up} lines up");
            }
        }
        screen.send(&sent);
    }
    assert!(screen.text().contains("item 39 with words"));
}

#[test]
fn without_colours_there_are_none() {
    let mut laid = Laid::new(60, 50, Colours::None);
    let sent = laid.push(TEXT);
    assert!((30..38).all(|code| !sent.contains(&format!("{code}m"))) && sent.contains("\x1b[1m"), "{sent:?}");
    assert_eq!(Laid::new(60, 50, Colours::None).end(), "");
}
