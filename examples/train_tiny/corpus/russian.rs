//! A second language with its own script: a little Russian, from a grammar that keeps gender and case in agreement.

use super::random::Random;
use super::words::capital;

#[derive(Clone, Copy, PartialEq)]
enum Gender {
    Male,
    Female,
    Neuter,
}
use Gender::*;

/// English, nominative, accusative, prepositional ("о ..."), gender, alive.
type Noun = (&'static str, &'static str, &'static str, &'static str, Gender, bool);

const NOUNS: &[Noun] = &[
    ("fox", "лиса", "лису", "лисе", Female, true),
    ("cat", "кот", "кота", "коте", Male, true),
    ("dog", "собака", "собаку", "собаке", Female, true),
    ("owl", "сова", "сову", "сове", Female, true),
    ("wolf", "волк", "волка", "волке", Male, true),
    ("bear", "медведь", "медведя", "медведе", Male, true),
    ("bird", "птица", "птицу", "птице", Female, true),
    ("fish", "рыба", "рыбу", "рыбе", Female, true),
    ("horse", "конь", "коня", "коне", Male, true),
    ("lion", "лев", "льва", "льве", Male, true),
    ("boy", "мальчик", "мальчика", "мальчике", Male, true),
    ("girl", "девочка", "девочку", "девочке", Female, true),
    ("house", "дом", "дом", "доме", Male, false),
    ("forest", "лес", "лес", "лесе", Male, false),
    ("bridge", "мост", "мост", "мосте", Male, false),
    ("river", "река", "реку", "реке", Female, false),
    ("book", "книга", "книгу", "книге", Female, false),
    ("star", "звезда", "звезду", "звезде", Female, false),
    ("road", "дорога", "дорогу", "дороге", Female, false),
    ("apple", "яблоко", "яблоко", "яблоке", Neuter, false),
    ("sea", "море", "море", "море", Neuter, false),
    ("window", "окно", "окно", "окне", Neuter, false),
    ("tree", "дерево", "дерево", "дереве", Neuter, false),
    ("flower", "цветок", "цветок", "цветке", Male, false),
    ("water", "вода", "воду", "воде", Female, false),
    ("bread", "хлеб", "хлеб", "хлебе", Male, false),
];

/// English and the forms: masculine, feminine, neuter; accusative feminine and accusative masculine of the living.
const ADJECTIVES: &[(&str, [&str; 5])] = &[
    ("red", ["красный", "красная", "красное", "красную", "красного"]),
    ("big", ["большой", "большая", "большое", "большую", "большого"]),
    ("small", ["маленький", "маленькая", "маленькое", "маленькую", "маленького"]),
    ("old", ["старый", "старая", "старое", "старую", "старого"]),
    ("new", ["новый", "новая", "новое", "новую", "нового"]),
    ("white", ["белый", "белая", "белое", "белую", "белого"]),
    ("black", ["чёрный", "чёрная", "чёрное", "чёрную", "чёрного"]),
    ("beautiful", ["красивый", "красивая", "красивое", "красивую", "красивого"]),
];

const SEES: &[(&str, &str)] = &[
    ("sees", "видит"),
    ("loves", "любит"),
    ("is looking for", "ищет"),
    ("finds", "находит"),
    ("draws", "рисует"),
    ("knows", "знает"),
];
const RUNS: &[(&str, &str)] = &[
    ("is sleeping", "спит"),
    ("is running", "бежит"),
    ("is singing", "поёт"),
    ("is playing", "играет"),
    ("is walking", "идёт"),
];
const IN: &[(&str, &str)] = &[
    ("in the forest", "в лесу"),
    ("in the house", "в доме"),
    ("in the garden", "в саду"),
    ("by the river", "у реки"),
    ("by the sea", "у моря"),
    ("under the tree", "под деревом"),
];

/// A noun with or without an adjective, in both languages.
struct Phrase {
    english: String,
    russian: String,
}

fn phrase(random: &mut Random, noun: &Noun, accusative: bool) -> Phrase {
    let (english, nominative, object, _, gender, alive) = *noun;
    let noun = if accusative { object } else { nominative };
    if !random.chance(0.4) {
        return Phrase { english: format!("the {english}"), russian: noun.to_string() };
    }
    let (adjective, forms) = random.one(ADJECTIVES);
    let form = match (gender, accusative) {
        (Female, true) => forms[3],
        (Male, true) if alive => forms[4],
        (Male, _) => forms[0],
        (Female, _) => forms[1],
        (Neuter, _) => forms[2],
    };
    Phrase { english: format!("the {adjective} {english}"), russian: format!("{form} {noun}") }
}

fn alive(random: &mut Random) -> &'static Noun {
    &NOUNS[random.below(12)]
}

fn sentence(random: &mut Random) -> Phrase {
    let subject = alive(random);
    let who = phrase(random, subject, false);
    let (english, russian) = if random.chance(0.65) {
        let mut other = random.one(NOUNS);
        while other.0 == subject.0 {
            other = random.one(NOUNS);
        }
        let verb = random.one(SEES);
        let what = phrase(random, other, true);
        (
            format!("{} {} {}.", who.english, verb.0, what.english),
            format!("{} {} {}.", who.russian, verb.1, what.russian),
        )
    } else {
        let (verb, place) = (random.one(RUNS), random.one(IN));
        if random.chance(0.75) {
            (format!("{} {} {}.", who.english, verb.0, place.0), format!("{} {} {}.", who.russian, verb.1, place.1))
        } else {
            (format!("{} {}.", who.english, verb.0), format!("{} {}.", who.russian, verb.1))
        }
    };
    Phrase { english: capital(&english), russian: capital(&russian) }
}

const PHRASES: &[(&str, &str)] = &[
    ("hello", "привет"),
    ("thank you", "спасибо"),
    ("good morning", "доброе утро"),
    ("good night", "спокойной ночи"),
    ("goodbye", "до свидания"),
    ("yes", "да"),
    ("no", "нет"),
    ("please", "пожалуйста"),
    ("I love you", "я тебя люблю"),
    ("how are you", "как дела"),
    ("friend", "друг"),
    ("sun", "солнце"),
    ("one", "один"),
    ("two", "два"),
    ("three", "три"),
    ("four", "четыре"),
    ("five", "пять"),
    ("mother", "мама"),
    ("father", "папа"),
    ("milk", "молоко"),
    ("night", "ночь"),
    ("day", "день"),
];

/// A sentence to be put into Russian.
pub fn translation(random: &mut Random) -> (String, String) {
    let Phrase { english, russian } = sentence(random);
    let bare = english.trim_end_matches('.');
    let small = format!("t{}", &bare[1..]);
    let ask = match random.below(7) {
        0 => format!("Translate into Russian: {english}"),
        1 => format!("Translate to Russian: {english}"),
        2 => format!("How do you say \"{small}\" in Russian?"),
        3 => format!("Say in Russian: {english}"),
        4 => format!("What is \"{english}\" in Russian?"),
        5 => format!("{english} In Russian, please."),
        _ => format!("Translate \"{small}\" to Russian."),
    };
    (ask, russian)
}

/// Requests in English about Russian, and talk in Russian.
pub fn turn(random: &mut Random) -> (String, String) {
    match random.weighted(&[0.3, 0.2, 0.14, 0.08, 0.18, 0.1]) {
        0 => translation(random),
        1 => {
            let Phrase { english, russian } = sentence(random);
            let ask = match random.below(5) {
                0 => format!("Translate into English: {russian}"),
                1 => format!("What does \"{russian}\" mean?"),
                2 => format!("Say in English: {russian}"),
                3 => format!("Переведи: {russian}"),
                _ => format!("Translate to English: {russian}"),
            };
            (ask, english)
        }
        2 => {
            let (english, russian) = if random.chance(0.6) {
                let noun = random.one(NOUNS);
                (noun.0.to_string(), noun.1.to_string())
            } else {
                let (english, russian) = random.one(PHRASES);
                (english.to_string(), russian.to_string())
            };
            match random.below(5) {
                0 => (
                    format!("What is the Russian word for {english}?"),
                    format!("The Russian word for {english} is {russian}."),
                ),
                1 | 2 => (format!("How do you say \"{english}\" in Russian?"), format!("{}.", capital(&russian))),
                3 => (format!("What is \"{english}\" in Russian?"), format!("{}.", capital(&russian))),
                _ => (format!("What does \"{russian}\" mean?"), format!("It means \"{english}\".")),
            }
        }
        3 => {
            let Phrase { english, russian } = {
                let noun = random.one(NOUNS);
                phrase(random, noun, false)
            };
            let ask = match random.below(3) {
                0 => format!("How do you say \"{english}\" in Russian?"),
                1 => format!("Translate \"{english}\" to Russian."),
                _ => format!("What is \"{english}\" in Russian?"),
            };
            (ask, format!("{}.", capital(&russian)))
        }
        4 => talk(random),
        _ => {
            let hero = alive(random);
            let ask = match random.below(4) {
                0 => format!("Расскажи историю о {}.", preposition(hero)),
                1 => format!("Расскажи сказку о {}.", preposition(hero)),
                2 => format!("Tell me a story in Russian about a {}.", hero.0).replace("a owl", "an owl"),
                _ => format!("Расскажи о {}.", preposition(hero)),
            };
            (ask, story(random, hero))
        }
    }
}

fn preposition(noun: &Noun) -> &'static str {
    noun.3
}

fn talk(random: &mut Random) -> (String, String) {
    const TALK: &[(&[&str], &[&str])] = &[
        (
            &["Привет!", "Привет", "Здравствуй!", "Здравствуйте!", "Добрый день!"],
            &["Привет! Чем я могу помочь?", "Здравствуйте! Рада вас видеть."],
        ),
        (&["Как дела?", "Как ты?", "Привет, как дела?"], &["Хорошо, спасибо! А у вас?", "Всё хорошо, спасибо."]),
        (&["Кто ты?", "Что ты такое?", "Как тебя зовут?"], &["Я маленькая модель из программы thermocline."]),
        (&["Что ты умеешь?", "Что ты можешь?"], &["Я умею рассказывать сказки, считать и немного переводить."]),
        (&["Спасибо!", "Спасибо", "Большое спасибо!"], &["Пожалуйста!", "Не за что!"]),
        (&["Пока!", "До свидания!", "Спокойной ночи!"], &["До свидания!", "Пока! До встречи!"]),
        (&["Ты говоришь по-русски?", "Ты знаешь русский?"], &["Да, немного.", "Да, я немного говорю по-русски."]),
    ];
    if random.chance(0.3) {
        let (a, b) = (random.below(50), random.below(50));
        let ask = random.pick(&["Сколько будет", "Сколько"]);
        return (format!("{ask} {a} + {b}?"), format!("{a} + {b} = {}.", a + b));
    }
    let (asks, answers) = *random.one(TALK);
    (random.pick(asks).to_string(), random.pick(answers).to_string())
}

/// Five or six sentences in the past tense, whose verbs agree with the hero.
fn story(random: &mut Random, hero: &Noun) -> String {
    let (_, name, _, _, gender, _) = *hero;
    let female = gender == Female;
    let past = |male: &'static str, other: &'static str| if female { other } else { male };
    let (adjective, forms) = random.one(ADJECTIVES);
    let _ = adjective;
    let place = random.pick(&["в лесу", "у реки", "у моря", "в старом доме", "в саду"]);
    let mut friend = alive(random);
    while friend.0 == hero.0 {
        friend = alive(random);
    }
    let pronoun = if female { "Она" } else { "Он" };
    let (thing, thing_forms) = (&NOUNS[random.between(13, 25)], &random.one(ADJECTIVES).1);
    let thing_adjective = match thing.4 {
        Female => thing_forms[3],
        Neuter => thing_forms[2],
        Male => thing_forms[0],
    };
    let mut text =
        format!("{} {} {} {name}. ", past("Жил-был", "Жила-была"), past(forms[0], forms[1]), "").replace("  ", " ");
    text = text.replace(" .", ".");
    text += &format!("{pronoun} {} {place}. ", past("жил", "жила"));
    text += &match random.below(3) {
        0 => format!("Однажды {name} {} {thing_adjective} {}. ", past("нашёл", "нашла"), thing.2),
        1 => format!("Однажды {name} {} {thing_adjective} {}. ", past("увидел", "увидела"), thing.2),
        _ => format!("{} очень {} {thing_adjective} {}. ", capital(name), past("любил", "любила"), thing.2),
    };
    text += &match random.below(2) {
        0 => format!("Потом {} {} {}. ", pronoun.to_lowercase(), past("встретил", "встретила"), friend.2),
        _ => format!("Вечером {} {} {}. ", pronoun.to_lowercase(), past("увидел", "увидела"), friend.2),
    };
    text += random.pick(&["Они вместе пели и играли. ", "Они долго говорили. ", "Они вместе ели хлеб и яблоки. "]);
    text += &match random.below(2) {
        0 => format!("{} {} очень {}.", capital(name), past("был", "была"), past("рад", "рада")),
        _ => "С тех пор они друзья.".to_string(),
    };
    text
}

pub fn text(random: &mut Random) -> String {
    if random.chance(0.4) {
        let hero = alive(random);
        return story(random, hero);
    }
    (0..random.between(3, 7)).map(|_| sentence(random).russian).collect::<Vec<_>>().join(" ")
}
