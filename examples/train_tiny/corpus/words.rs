//! Words that several domains share.

use super::random::Random;

pub const MALE: &[&str] = &[
    "Tom", "Max", "Ben", "Leo", "Sam", "Finn", "Oscar", "Milo", "Jack", "Hugo", "Paul", "Otto", "Felix", "Adam",
    "Noah", "Theo", "Ivan", "Peter", "Simon", "Victor", "Bruno", "Karl", "Emil", "Arthur",
];
pub const FEMALE: &[&str] = &[
    "Anna", "Lucy", "Mia", "Ella", "Rosa", "Nora", "Lily", "Clara", "Ida", "Ruby", "Eva", "Maya", "Alice", "Zoe",
    "Olga", "Vera", "Jane", "Emma", "Sara", "Julia", "Greta", "Hanna", "Tess", "Molly",
];
pub const ANIMALS: &[&str] = &[
    "fox", "cat", "dog", "owl", "mouse", "bear", "rabbit", "wolf", "horse", "frog", "duck", "lion", "tiger", "bird",
    "fish", "cow", "pig", "sheep", "goat", "snail", "turtle", "hedgehog", "squirrel", "elephant", "monkey", "penguin",
    "whale", "bee", "ant", "spider", "crow", "swan", "deer", "mole", "beaver", "donkey", "kitten", "puppy",
];
pub const PEOPLE: &[&str] = &[
    "boy",
    "girl",
    "king",
    "queen",
    "princess",
    "prince",
    "robot",
    "dragon",
    "wizard",
    "witch",
    "baker",
    "fisherman",
    "farmer",
    "knight",
    "pirate",
    "giant",
    "ghost",
    "teacher",
    "sailor",
    "gardener",
    "tailor",
    "painter",
    "dancer",
    "astronaut",
    "miller",
    "cook",
    "doctor",
    "singer",
    "snowman",
    "little train",
    "boat",
    "cloud",
    "star",
    "tree",
    "teapot",
];
pub const ADJECTIVES: &[&str] = &[
    "small", "brave", "clever", "kind", "old", "young", "lazy", "happy", "shy", "curious", "quiet", "hungry", "tired",
    "gentle", "proud", "funny", "lonely", "cheerful", "sleepy", "strong", "tiny", "friendly", "grumpy", "wise",
];
pub const COLORS: &[&str] = &[
    "red", "blue", "green", "yellow", "white", "black", "brown", "golden", "silver", "purple", "pink", "orange", "gray",
];
pub const OBJECTS: &[&str] = &[
    "key", "ball", "book", "hat", "lamp", "bell", "kite", "ring", "map", "coin", "shoe", "cup", "box", "flute", "drum",
    "stone", "feather", "clock", "scarf", "basket", "candle", "mirror", "spoon", "button", "umbrella", "violin",
    "letter", "toy boat",
];
pub const PLACES: &[&str] = &[
    "the forest",
    "the village",
    "the river",
    "the lake",
    "the old mill",
    "the lighthouse",
    "the mountain",
    "the garden",
    "the sea",
    "the castle",
    "the meadow",
    "the bridge",
    "the market",
    "the farm",
    "the cave",
    "the hill",
    "the island",
    "the town",
    "the desert",
    "the valley",
    "the harbor",
    "the old tower",
];
pub const CITIES: &[&str] = &[
    "Paris", "London", "Rome", "Berlin", "Madrid", "Oslo", "Vienna", "Athens", "Dublin", "Prague", "Lisbon", "Tokyo",
    "Cairo", "Moscow", "Lima", "Delhi",
];
pub const THINGS: &[&str] = &[
    "apples", "books", "coins", "eggs", "stones", "flowers", "cookies", "stars", "pencils", "cards", "shells", "balls",
    "cakes", "nuts", "candles", "keys", "cups", "stamps", "toys", "pears",
];

/// Things that nothing else here is about: whatever the asker names, the story or the list must name too.
pub const NOUNS: &[&str] = &[
    "lighthouse",
    "submarine",
    "rocket",
    "pumpkin",
    "volcano",
    "bicycle",
    "guitar",
    "computer",
    "dinosaur",
    "unicorn",
    "zebra",
    "banana",
    "potato",
    "mushroom",
    "windmill",
    "balloon",
    "pencil",
    "chair",
    "table",
    "sandwich",
    "planet",
    "moon",
    "comet",
    "camel",
    "kangaroo",
    "parrot",
    "crocodile",
    "lizard",
    "butterfly",
    "dolphin",
    "shark",
    "crab",
    "octopus",
    "eagle",
    "goose",
    "chicken",
    "panda",
    "giraffe",
    "hippo",
    "bat",
    "beetle",
    "worm",
    "mermaid",
    "fairy",
    "troll",
    "vampire",
    "ninja",
    "detective",
    "soldier",
    "student",
    "scientist",
    "clown",
    "magician",
    "car",
    "bus",
    "truck",
    "ship",
    "airplane",
    "castle",
    "bridge",
    "tower",
    "house",
    "door",
    "window",
    "mountain",
    "river",
    "island",
    "garden",
    "flower",
    "rose",
    "leaf",
    "snowflake",
    "raindrop",
    "rainbow",
    "shadow",
    "dream",
    "song",
    "library",
    "school",
    "museum",
    "circus",
    "carpet",
    "blanket",
    "pillow",
    "sock",
    "glove",
    "coat",
    "toaster",
    "kettle",
    "fridge",
    "phone",
    "camera",
    "radio",
    "wheel",
    "hammer",
    "ladder",
    "bottle",
    "cookie",
    "carrot",
    "onion",
];

pub fn article(noun: &str) -> String {
    match noun.chars().next() {
        Some('a' | 'e' | 'i' | 'o' | 'u' | 'A' | 'E' | 'I' | 'O' | 'U') if !noun.starts_with("uni") => {
            format!("an {noun}")
        }
        _ => format!("a {noun}"),
    }
}

pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// A word nobody has seen, so that the model learns to copy words and to admit that it does not know them.
pub fn invented(random: &mut Random) -> String {
    const ONSET: &[&str] = &[
        "b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "cr", "fl", "gr", "pl", "st", "tr",
        "th", "sh", "ch", "w", "h", "j", "qu",
    ];
    const NUCLEUS: &[&str] = &["a", "e", "i", "o", "u", "ai", "ea", "oo", "io", "y"];
    const CODA: &[&str] = &["", "", "n", "r", "l", "s", "t", "m", "nd", "ck", "x", "ng", "rt", "sh", "p"];
    let mut word = String::new();
    for _ in 0..random.between(1, 3) {
        for part in [ONSET, NUCLEUS, CODA] {
            word.push_str(random.pick(part));
        }
    }
    word
}

/// Replaces `{name}` by its value, for every pair.
pub fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = template.to_string();
    for (name, value) in values {
        text = text.replace(&format!("{{{name}}}"), value);
    }
    assert!(!text.contains('{'), "a place is left empty in {text:?}");
    text
}

/// A first name; now and then one that nobody has.
pub fn name(random: &mut Random, female: bool) -> String {
    if random.chance(0.12) {
        capital(&invented(random))
    } else {
        random.pick(if female { FEMALE } else { MALE }).to_string()
    }
}
