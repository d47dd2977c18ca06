//! Guesses from the text itself: what followed the last time the same few tokens stood there.

/// Matches are told apart up to this length; longer ones are as good.
pub const LONGEST: usize = 8;
/// One token alone says too little of what comes next.
const SHORTEST: usize = 2;

/// The most recent of the longest matches.
#[derive(Debug, PartialEq, Eq)]
pub struct Match {
    /// Tokens that agree, [`LONGEST`] at most.
    pub length: usize,
    /// Where in the text its continuation begins.
    pub next: usize,
}

/// Looks for the end of `text` earlier in it.
pub fn look_up(text: &[u32]) -> Option<Match> {
    let (&last, before) = text.split_last()?;
    let mut best: Option<Match> = None;
    for next in (1..=before.len()).rev().filter(|&next| text[next - 1] == last) {
        let ends = text[..next].iter().rev().zip(text.iter().rev());
        let length = ends.take(LONGEST).take_while(|(a, b)| a == b).count();
        if length >= SHORTEST && best.as_ref().is_none_or(|best| length > best.length) {
            best = Some(Match { length, next });
            if length == LONGEST {
                break;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_match_wins_and_then_the_most_recent() {
        assert_eq!(look_up(&[]), None);
        assert_eq!(look_up(&[1]), None);
        assert_eq!(look_up(&[1, 2, 3, 1]), None, "one token is no match");
        assert_eq!(look_up(&[1, 2, 3, 1, 2]), Some(Match { length: 2, next: 2 }));
        assert_eq!(look_up(&[1, 2, 3, 1, 2, 4, 1, 2]), Some(Match { length: 2, next: 5 }));
        assert_eq!(look_up(&[0, 1, 2, 3, 9, 1, 2, 4, 0, 1, 2]), Some(Match { length: 3, next: 3 }));
        assert_eq!(look_up(&[7; 20]), Some(Match { length: LONGEST, next: 19 }));
    }
}
