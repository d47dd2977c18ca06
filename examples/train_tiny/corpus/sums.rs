//! Arithmetic: every answer is computed, so every answer is right.

use super::random::Random;
use super::words::*;

#[derive(Clone, Copy)]
pub struct Sum {
    a: usize,
    op: char,
    b: usize,
}

impl Sum {
    pub fn random(random: &mut Random) -> Sum {
        let number = |random: &mut Random| if random.chance(0.45) { random.below(10) } else { random.below(100) };
        match random.weighted(&[0.5, 0.3, 0.2]) {
            0 => Sum { a: number(random), op: '+', b: number(random) },
            1 => {
                let (a, b) = (number(random), number(random));
                Sum { a: a.max(b), op: '-', b: a.min(b) }
            }
            _ => Sum { a: random.below(11), op: '*', b: random.below(11) },
        }
    }

    pub fn result(&self) -> usize {
        match self.op {
            '+' => self.a + self.b,
            '-' => self.a - self.b,
            _ => self.a * self.b,
        }
    }

    pub fn line(&self) -> String {
        format!("{} {} {} = {}", self.a, self.op, self.b, self.result())
    }

    fn question(&self, random: &mut Random) -> String {
        let Sum { a, op, b } = *self;
        let word = match op {
            '+' => "plus",
            '-' => "minus",
            _ => "times",
        };
        let sign = if op == '*' { random.pick(&["*", "x", "*", "times"]) } else { if op == '+' { "+" } else { "-" } };
        match random.below(14) {
            0..=4 => format!("What is {a} {sign} {b}?"),
            5 => format!("{a} {sign} {b}"),
            6 => format!("{a}{}{b}", if op == '*' { '*' } else { op }),
            7 => format!("{a} {sign} {b} = ?"),
            8 => format!("How much is {a} {word} {b}?"),
            9 => format!("What is {a} {word} {b}?"),
            10 => format!("Calculate {a} {sign} {b}."),
            11 => format!("Can you compute {a} {sign} {b}?"),
            12 => match op {
                '+' => format!("Add {a} and {b}."),
                '-' => format!("Subtract {b} from {a}."),
                _ => format!("Multiply {a} by {b}."),
            },
            _ => format!("what's {a}{op}{b}?"),
        }
    }
}

/// One sum below one hundred.
pub fn plain(random: &mut Random) -> (String, String) {
    let sum = Sum::random(random);
    (sum.question(random), format!("{}.", sum.line()))
}

/// A question and its answer.
pub fn turn(random: &mut Random) -> (String, String) {
    match random.weighted(&[0.52, 0.14, 0.1, 0.07, 0.04, 0.03, 0.04, 0.03, 0.03]) {
        0 => plain(random),
        1 => problem(random),
        2 => {
            let (a, b) = (random.below(100), random.below(100));
            let bigger = random.chance(0.6);
            let (word, other) = if bigger { ("bigger", a.max(b)) } else { ("smaller", a.min(b)) };
            let answer = if a == b {
                "They are the same.".to_string()
            } else {
                format!("{other} is {word} than {}.", a + b - other)
            };
            let way = random.pick(&[
                "Which is {w}, {a} or {b}?",
                "Which number is {w}: {a} or {b}?",
                "What is {w}, {a} or {b}?",
            ]);
            (fill(way, &[("w", word), ("a", &a.to_string()), ("b", &b.to_string())]), answer)
        }
        3 => count(random),
        4 => {
            let n = random.below(99);
            let (after, m) = if random.chance(0.6) || n == 0 { ("after", n + 1) } else { ("before", n - 1) };
            (format!("What number comes {after} {n}?"), format!("The number {after} {n} is {m}."))
        }
        5 => {
            let n = random.below(100);
            let kind = if n.is_multiple_of(2) { "even" } else { "odd" };
            let way = random.pick(&["Is {n} even or odd?", "Is {n} odd or even?"]);
            (fill(way, &[("n", &n.to_string())]), format!("{n} is {kind}."))
        }
        6 => {
            let n = random.between(1, 49);
            if random.chance(0.5) {
                (
                    random.pick(&["What is half of {n}?", "Half of {n}?"]).replace("{n}", &(2 * n).to_string()),
                    format!("Half of {} is {n}.", 2 * n),
                )
            } else {
                (
                    random.pick(&["What is double {n}?", "Double {n}."]).replace("{n}", &n.to_string()),
                    format!("Double {n} is {}.", 2 * n),
                )
            }
        }
        7 => {
            let (a, b, c) = (random.below(10), random.below(10), random.below(10));
            (format!("What is {a} + {b} + {c}?"), format!("{a} + {b} + {c} = {}.", a + b + c))
        }
        _ => {
            let (a, b) = (random.between(100, 99_999), random.between(10, 9_999));
            let op = random.pick(&["+", "-", "*", "/"]);
            (
                format!("What is {a} {op} {b}?"),
                random
                    .pick(&[
                        "These numbers are too large for me. I can add numbers up to 99.",
                        "That is too hard for such a small model. I can add numbers below one hundred.",
                    ])
                    .to_string(),
            )
        }
    }
}

fn problem(random: &mut Random) -> (String, String) {
    let female = random.chance(0.5);
    let name = random.pick(if female { FEMALE } else { MALE });
    let (he, things) = (if female { "she" } else { "he" }, random.pick(THINGS));
    let he_capital = capital(he);
    if random.chance(0.55) {
        let (a, b) = (random.between(2, 40), random.between(2, 30));
        let more = random
            .pick(&["gets {b} more", "finds {b} more", "buys {b} more", "is given {b} more"])
            .replace("{b}", &b.to_string());
        let sum = Sum { a, op: '+', b };
        let question = match random.below(3) {
            0 => format!("{name} has {a} {things} and {more}. How many {things} does {name} have?"),
            1 => format!("{name} has {a} {things}. {he_capital} {more}. How many {things} does {he} have now?"),
            _ => format!("If {name} has {a} {things} and {more}, how many {things} are there?"),
        };
        (question, format!("{}, so {name} has {} {things}.", sum.line(), sum.result()))
    } else {
        let a = random.between(3, 40);
        let b = random.between(1, a - 1);
        let less =
            random.pick(&["gives away {b}", "loses {b}", "eats {b}", "sells {b}"]).replace("{b}", &b.to_string());
        let sum = Sum { a, op: '-', b };
        let question = match random.below(2) {
            0 => format!("{name} has {a} {things} and {less}. How many are left?"),
            _ => format!("{name} has {a} {things}. {he_capital} {less}. How many {things} does {he} have now?"),
        };
        (question, format!("{}, so {name} has {} {things} left.", sum.line(), sum.result()))
    }
}

fn count(random: &mut Random) -> (String, String) {
    let start = random.below(60);
    let step = *random.one(&[1, 1, 1, 2, 5, 10]);
    let length = random.between(4, 10);
    let mut numbers: Vec<usize> = (0..length).map(|i| start + i * step).collect();
    let way = if step > 1 {
        format!("Count from {start} to {} by {step}.", numbers[length - 1])
    } else if random.chance(0.25) {
        numbers.reverse();
        format!("Count down from {} to {start}.", numbers[0])
    } else {
        let ways = ["Count from {a} to {b}.", "Can you count from {a} to {b}?", "Count to {b}, starting at {a}."];
        fill(random.pick(&ways), &[("a", &start.to_string()), ("b", &numbers[length - 1].to_string())])
    };
    (way, format!("{}.", numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")))
}

/// Several turns where later ones build on the result so far.
pub fn chain(random: &mut Random) -> Vec<(String, String)> {
    let first = Sum::random(random);
    let mut turns = vec![(first.question(random), format!("{}.", first.line()))];
    let mut so_far = first.result();
    for _ in 0..random.between(1, 3) {
        let b = random.between(1, 20);
        let (way, sum) = match random.below(3) {
            0 if so_far + b < 200 => (
                random.pick(&["Now add {b}.", "Add {b} to that.", "And plus {b}?", "Plus {b}?"]),
                Sum { a: so_far, op: '+', b },
            ),
            1 if so_far >= b => (
                random.pick(&["Now subtract {b}.", "Take away {b}.", "And minus {b}?", "Minus {b}?"]),
                Sum { a: so_far, op: '-', b },
            ),
            _ => {
                let other = Sum::random(random);
                turns.push((format!("And {} {} {}?", other.a, other.op, other.b), format!("{}.", other.line())));
                so_far = other.result();
                continue;
            }
        };
        turns.push((way.replace("{b}", &b.to_string()), format!("{}.", sum.line())));
        so_far = sum.result();
    }
    turns
}

/// Sums one below the other, without a dialogue around them.
pub fn text(random: &mut Random) -> String {
    if random.chance(0.1) {
        let n = random.between(1, 10);
        return (1..=10).map(|i| Sum { a: n, op: '*', b: i }.line()).collect::<Vec<_>>().join("\n");
    }
    (0..random.between(8, 16)).map(|_| Sum::random(random).line()).collect::<Vec<_>>().join("\n")
}
