//! JSON and small pieces of Python.

use super::random::Random;
use super::words::*;

fn person(random: &mut Random) -> String {
    let female = random.chance(0.5);
    name(random, female)
}

/// JSON on one line, or one field per line.
fn object(fields: &[(&str, String)], lines: bool) -> String {
    let field = |(key, value): &(&str, String)| format!("\"{key}\": {value}");
    let fields: Vec<String> = fields.iter().map(field).collect();
    if lines { format!("{{\n  {}\n}}", fields.join(",\n  ")) } else { format!("{{{}}}", fields.join(", ")) }
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// A request for a thing as JSON, and the JSON.
fn json(random: &mut Random) -> (String, String) {
    let lines = random.chance(0.35);
    let name = person(random);
    let age = random.between(1, 90).to_string();
    let ask = random.pick(&[
        "Give me JSON for {x}.",
        "Write JSON for {x}.",
        "Make a JSON object for {x}.",
        "Show me {x} as JSON.",
        "JSON for {x}, please.",
        "Can you write {x} as JSON?",
        "Describe {x} in JSON.",
        "Turn this into JSON: {x}.",
        "I need a JSON object for {x}.",
    ]);
    let (what, answer) = match random.below(9) {
        0 | 1 => {
            let animals = if random.chance(0.75) { ANIMALS } else { NOUNS };
            let animal = random.pick(animals);
            let mut what = format!("{} named {name}", article(animal));
            let mut fields = vec![("name", quoted(&name)), ("animal", quoted(animal))];
            if random.chance(0.6) {
                what += random.pick(&[", age ", ", aged "]);
                what += &age;
                fields.push(("age", age));
            }
            if random.chance(0.4) {
                let color = random.pick(COLORS);
                what = what.replacen(animal, &format!("{color} {animal}"), 1);
                what = what.replacen("an ", "a ", 1);
                what = what.replacen("a orange", "an orange", 1);
                fields.push(("color", quoted(color)));
            }
            (what, object(&fields, lines))
        }
        2 | 3 => {
            let city = random.pick(CITIES);
            let mut fields = vec![("name", quoted(&name)), ("age", age.clone())];
            let what = if random.chance(0.6) {
                fields.push(("city", quoted(city)));
                format!("a person named {name}, age {age}, from {city}")
            } else {
                format!("a person named {name} who is {age} years old")
            };
            (what, object(&fields, lines))
        }
        4 => {
            let (item, price, count) = (random.pick(OBJECTS), random.between(1, 99), random.between(1, 20));
            let fields = vec![("item", quoted(item)), ("price", price.to_string()), ("count", count.to_string())];
            (format!("{count} of the item {item} at price {price}"), object(&fields, lines))
        }
        5 | 8 => {
            let count = random.between(2, 5);
            let from = *random.one(&[COLORS, ANIMALS, CITIES, OBJECTS, NOUNS, MALE]);
            let all = random.several(from, count);
            let list: Vec<String> = all.iter().map(|w| quoted(w)).collect();
            (format!("a list of {}", join(&all)), format!("[{}]", list.join(", ")))
        }
        6 => {
            let (title, pages) = (random.pick(OBJECTS), random.between(10, 400));
            let title = capital(&format!("the {} {title}", random.pick(COLORS)));
            let title: String = title.split(' ').map(capital).collect::<Vec<_>>().join(" ");
            let fields = vec![("title", quoted(&title)), ("author", quoted(&name)), ("pages", pages.to_string())];
            (format!("a book called {title} by {name} with {pages} pages"), object(&fields, lines))
        }
        _ => {
            let (x, y) = (random.below(100), random.below(100));
            let fields = vec![("x", x.to_string()), ("y", y.to_string())];
            (format!("a point at {x}, {y}"), object(&fields, lines))
        }
    };
    (ask.replace("{x}", &what), answer)
}

/// The same kinds of thing when the asker leaves the values to us.
fn open_json(random: &mut Random) -> (String, String) {
    let name = person(random);
    let age = random.between(1, 90).to_string();
    let (what, fields) = match random.below(5) {
        0 => ("a person", vec![("name", quoted(&name)), ("age", age), ("city", quoted(random.pick(CITIES)))]),
        1 => ("an animal", vec![("name", quoted(&name)), ("animal", quoted(random.pick(ANIMALS))), ("age", age)]),
        2 => {
            let animal = random.pick(&["cat", "dog", "fox", "owl", "horse", "bear"]);
            let what = match animal {
                "cat" => "a cat",
                "dog" => "a dog",
                "fox" => "a fox",
                "owl" => "an owl",
                "horse" => "a horse",
                _ => "a bear",
            };
            (what, vec![("name", quoted(&name)), ("animal", quoted(animal)), ("color", quoted(random.pick(COLORS)))])
        }
        3 => ("a product", vec![("item", quoted(random.pick(OBJECTS))), ("price", random.between(1, 99).to_string())]),
        _ => (
            "a user",
            vec![
                ("id", random.between(1, 999).to_string()),
                ("name", quoted(&name)),
                ("active", random.pick(&["true", "false"]).to_string()),
            ],
        ),
    };
    let ask = random.pick(&[
        "Write JSON for {x}.",
        "Give me a JSON object for {x}.",
        "Show me JSON of {x}.",
        "Make some JSON about {x}.",
        "An example of JSON for {x}?",
    ]);
    (ask.replace("{x}", what), object(&fields, random.chance(0.35)))
}

pub fn join(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => one.to_string(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// What a function does, its usual name, its arguments, the body.
const FUNCTIONS: &[(&str, &str, &str, &str)] = &[
    ("adds two numbers", "add", "a, b", "return a + b"),
    ("subtracts two numbers", "subtract", "a, b", "return a - b"),
    ("multiplies two numbers", "multiply", "a, b", "return a * b"),
    ("divides two numbers", "divide", "a, b", "return a / b"),
    ("returns the larger of two numbers", "larger", "a, b", "return a if a > b else b"),
    ("returns the smaller of two numbers", "smaller", "a, b", "return a if a < b else b"),
    ("squares a number", "square", "x", "return x * x"),
    ("doubles a number", "double", "x", "return 2 * x"),
    ("halves a number", "half", "x", "return x / 2"),
    ("checks if a number is even", "is_even", "n", "return n % 2 == 0"),
    ("checks if a number is odd", "is_odd", "n", "return n % 2 == 1"),
    ("says hello", "greet", "name", "print(\"Hello, \" + name)"),
    ("says goodbye", "goodbye", "name", "print(\"Goodbye, \" + name)"),
    ("counts to n", "count", "n", "for i in range(1, n + 1):\n        print(i)"),
    ("sums a list", "total", "items", "result = 0\n    for item in items:\n        result += item\n    return result"),
    (
        "finds the largest item in a list",
        "largest",
        "items",
        "best = items[0]\n    for item in items:\n        if item > best:\n            best = item\n    return best",
    ),
    ("reverses a string", "reverse", "text", "return text[::-1]"),
    ("returns the length of a list", "length", "items", "return len(items)"),
    ("computes the area of a rectangle", "area", "width, height", "return width * height"),
    ("computes the factorial", "factorial", "n", "if n < 2:\n        return 1\n    return n * factorial(n - 1)"),
    ("returns the absolute value", "absolute", "x", "if x < 0:\n        return -x\n    return x"),
    ("returns the first item of a list", "first", "items", "return items[0]"),
    ("returns the last item of a list", "last", "items", "return items[-1]"),
];

fn function(random: &mut Random) -> (String, String) {
    let (does, usual, arguments, body) = *random.one(FUNCTIONS);
    let (mut name, mut body) = (usual.to_string(), body.to_string());
    let mut asked = String::new();
    if random.chance(0.2) && usual != "factorial" {
        name = invented(random);
        asked = format!(" called {name}");
    }
    let mut arguments = arguments.to_string();
    if arguments == "a, b" && random.chance(0.25) {
        arguments = "x, y".to_string();
        body = body.replace(" a", " x").replace(" b", " y");
    }
    let ask = random.pick(&[
        "Write a function{c} that {x}.",
        "Write a Python function{c} that {x}.",
        "Can you write a function{c} that {x}?",
        "Show me a function{c} that {x}.",
        "I need a function{c} that {x}.",
        "Code a function{c} that {x}.",
        "Python function{c} that {x}",
    ]);
    (ask.replace("{c}", &asked).replace("{x}", does), format!("def {name}({arguments}):\n    {body}"))
}

pub fn turn(random: &mut Random) -> (String, String) {
    match random.weighted(&[0.6, 0.12, 0.28]) {
        0 => json(random),
        1 => open_json(random),
        _ => function(random),
    }
}

/// A file: a list of records, or a few functions.
pub fn text(random: &mut Random) -> String {
    if random.chance(0.5) {
        let records: Vec<String> = (0..random.between(2, 4))
            .map(|_| open_json(random).1.replace("\n  ", " ").replace('\n', " ").replace("{ ", "{").replace(" }", "}"))
            .collect();
        format!("[\n  {}\n]", records.join(",\n  "))
    } else {
        (0..random.between(2, 3)).map(|_| function(random).1).collect::<Vec<_>>().join("\n\n")
    }
}
