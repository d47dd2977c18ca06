//! The text the bundled model learns from, made here from a seed: nothing in it was written by others.
//!
//! Five domains, each as dialogues in the ChatML template and as plain text. Sums are computed, Russian follows
//! a grammar, so what the model learns is right; people's ways of asking vary, in words, case and punctuation.

mod chat;
mod code;
pub mod random;
mod russian;
mod stories;
mod sums;
mod words;

use random::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    Stories,
    Sums,
    Code,
    Russian,
    Talk,
}

impl Domain {
    pub const ALL: [Domain; 5] = [Domain::Stories, Domain::Sums, Domain::Code, Domain::Russian, Domain::Talk];

    pub fn name(self) -> &'static str {
        match self {
            Domain::Stories => "stories",
            Domain::Sums => "sums",
            Domain::Code => "JSON and code",
            Domain::Russian => "Russian",
            Domain::Talk => "small talk",
        }
    }

    /// One question with its answer.
    fn turn(self, random: &mut Random) -> (String, String) {
        match self {
            Domain::Stories => {
                let tale = stories::Tale::random(random);
                let ask =
                    if random.chance(0.2) { stories::open_request(random).to_string() } else { tale.request(random) };
                (ask, tale.tell(random))
            }
            Domain::Sums => sums::turn(random),
            Domain::Code => code::turn(random),
            Domain::Russian => russian::turn(random),
            Domain::Talk => chat::turn(random),
        }
    }

    /// Plain text without a dialogue; small talk has none.
    fn text(self, random: &mut Random) -> Option<String> {
        match self {
            Domain::Stories => Some(stories::Tale::random(random).tell(random)),
            Domain::Sums => Some(sums::text(random)),
            Domain::Code => Some(code::text(random)),
            Domain::Russian => Some(russian::text(random)),
            Domain::Talk => None,
        }
    }

    /// Turns that stay within the domain, later ones leaning on earlier ones where the domain has such.
    fn conversation(self, random: &mut Random) -> Vec<(String, String)> {
        match self {
            Domain::Sums if random.chance(0.15) => sums::chain(random),
            Domain::Stories => {
                let tale = stories::Tale::random(random);
                let ask = tale.request(random);
                let mut turns = vec![(ask, tale.tell(random))];
                if random.chance(0.3) {
                    turns.push(stories::question_after(&tale, random));
                }
                turns
            }
            Domain::Sums => (0..random.between(1, 5)).map(|_| self.turn(random)).collect(),
            Domain::Talk | Domain::Code => {
                (0..random.weighted(&[0.0, 0.45, 0.3, 0.25])).map(|_| self.turn(random)).collect()
            }
            Domain::Russian => (0..random.weighted(&[0.0, 0.5, 0.3, 0.2])).map(|_| self.turn(random)).collect(),
        }
    }
}

/// A question with one right answer: a sum below one hundred, or a sentence to be put into Russian.
pub fn examination(domain: Domain, random: &mut Random) -> Option<(String, String)> {
    match domain {
        Domain::Sums => Some(sums::plain(random)),
        Domain::Russian => Some(russian::translation(random)),
        _ => None,
    }
}

/// A piece of text of one domain; dialogues carry the template's marks.
pub struct Document {
    pub domain: Domain,
    pub plain: bool,
    pub text: String,
}

/// What all training text is derived from.
pub const SEED: u64 = 20_261_120;

/// Shares of the domains, in the order of `Domain::ALL`. A story is much longer than a sum.
const SHARES: [f64; 5] = [0.17, 0.29, 0.19, 0.17, 0.18];

/// One document of any domain.
pub fn document(random: &mut Random) -> Document {
    let domain = Domain::ALL[random.weighted(&SHARES)];
    document_of(domain, random)
}

/// One document of this domain: mostly a dialogue.
pub fn document_of(domain: Domain, random: &mut Random) -> Document {
    if random.chance(if domain == Domain::Sums { 0.4 } else { 0.15 })
        && let Some(text) = domain.text(random)
    {
        return Document { domain, plain: true, text: text + "\n" };
    }
    let mut turns = domain.conversation(random);
    if random.chance(0.1) {
        // Another subject, in the same conversation.
        let other = Domain::ALL[random.weighted(&[0.1, 0.3, 0.15, 0.15, 0.3])];
        let at = if random.chance(0.5) { 0 } else { turns.len() };
        turns.insert(at, other.turn(random));
    }
    Document { domain, plain: false, text: dialogue(&turns, random) }
}

const SYSTEMS: &[&str] = &[
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "You are the small model bundled with thermocline.",
    "Answer briefly.",
    "Be kind and clear.",
    "You are a helpful assistant. Answer in full sentences.",
];

fn dialogue(turns: &[(String, String)], random: &mut Random) -> String {
    let mut text = String::new();
    if random.chance(0.06) {
        text += &format!("<|im_start|>system\n{}<|im_end|>\n", random.pick(SYSTEMS));
    }
    for (ask, answer) in turns {
        let ask = vary(ask, random);
        text += &format!("<|im_start|>user\n{ask}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n");
    }
    text
}

/// People type as they like: lower case, no full stop, a greeting or a "please" around the question.
fn vary(ask: &str, random: &mut Random) -> String {
    let mut ask = ask.to_string();
    let request = !ask.starts_with(|c: char| c.is_ascii_digit()) && ask.is_ascii() && ask.len() > 12;
    if request && random.chance(0.05) {
        let first = random.pick(&["Hello! ", "Hi, ", "Please: ", "Ok. ", "Now: ", "Hey, "]);
        ask = format!("{first}{ask}");
    }
    if random.chance(0.15) && ask.ends_with(['.', '?', '!']) {
        ask.pop();
    }
    if random.chance(0.15) {
        ask = ask.to_lowercase();
    }
    if random.chance(0.02) {
        ask = ask.to_uppercase();
    }
    ask
}
