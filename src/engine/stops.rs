//! Stop strings: an answer ends where one of them appears, and not a character of it is shown.
//!
//! Text arrives in pieces of any size. What might be the beginning of a stop string is held back until it
//! is one or cannot be. The stop that is complete first wins; of two that end together, the longer. So the
//! text that comes out does not depend on how it was cut into pieces.

use crate::error::{Error, Result};

/// Stop strings in one request, and characters in one: far above what anyone writes, low enough to stay cheap.
pub const MOST_STOPS: usize = 64;
pub const LONGEST_STOP: usize = 1024;

/// Watches a stream of text for stop strings.
#[derive(Clone, Debug, Default)]
pub struct Stops {
    stops: Vec<String>,
    /// Text not yet given out: always a proper prefix of some stop string.
    held: String,
    found: Option<usize>,
}

impl Stops {
    /// Errors (usage): an empty stop string, too many, or one too long.
    pub fn new(stops: &[String]) -> Result<Stops> {
        if stops.len() > MOST_STOPS {
            return Err(Error::Usage(format!(
                "at most {MOST_STOPS} stop strings are possible, {} were given",
                stops.len()
            )));
        }
        for stop in stops {
            if stop.is_empty() {
                return Err(Error::Usage("a stop string is empty: it would end every answer before it begins".into()));
            }
            let length = stop.chars().count();
            if length > LONGEST_STOP {
                return Err(Error::Usage(format!(
                    "a stop string may have {LONGEST_STOP} characters, the one beginning with {:?} has {length}",
                    stop.chars().take(20).collect::<String>(),
                )));
            }
        }
        Ok(Stops { stops: stops.to_vec(), held: String::new(), found: None })
    }

    /// Takes the next text; gives what may be shown now. Once a stop is found: the text before it, then nothing.
    pub fn push(&mut self, piece: &str) -> String {
        if self.found.is_some() {
            return String::new();
        }
        let old = self.held.len();
        self.held.push_str(piece);
        if let Some((start, index)) = self.first_complete(old) {
            self.found = Some(index);
            self.held.truncate(start);
            return std::mem::take(&mut self.held);
        }
        let safe = self.held.len() - self.held_back();
        let kept = self.held.split_off(safe);
        std::mem::replace(&mut self.held, kept)
    }

    /// The answer ended for another reason: what was held back is text after all.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Which of the stop strings was found.
    pub fn index(&self) -> Option<usize> {
        self.found
    }

    /// The stop string that was found.
    pub fn found(&self) -> Option<&str> {
        self.found.map(|i| self.stops[i].as_str())
    }

    /// Where the stop that ends first begins, and which it is. Only ends beyond `old` can be new.
    fn first_complete(&self, old: usize) -> Option<(usize, usize)> {
        let text = self.held.as_bytes();
        (old + 1..=text.len()).find_map(|end| {
            let ends_here = |stop: &String| text[..end].ends_with(stop.as_bytes());
            let longest = (0..self.stops.len()).filter(|&i| ends_here(&self.stops[i]));
            longest.max_by_key(|&i| self.stops[i].len()).map(|i| (end - self.stops[i].len(), i))
        })
    }

    /// Bytes of the longest suffix that is the beginning of a stop string; a suffix that begins a stop
    /// begins with its first character, so this never cuts a character.
    fn held_back(&self) -> usize {
        let text = self.held.as_bytes();
        let longest = |stop: &String| {
            let most = text.len().min(stop.len() - 1);
            (1..=most).rev().find(|&n| stop.as_bytes()[..n] == text[text.len() - n..]).unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stops(of: &[&str]) -> Stops {
        Stops::new(&of.iter().map(|s| s.to_string()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn holds_back_a_beginning_and_lets_it_go() {
        let mut s = stops(&["###", "User:"]);
        assert_eq!(s.push("Hello #"), "Hello ");
        assert_eq!(s.push("# Us"), "## ");
        assert_eq!(s.push("ed"), "Used");
        assert_eq!(s.push(" ##"), " ");
        assert_eq!(s.found(), None);
        assert_eq!(s.push("#x"), "");
        assert_eq!(s.found(), Some("###"));
        assert_eq!(s.push("more"), "");
        assert_eq!(s.finish(), "");
    }

    #[test]
    fn an_end_gives_back_what_was_held() {
        let mut s = stops(&["<end>"]);
        assert_eq!(s.push("a<en"), "a");
        assert_eq!(s.finish(), "<en");
        assert_eq!(s.found(), None);
    }

    #[test]
    fn no_stops_hold_nothing() {
        let mut s = stops(&[]);
        assert_eq!(s.push("anything"), "anything");
    }

    #[test]
    fn bad_stops_are_refused_in_words() {
        assert!(matches!(Stops::new(&["".into()]), Err(Error::Usage(_))));
        assert!(matches!(Stops::new(&vec!["x".into(); MOST_STOPS + 1]), Err(Error::Usage(_))));
        assert!(matches!(Stops::new(&["é".repeat(LONGEST_STOP + 1)]), Err(Error::Usage(_))));
        assert!(Stops::new(&["é".repeat(LONGEST_STOP)]).is_ok());
    }

    /// Text before the stop that ends first (of those the longest), or all of it.
    fn at_once(text: &str, stops: &[String]) -> (String, Option<String>) {
        let ends = |s: &String| text.find(s.as_str()).map(|start| (start + s.len(), usize::MAX - s.len(), s.clone()));
        match stops.iter().filter_map(ends).min() {
            Some((end, _, stop)) => (text[..end - stop.len()].to_string(), Some(stop)),
            None => (text.to_string(), None),
        }
    }

    proptest! {
        #[test]
        fn cutting_changes_nothing(
            text in "[aé🦙b]{0,30}",
            stops in prop::collection::vec("[aé🦙b]{1,4}", 0..4),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let characters: Vec<char> = text.chars().collect();
            let mut at: Vec<usize> = cuts.iter().map(|c| c.index(characters.len() + 1)).collect();
            at.extend([0, characters.len()]);
            at.sort_unstable();
            let mut watch = Stops::new(&stops).unwrap();
            let mut out = String::new();
            for pair in at.windows(2) {
                out.push_str(&watch.push(&characters[pair[0]..pair[1]].iter().collect::<String>()));
            }
            let found = watch.found().map(str::to_string);
            out.push_str(&watch.finish());
            prop_assert_eq!((out, found), at_once(&text, &stops));
        }
    }
}
