//! Short stories: a hero, a few plots, many ways to say each sentence.

use super::random::Random;
use super::words::*;

/// What a story is about. What the asker does not say is left to chance.
pub struct Tale {
    pub hero: String,
    pub name: String,
    pub female: bool,
    adjective: String,
    friend: String,
    object: String,
    place: String,
}

const FEARS: &[&str] = &[
    "the dark",
    "thunder",
    "deep water",
    "the wind",
    "big dogs",
    "high places",
    "loud noises",
    "the cold",
    "shadows",
    "bees",
];
const TIMES: &[&str] =
    &["day", "morning", "evening", "night", "spring day", "winter day", "summer morning", "rainy day", "sunny day"];
const FOODS: &[&str] = &[
    "bread and cheese",
    "apples and nuts",
    "soup",
    "honey cake",
    "cookies and milk",
    "pancakes",
    "berries",
    "warm tea",
    "a big pie",
];
const JOYS: &[&str] = &[
    "danced all night",
    "sang a song",
    "laughed out loud",
    "jumped for joy",
    "smiled all day",
    "clapped and cheered",
    "told everyone about it",
];
const WHERE: &[&str] = &[
    "under the bed",
    "behind the door",
    "in the grass",
    "near the well",
    "on the roof",
    "under a tree",
    "in the snow",
    "by the road",
    "behind a rock",
    "in an old box",
    "at the bottom of a hole",
    "next to the fence",
];

const OPENINGS: &[&str] = &[
    "Once upon a time, there was {a adj hero} named {name}.",
    "Once upon a time, {a adj hero} named {name} lived near {place}.",
    "Long ago, {a adj hero} called {name} lived near {place}.",
    "There was once {a adj hero}. {His} name was {name}.",
    "{name} was {a adj hero} who lived near {place}.",
    "Near {place} lived {a adj hero} named {name}.",
];
const PLOTS: &[&[&[&str]]] = &[
    &[
        &[
            "{name} had {a color object} and loved it very much.",
            "{name} owned {a color object} that {he} took everywhere.",
        ],
        &["One {time}, the {object} was gone.", "One {time}, {he} could not find the {object}."],
        &[
            "{He} looked {where} and {where2}, but it was not there.",
            "{name} searched {where}. Then {he} searched {where2}. Nothing!",
        ],
        &["Then {he} met {a friend}.", "At last {he} asked {a friend2 friend}."],
        &[
            "\"I saw your {object} near {place2},\" said the {friend}.",
            "\"Do not be sad,\" said the {friend}. \"Your {object} is near {place2}.\"",
        ],
        &["They went there together and found it.", "{name} ran there, and there it was."],
        &["{name} was so happy that {he} {joy}.", "{name} thanked the {friend} and {joy}."],
    ],
    &[
        &["{name} was afraid of {fear}.", "There was one thing {name} did not like: {fear}."],
        &["Every night {he} hid {where}.", "{He} never left home because of it.", "{He} often cried about it."],
        &["One {time}, {a friend2 friend} came to visit.", "One {time}, {he} met {a friend2 friend} near {place2}."],
        &[
            "\"I was afraid of {fear} too,\" said the {friend}. \"Take my hand.\"",
            "\"Do not be afraid,\" said the {friend}. \"We will go together.\"",
            "\"Being brave is easy with a friend,\" said the {friend}.",
        ],
        &["{name} took a deep breath and tried.", "So {name} closed {his} eyes and took one step, and then another."],
        &[
            "After that, {he} was never afraid of {fear} again.",
            "From that day on, {name} was not afraid of {fear} any more.",
        ],
    ],
    &[
        &["One {time}, {name} found {a color object} {where}.", "One {time}, {he} saw {a color object} {where}."],
        &["\"This is the best {object} in the world,\" {he} said.", "\"I will keep it,\" thought {name}."],
        &["Then {he} heard someone cry.", "But then {he} heard a quiet voice."],
        &[
            "It was {a friend2 friend} who had lost {a object}.",
            "{A friend2 friend} sat near {place2} and was very sad. \"I lost my {object},\" said the {friend}.",
        ],
        &["{name} gave the {object} back at once.", "\"Here it is,\" said {name}, and gave the {object} back."],
        &[
            "The {friend} smiled and shared {food} with {him}.",
            "\"Thank you, {name}!\" said the {friend}. Then they ate {food}.",
        ],
        &["They were friends for ever.", "Since then they have been best friends.", "{name} went home happy."],
    ],
    &[
        &["{name} wanted to see {place2}.", "{name} had always dreamed of {place2}."],
        &["So {he} packed {food} and walked for {number} days.", "One {time}, {he} took {his} {object} and set out."],
        &["On the way {he} met {a friend2 friend}.", "On the road sat {a friend2 friend} who was lost."],
        &[
            "\"May I come with you?\" asked the {friend}. \"Yes,\" said {name}.",
            "\"Come with me,\" said {name}, and they went on together.",
        ],
        &["They ate {food} and slept under the stars.", "When it rained, they hid {where} and told stories."],
        &[
            "At last they saw {place2}. It was more beautiful than a dream.",
            "When they reached {place2}, the sun was rising.",
        ],
        &[
            "{name} never forgot that day.",
            "\"A long road is short with a friend,\" said {name}.",
            "There {name} {joy}.",
        ],
    ],
    &[
        &["One {time}, a great storm came to {place}.", "One {time}, the wind was strong and the rain did not stop."],
        &["{name} heard someone call for help.", "\"Help!\" someone called from far away."],
        &["It was {a friend2 friend} near {place2}.", "{A friend2 friend} could not cross the water near {place2}."],
        &["{name} was afraid, but {he} ran out into the rain.", "{name} did not wait. {He} took {a object} and ran."],
        &[
            "With all {his} strength {he} pulled the {friend} out.",
            "{He} used the {object} as a rope and pulled. It worked!",
        ],
        &["\"You saved me,\" said the {friend}.", "\"Thank you, {name},\" said the {friend}. \"You are very brave.\""],
        &["They drank warm tea until the storm was over.", "In the morning the sun was shining, and everyone {joy}."],
    ],
    &[
        &[
            "{name} wanted to learn to play the {music}.",
            "{name} wanted to learn to swim.",
            "{name} wanted to learn to bake a cake.",
        ],
        &["{He} tried once, and it went wrong.", "The first time was very bad, and everyone laughed."],
        &[
            "\"Try again,\" said {a friend2 friend}.",
            "Only {a friend2 friend} did not laugh. \"Try again,\" said the {friend}.",
        ],
        &["So {he} tried every day for {number} weeks.", "So {name} worked hard every {time}."],
        &["And one {time}, it went well.", "In the end, {he} could do it better than anyone in {place}."],
        &[
            "{name} {joy}.",
            "The {friend} was proud, and {name} {joy}.",
            "\"I knew you could do it,\" said the {friend}.",
        ],
    ],
];

impl Tale {
    pub fn random(random: &mut Random) -> Tale {
        let female = random.chance(0.5);
        let hero = match random.weighted(&[0.36, 0.24, 0.2, 0.2]) {
            0 => random.pick(ANIMALS).to_string(),
            1 => random.pick(PEOPLE).to_string(),
            2 => random.pick(NOUNS).to_string(),
            _ => invented(random),
        };
        let female = match hero.as_str() {
            "girl" | "queen" | "princess" | "witch" => true,
            "boy" | "king" | "prince" | "wizard" | "fisherman" | "snowman" => false,
            _ => female,
        };
        let mut friend = random.pick(ANIMALS).to_string();
        while friend == hero {
            friend = random.pick(ANIMALS).to_string();
        }
        Tale {
            name: name(random, female),
            adjective: random.pick(ADJECTIVES).to_string(),
            object: random.pick(OBJECTS).to_string(),
            place: random.pick(PLACES).to_string(),
            hero,
            female,
            friend,
        }
    }

    pub fn tell(&self, random: &mut Random) -> String {
        let place2 = *random.one(&PLACES.iter().filter(|p| **p != self.place).collect::<Vec<_>>());
        let friend_adjective = random.pick(ADJECTIVES);
        let color = random.pick(COLORS);
        let (fear, time, food, joy) = (random.pick(FEARS), random.pick(TIMES), random.pick(FOODS), random.pick(JOYS));
        let two = random.several(WHERE, 2);
        let number = random.pick(&["two", "three", "four", "five", "six", "seven", "ten"]);
        let music = random.pick(&["flute", "drum", "violin", "piano"]);
        let a_friend = article(&format!("{friend_adjective} {}", self.friend));
        let values = [
            ("name", self.name.as_str()),
            ("he", if self.female { "she" } else { "he" }),
            ("He", if self.female { "She" } else { "He" }),
            ("his", if self.female { "her" } else { "his" }),
            ("His", if self.female { "Her" } else { "His" }),
            ("him", if self.female { "her" } else { "him" }),
            ("a adj hero", &article(&format!("{} {}", self.adjective, self.hero))),
            ("a friend", &article(&self.friend)),
            ("a friend2 friend", &a_friend),
            ("A friend2 friend", &capital(&a_friend)),
            ("friend", &self.friend),
            ("a color object", &article(&format!("{color} {}", self.object))),
            ("a object", &article(&self.object)),
            ("object", &self.object),
            ("place", &self.place),
            ("place2", place2),
            ("fear", fear),
            ("time", time),
            ("food", food),
            ("joy", joy),
            ("where", two[0]),
            ("where2", two[1]),
            ("number", number),
            ("music", music),
        ];
        let plot = random.pick(PLOTS);
        let mut sentences = vec![fill(random.pick(OPENINGS), &values)];
        sentences.extend(plot.iter().map(|ways| fill(random.pick(ways), &values)));
        sentences.join(" ")
    }

    /// A request for this story; what it names, the story has.
    pub fn request(&self, random: &mut Random) -> String {
        let hero = if random.chance(0.25) { format!("{} {}", self.adjective, self.hero) } else { self.hero.clone() };
        let about = match random.weighted(&[0.5, 0.12, 0.12, 0.1, 0.1, 0.06]) {
            0 => article(&hero),
            1 => format!("{} named {}", article(&hero), self.name),
            2 => format!("{} and {}", article(&hero), article(&self.friend)),
            3 => format!("{} near {}", article(&hero), self.place),
            4 => hero,
            _ => format!("{} the {}", self.name, self.hero),
        };
        let way = random.pick(&[
            "Tell me a story about {x}.",
            "Tell me a story about {x}.",
            "Tell a story about {x}.",
            "Can you tell me a story about {x}?",
            "Write a story about {x}.",
            "Write a short story about {x}.",
            "Please tell me a short story about {x}.",
            "I want to hear a story about {x}.",
            "Could you write me a little story about {x}?",
            "Story about {x}, please.",
            "Give me a story about {x}.",
            "A story about {x}!",
            "Make up a tale about {x}.",
            "I would like a bedtime story about {x}.",
            "Do you know a story about {x}?",
        ]);
        fill(way, &[("x", &about)])
    }
}

/// A story for an asker who did not say about whom, or a question about the story just told.
pub fn open_request(random: &mut Random) -> &'static str {
    random.pick(&[
        "Tell me a story.",
        "Tell me a story.",
        "Write a story.",
        "Can you tell me a story?",
        "I want a story.",
        "Another story, please.",
        "Tell me something nice.",
        "Tell me a bedtime story.",
        "Please tell me a short story.",
        "Do you know any stories?",
        "Once upon a time...",
        "One more story!",
    ])
}

pub fn question_after(tale: &Tale, random: &mut Random) -> (String, String) {
    let Tale { hero, name, .. } = tale;
    match random.below(3) {
        0 => (format!("What was the name of the {hero}?"), format!("The name of the {hero} was {name}.")),
        1 => (format!("Who was {name}?"), format!("{name} was the {hero} in the story.")),
        _ => ("Who was the story about?".to_string(), format!("The story was about {} named {name}.", article(hero))),
    }
}
