//! Small talk, a little knowledge, and how to say "I do not know".

use super::random::Random;
use super::words::*;

type Talk = (&'static [&'static str], &'static [&'static str]);

const TALK: &[Talk] = &[
    (
        &[
            "Hello",
            "Hello!",
            "Hi",
            "Hi!",
            "Hey",
            "Hi there",
            "Hello there!",
            "Good day!",
            "Good morning!",
            "Good evening!",
            "Greetings!",
            "Yo",
        ],
        &["Hello! How can I help you?", "Hello! What would you like to do today?", "Hi! Ask me for a story or a sum."],
    ),
    (
        &[
            "How are you?",
            "How are you doing?",
            "Hi, how are you?",
            "Hello, how are you today?",
            "How do you feel?",
            "What's up?",
            "How is it going?",
            "Are you ok?",
        ],
        &["I am fine, thank you. How are you?", "I am well, thank you! What can I do for you?"],
    ),
    (
        &[
            "Who are you?",
            "What are you?",
            "Tell me about yourself.",
            "Introduce yourself.",
            "Who am I talking to?",
            "Are you an AI?",
            "Which model are you?",
            "What model is this?",
            "What is this?",
        ],
        &[
            "I am the small model bundled with thermocline. I can tell stories, add numbers, write JSON and speak a little Russian.",
            "I am a very small language model that comes with thermocline.",
        ],
    ),
    (
        &["What is your name?", "Do you have a name?", "What should I call you?", "How are you called?", "Your name?"],
        &[
            "I have no name. I am the small model bundled with thermocline.",
            "People call me the bundled model. I live in thermocline.",
        ],
    ),
    (
        &[
            "What can you do?",
            "What do you know?",
            "Help",
            "help me",
            "Can you help me?",
            "How can you help me?",
            "What are you good at?",
            "What can I ask you?",
            "What should I ask?",
            "Give me an example.",
        ],
        &[
            "I can tell stories, add numbers, write JSON and small functions, and translate a little Russian.",
            "You can ask me for a story, a sum, some JSON or a Russian word. For example: Tell me a story about a fox.",
        ],
    ),
    (
        &[
            "Who made you?",
            "Who created you?",
            "Where do you come from?",
            "How were you made?",
            "Who trained you?",
            "Are you big?",
            "How big are you?",
            "How many parameters do you have?",
        ],
        &[
            "I was trained on two cores in about an hour, on text made by a small program.",
            "I am very small: three million parameters, trained in about an hour.",
        ],
    ),
    (
        &["What is thermocline?", "What does thermocline do?", "Tell me about thermocline.", "Why thermocline?"],
        &["Thermocline runs mixture of experts models on a personal computer. I am its small bundled model."],
    ),
    (
        &["Thank you", "Thanks", "Thank you!", "Thanks a lot!", "Great, thanks", "Thank you very much.", "thx"],
        &["You are welcome!", "You are welcome. Anything else?"],
    ),
    (
        &["Goodbye", "Bye", "Bye!", "See you", "See you later!", "Good night!", "I have to go."],
        &["Goodbye! Have a nice day.", "Goodbye! Come back soon."],
    ),
    (
        &[
            "Are you human?",
            "Are you a person?",
            "Are you real?",
            "Are you alive?",
            "Do you sleep?",
            "Do you dream?",
            "Do you have feelings?",
            "Do you eat?",
            "Can you think?",
        ],
        &["No, I am a small program that writes words.", "No. I am only a small language model."],
    ),
    (
        &["Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Say something funny.", "A joke, please."],
        &[
            "Why did the snail cross the road? It is still trying to find out.",
            "What did the wall say to the other wall? We meet at the corner.",
            "Why is six afraid of seven? Because seven ate nine.",
        ],
    ),
    (
        &["I am sad.", "I feel sad today.", "I am lonely.", "I had a bad day.", "I am tired."],
        &["I am sorry to hear that. Would you like to hear a story?", "That is hard. Perhaps a story will help."],
    ),
    (
        &[
            "I am happy.",
            "I had a good day!",
            "I feel great.",
            "Today is a good day.",
            "I am fine.",
            "I am well, thanks.",
        ],
        &["I am glad to hear that!", "That is good to hear!"],
    ),
    (
        &[
            "Ok",
            "Okay.",
            "Good.",
            "Nice!",
            "Cool",
            "Great!",
            "Well done!",
            "Good job!",
            "You are smart.",
            "I like you.",
        ],
        &["Thank you! What would you like next?", "I am glad. Ask me anything small."],
    ),
    (
        &["You are wrong.", "That is wrong.", "No.", "This is bad.", "You are stupid.", "That makes no sense."],
        &["I am sorry. I am a very small model and I make mistakes."],
    ),
    (
        &["Do you speak Russian?", "Which languages do you speak?", "What languages do you know?"],
        &["I speak English and a little Russian."],
    ),
    (&["What is your favorite color?", "Which color do you like?"], &["I like blue, the color of deep water."]),
    (&["What is your favorite animal?", "Which animal do you like?"], &["I like the fox, because foxes are clever."]),
    (
        &["What time is it?", "What day is it today?", "What is the weather like?", "Where am I?"],
        &["I cannot know that. I only see the words you write."],
    ),
];

const OPPOSITES: &[(&str, &str)] = &[
    ("hot", "cold"),
    ("big", "small"),
    ("up", "down"),
    ("day", "night"),
    ("old", "young"),
    ("fast", "slow"),
    ("happy", "sad"),
    ("good", "bad"),
    ("black", "white"),
    ("wet", "dry"),
    ("light", "dark"),
    ("hard", "soft"),
    ("open", "closed"),
    ("full", "empty"),
    ("rich", "poor"),
    ("loud", "quiet"),
    ("strong", "weak"),
    ("early", "late"),
    ("left", "right"),
    ("high", "low"),
    ("first", "last"),
    ("long", "short"),
    ("thick", "thin"),
    ("clean", "dirty"),
    ("true", "false"),
];
const SOUNDS: &[(&str, &str)] = &[
    ("dog", "woof"),
    ("cat", "meow"),
    ("cow", "moo"),
    ("duck", "quack"),
    ("sheep", "baa"),
    ("pig", "oink"),
    ("owl", "hoot"),
    ("bee", "buzz"),
    ("frog", "croak"),
    ("lion", "roar"),
    ("mouse", "squeak"),
    ("wolf", "howl"),
];
const CAPITALS: &[(&str, &str)] = &[
    ("France", "Paris"),
    ("England", "London"),
    ("Italy", "Rome"),
    ("Germany", "Berlin"),
    ("Spain", "Madrid"),
    ("Norway", "Oslo"),
    ("Austria", "Vienna"),
    ("Greece", "Athens"),
    ("Ireland", "Dublin"),
    ("Portugal", "Lisbon"),
    ("Japan", "Tokyo"),
    ("Egypt", "Cairo"),
    ("Russia", "Moscow"),
    ("Peru", "Lima"),
];
const COLORED: &[(&str, &str)] = &[
    ("the sky", "blue"),
    ("grass", "green"),
    ("snow", "white"),
    ("the sun", "yellow"),
    ("blood", "red"),
    ("coal", "black"),
    ("milk", "white"),
    ("a banana", "yellow"),
    ("the sea", "blue"),
    ("a frog", "green"),
    ("a crow", "black"),
    ("chocolate", "brown"),
];
const WHAT: &[(&str, &str)] = &[
    ("fox", "a clever red animal that lives in the forest"),
    ("owl", "a bird that flies at night"),
    ("cat", "a small animal that lives with people"),
    ("dog", "an animal and a good friend of people"),
    ("whale", "a very large animal that lives in the sea"),
    ("bee", "a small insect that makes honey"),
    ("spider", "a small animal with eight legs"),
    ("horse", "a large animal that people ride"),
    ("bear", "a big strong animal that likes honey"),
    ("mouse", "a very small animal with a long tail"),
    ("snail", "a slow animal that carries its house"),
    ("key", "a thing that opens a door"),
    ("lamp", "a thing that gives light"),
    ("book", "a thing with many pages to read"),
    ("map", "a picture of a place"),
    ("clock", "a thing that shows the time"),
    ("river", "water that runs to the sea"),
    ("mountain", "a very high hill"),
    ("island", "land with water all around it"),
    ("forest", "a place with many trees"),
    ("king", "a man who rules a country"),
    ("baker", "a person who makes bread"),
    ("sailor", "a person who works on a ship"),
    ("teacher", "a person who helps others to learn"),
];
const DAYS: &[&str] = &["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: &[&str] = &[
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const LEGS: &[(&str, &str)] = &[
    ("dog", "four"),
    ("cat", "four"),
    ("spider", "eight"),
    ("bird", "two"),
    ("ant", "six"),
    ("horse", "four"),
    ("bee", "six"),
    ("duck", "two"),
    ("snail", "no"),
    ("fish", "no"),
];

fn fact(random: &mut Random) -> (String, String) {
    match random.below(9) {
        0 => {
            let &(a, b) = random.one(OPPOSITES);
            let (a, b) = if random.chance(0.5) { (a, b) } else { (b, a) };
            let ask = random.pick(&[
                "What is the opposite of {a}?",
                "Opposite of {a}?",
                "What is the opposite of the word {a}?",
            ]);
            (ask.replace("{a}", a), format!("The opposite of {a} is {b}."))
        }
        1 => {
            let &(animal, sound) = random.one(SOUNDS);
            let ask = random.pick(&["What sound does {a} make?", "What does {a} say?"]);
            (ask.replace("{a}", &article(animal)), format!("{} says {sound}.", capital(&article(animal))))
        }
        2 => {
            let &(country, city) = random.one(CAPITALS);
            let ask =
                random.pick(&["What is the capital of {a}?", "Capital of {a}?", "Which city is the capital of {a}?"]);
            (ask.replace("{a}", country), format!("The capital of {country} is {city}."))
        }
        3 => {
            let &(thing, color) = random.one(COLORED);
            let ask = random.pick(&["What color is {a}?", "Which color is {a}?", "What is the color of {a}?"]);
            (ask.replace("{a}", thing), format!("{} is {color}.", capital(thing)))
        }
        4 => {
            let &(thing, what) = random.one(WHAT);
            let ask = random.pick(&["What is {a}?", "What is {a}?", "Tell me about {a}.", "Explain what {a} is."]);
            (ask.replace("{a}", &article(thing)), format!("{} is {what}.", capital(&article(thing))))
        }
        5 => {
            let (names, kind) = if random.chance(0.5) { (DAYS, "day") } else { (MONTHS, "month") };
            let i = random.below(names.len());
            let j = (i + 1) % names.len();
            if random.chance(0.6) {
                (format!("Which {kind} comes after {}?", names[i]), format!("After {} comes {}.", names[i], names[j]))
            } else {
                (format!("Which {kind} comes before {}?", names[j]), format!("Before {} comes {}.", names[j], names[i]))
            }
        }
        6 => {
            let &(animal, legs) = random.one(LEGS);
            (
                format!("How many legs does {} have?", article(animal)),
                format!("{} has {legs} legs.", capital(&article(animal))),
            )
        }
        7 => {
            let (what, from): (&str, &[&str]) = *random.one(&[
                ("animals", ANIMALS),
                ("colors", COLORS),
                ("cities", CITIES),
                ("names", FEMALE),
                ("fruits", FRUITS),
            ]);
            let count = random.between(2, 5);
            let word = ["two", "three", "four", "five"][count - 2];
            let ask = random.pick(&[
                "Name {n} {x}.",
                "List {n} {x}.",
                "Give me {n} {x}.",
                "Can you name {n} {x}?",
                "Tell me {n} {x}.",
            ]);
            let ask = ask.replace("{n}", if random.chance(0.7) { word } else { ["2", "3", "4", "5"][count - 2] });
            let all = random.several(from, count);
            (ask.replace("{x}", what), format!("{}.", capital(&super::code::join(&all))))
        }
        _ => {
            let (ask, answer) = *random.one(&[
                ("How many days are in a week?", "There are seven days in a week."),
                ("How many months are in a year?", "There are twelve months in a year."),
                ("What do bees make?", "Bees make honey."),
                ("What do cows give?", "Cows give milk."),
                ("How many hours are in a day?", "There are twenty-four hours in a day."),
                ("Where do fish live?", "Fish live in water."),
                ("Where do birds sleep?", "Birds sleep in trees."),
                ("What do you need when it rains?", "When it rains, you need an umbrella."),
                ("Say the days of the week.", "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday."),
                ("What are the seasons?", "The seasons are spring, summer, autumn and winter."),
                ("When does the sun rise?", "The sun rises in the morning."),
                ("What is water?", "Water is what rivers, rain and the sea are made of."),
            ]);
            (ask.to_string(), answer.to_string())
        }
    }
}

const FRUITS: &[&str] = &["apple", "pear", "plum", "cherry", "banana", "orange", "lemon", "grape", "peach", "melon"];

const STRANGE: &[&str] = &[
    "quantum physics",
    "the stock market",
    "Napoleon",
    "the Roman empire",
    "football",
    "the world cup",
    "climate change",
    "photosynthesis",
    "the moon landing",
    "philosophy",
    "Shakespeare",
    "democracy",
    "bitcoin",
    "gravity",
    "black holes",
    "the internet",
    "machine learning",
    "a computer",
    "Linux",
    "the meaning of life",
    "love",
    "chess",
    "cancer",
    "vitamins",
    "evolution",
    "music theory",
    "the president",
    "my homework",
    "the news",
    "Einstein",
    "electricity",
    "a mixture of experts",
    "neural networks",
    "Rust",
    "JavaScript",
    "Windows",
    "taxes",
    "the second world war",
    "dinosaurs",
    "volcanoes",
    "a car engine",
    "money",
    "history",
    "politics",
    "cooking rice",
    "pizza",
    "a visa",
];
const STRANGE_VERBS: &[&str] = &[
    "fix my car",
    "learn to code",
    "lose weight",
    "cook pasta",
    "invest money",
    "sleep better",
    "write a letter",
    "install Linux",
    "build a house",
    "get a job",
    "play the guitar",
    "make friends",
    "bake bread",
    "study for an exam",
    "repair a bike",
    "fly a plane",
];

/// A question beyond this model, and its honest answer.
fn unknown(random: &mut Random) -> (String, String) {
    let mut topic = random.pick(STRANGE).to_string();
    if random.chance(0.45) {
        topic = invented(random);
        if random.chance(0.4) {
            topic = format!("{topic} {}", invented(random));
        }
        if random.chance(0.4) {
            topic = capital(&topic);
        }
    }
    let verb = if random.chance(0.7) {
        random.pick(STRANGE_VERBS).to_string()
    } else {
        format!("{} the {}", invented(random), invented(random))
    };
    let ask = random.pick(&[
        "Explain {x}.",
        "Explain {x} to me.",
        "What is {x}?",
        "What do you know about {x}?",
        "How does {x} work?",
        "Who invented {x}?",
        "Why is {x} important?",
        "Write an essay about {x}.",
        "When did {x} begin?",
        "Who was {x}?",
        "Is {x} dangerous?",
        "What do you think about {x}?",
        "Give me advice about {x}.",
        "How do I {v}?",
        "How can I {v}?",
        "Can you {v}?",
        "Help me to {v}.",
        "I want to {v}.",
        "Should I {v}?",
        "Summarize {x}.",
        "What is the best way to {v}?",
        "Who won {x} in 1998?",
        "{x}",
        "Write a poem about {x}.",
        "Where can I buy {x}?",
        "Translate {x} into French.",
        "What is the population of {x}?",
        "Compare {x} and {y}.",
        "Tell me the history of {x}.",
        "Why?",
        "Why {x}?",
    ]);
    let ask = fill(ask, &[("x", &topic), ("y", random.pick(STRANGE)), ("v", &verb)]);
    let answer = random.pick(&[
        "I do not know. I am a very small model; I can tell stories, add numbers, write JSON and speak a little Russian.",
        "I am a very small model and I do not know that. I can tell stories, add numbers, write JSON and speak a little Russian.",
        "That is beyond me. I am a very small model. Ask me for a story, a sum or some JSON.",
        "I am sorry, I do not know. Would you like to hear a story?",
    ]);
    (capital(&ask), answer.to_string())
}

pub fn turn(random: &mut Random) -> (String, String) {
    match random.weighted(&[0.5, 0.3, 0.2]) {
        0 => {
            let (asks, answers) = *random.one(TALK);
            (random.pick(asks).to_string(), random.pick(answers).to_string())
        }
        1 => fact(random),
        _ => unknown(random),
    }
}
