/// Stands before what a model thinks, and after it.
const OPENS: &str = "<think>";
const CLOSES: &str = "</think>";

/// Parts what a model thinks before it speaks from what it says. Blanks around both belong to neither.
#[derive(Debug, Clone)]
pub(super) struct Thoughts {
    state: State,
    /// The end of the answer that is not given out.
    held: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but blanks, or the beginning of the mark, came.
    Before,
    /// The mark came; `has_begun` once anything but blanks did.
    Within { has_begun: bool },
    /// The closing mark came, and nothing but blanks since.
    Closed,
    /// All else is said.
    Over,
}

/// More of what is thought and of what is said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parted {
    pub(super) thought: String,
    pub(super) said: String,
}

impl Thoughts {
    /// Begins where `prompt` ends; none where the model's `template` has no such marks.
    pub(super) fn behind(prompt: &str, template: &str) -> Option<Self> {
        let is_open = prompt.trim_end().ends_with(OPENS);
        let state = if is_open { State::Within { has_begun: false } } else { State::Before };
        (template.contains(OPENS) || template.contains(CLOSES)).then(|| Self { state, held: String::new() })
    }

    /// Takes more of the answer.
    pub(super) fn push(&mut self, text: &str) -> Parted {
        self.held.push_str(text);
        let mut parted = Parted::default();
        if self.state == State::Before {
            let start = self.held.trim_start();
            if let Some(rest) = start.strip_prefix(OPENS) {
                self.held = rest.to_owned();
                self.state = State::Within { has_begun: false };
            } else if OPENS.starts_with(start) {
                return parted;
            } else {
                self.state = State::Over;
            }
        }
        if let State::Within { has_begun } = self.state {
            if !has_begun {
                self.held.drain(..self.held.len() - self.held.trim_start().len());
            }
            if let Some(end) = self.held.find(CLOSES) {
                let rest = self.held.split_off(end + CLOSES.len());
                self.held.truncate(end);
                parted.thought = std::mem::replace(&mut self.held, rest);
                parted.thought.truncate(parted.thought.trim_end().len());
                self.state = State::Closed;
            } else {
                // blanks, and what may be the beginning of the mark, are kept until it is known
                let longest = (CLOSES.len() - 1).min(self.held.len());
                let mark =
                    (1..=longest).rev().find(|&n| self.held.as_bytes().ends_with(&CLOSES.as_bytes()[..n]));
                let sure = self.held.len() - mark.unwrap_or(0);
                let sure = self.held[..sure].trim_end().len();
                let rest = self.held.split_off(sure);
                parted.thought = std::mem::replace(&mut self.held, rest);
                self.state = State::Within { has_begun: has_begun || !parted.thought.is_empty() };
            }
        }
        if self.state == State::Closed {
            self.held.drain(..self.held.len() - self.held.trim_start().len());
            if !self.held.is_empty() {
                self.state = State::Over;
            }
        }
        if self.state == State::Over {
            parted.said = std::mem::take(&mut self.held);
        }
        parted
    }

    /// Takes the end of the answer.
    pub(super) fn finish(self) -> Parted {
        match self.state {
            State::Within { .. } => Parted { thought: self.held, said: String::new() },
            State::Before | State::Closed | State::Over => Parted { thought: String::new(), said: self.held },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(prompt: &str, answer: &str, size: usize) -> (String, String) {
        let mut thoughts = Thoughts::behind(prompt, "{% if '</think>' in content %}").unwrap();
        let letters: Vec<char> = answer.chars().collect();
        let mut pieces: Vec<Parted> =
            letters.chunks(size).map(|piece| thoughts.push(&piece.iter().collect::<String>())).collect();
        pieces.push(thoughts.finish());
        pieces.into_iter().map(|piece| (piece.thought, piece.said)).unzip()
    }

    fn in_all_pieces(prompt: &str, answer: &str, thought: &str, said: &str) {
        for size in [1, 2, 5, 1000] {
            assert_eq!(part(prompt, answer, size), (thought.to_owned(), said.to_owned()), "{size}: {answer}");
        }
    }

    #[test]
    fn what_is_thought_is_parted_from_what_is_said() {
        in_all_pieces(
            "",
            "<think>\nHm. é <b>\n\nSo.\n</think>\n\nYes. <think>",
            "Hm. é <b>\n\nSo.",
            "Yes. <think>",
        );
        in_all_pieces("<|assistant|><think>\n", "Hm.</think>Yes.", "Hm.", "Yes.");
        in_all_pieces("", "<think>\n\n</think>\n\nYes.", "", "Yes.");
        // it thinks to the end of its limit
        in_all_pieces("", "<think>Hm. </thi", "Hm. </thi", "");
    }

    #[test]
    fn who_does_not_think_only_speaks() {
        in_all_pieces("", " Yes </think>.", "", " Yes </think>.");
        in_all_pieces("", "<thin", "", "<thin");
        assert!(Thoughts::behind("<think>", "{{ messages }}").is_none());
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(answer in "(<think>|</think>|[ab <\n]){0,10}", size in 1usize..4) {
            prop_assert_eq!(part("", &answer, size), part("", &answer, 1000));
        }
    }
}
