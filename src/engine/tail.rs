/// The end of an answer that is not given out yet: bytes that are no whole character,
/// and text that may be the beginning of a stop string.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail {
    stops: Vec<String>,
    bytes: Vec<u8>,
    held: String,
    /// Bytes of a stop string that was met, and of what came after it.
    cut: usize,
}

/// What a piece of an answer led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pushed {
    /// Text that may be given out.
    pub(super) text: String,
    /// A stop string was met: the answer is over.
    pub(super) is_stopped: bool,
}

impl Tail {
    /// Watches for `stops`; empty ones are passed over.
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self {
            stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(),
            bytes: Vec::new(),
            held: String::new(),
            cut: 0,
        }
    }

    /// Takes the bytes of one token.
    pub(super) fn push(&mut self, piece: &[u8]) -> Pushed {
        self.bytes.extend_from_slice(piece);
        self.decode(false);
        if let Some(start) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            // half a character may have come with it
            self.cut = self.held.len() - start + std::mem::take(&mut self.bytes).len();
            self.held.truncate(start);
            return Pushed { text: std::mem::take(&mut self.held), is_stopped: true };
        }
        let rest = self.held.split_off(self.held.len() - self.suspicious());
        Pushed { text: std::mem::replace(&mut self.held, rest), is_stopped: false }
    }

    /// Returns how many of the bytes that were pushed are not given out.
    pub(super) fn kept(&self) -> usize {
        self.bytes.len() + self.held.len() + self.cut
    }

    /// Returns what is left when the answer ends by itself. Bytes that never became a
    /// character are shown as U+FFFD.
    pub(super) fn finish(&mut self) -> String {
        self.decode(true);
        std::mem::take(&mut self.held)
    }

    /// Moves whole characters from `bytes` to `held`, and all of them `at_end`.
    fn decode(&mut self, at_end: bool) {
        let mut rest = self.bytes.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.held.push_str(text);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    self.held.push_str(&String::from_utf8_lossy(good));
                    match error.error_len() {
                        None if !at_end => {
                            rest = bad;
                            break;
                        }
                        length => {
                            self.held.push(char::REPLACEMENT_CHARACTER);
                            rest = &bad[length.unwrap_or(bad.len())..];
                        }
                    }
                }
            }
        }
        self.bytes = rest.to_vec();
    }

    /// Returns the length of the longest end of `held` that a stop string begins with.
    fn suspicious(&self) -> usize {
        let held = self.held.as_bytes();
        let of = |stop: &String| {
            let stop = stop.as_bytes();
            let longest = stop.len().saturating_sub(1).min(held.len());
            (1..=longest).rev().find(|&n| held.ends_with(&stop[..n])).unwrap_or(0)
        };
        // A stop string begins with a whole character, and so does what equals its
        // beginning: the cut is never within one.
        self.stops.iter().map(of).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, bool) {
        let mut tail = Tail::new(stops.iter().map(|&stop| stop.to_owned()).collect());
        let mut out = Vec::new();
        for piece in pieces {
            let pushed = tail.push(piece);
            out.push(pushed.text);
            if pushed.is_stopped {
                return (out, true);
            }
        }
        out.push(tail.finish());
        (out, false)
    }

    #[test]
    fn a_stop_string_over_token_borders_ends_the_answer_before_it() {
        let (out, stopped) = run(&["</end>"], &[b"hi <", b"/e", b"nd", b"> more"]);
        assert!(stopped);
        assert_eq!(out, ["hi ", "", "", ""]);
    }

    #[test]
    fn it_tells_how_much_it_keeps() {
        let mut tail = Tail::new(vec!["stop".to_owned()]);
        let kept = |tail: &mut Tail, piece: &[u8]| {
            tail.push(piece);
            tail.kept()
        };
        assert_eq!(kept(&mut tail, b"a s"), 1);
        assert_eq!(kept(&mut tail, b"o \xc3"), 1);
        assert_eq!(kept(&mut tail, b"\xa9"), 0);
        assert_eq!(kept(&mut tail, b"now stopping"), "stopping".len());
    }

    #[test]
    fn half_a_character_behind_a_stop_string_is_no_text() {
        let mut tail = Tail::new(vec!["</".to_owned()]);
        let pushed = tail.push(b"a</thi\xc3");
        assert_eq!((pushed.text.as_str(), pushed.is_stopped), ("a", true));
        assert_eq!(tail.kept(), b"</thi\xc3".len());
        assert_eq!(tail.finish(), "");
    }

    #[test]
    fn what_turns_out_to_be_no_stop_string_is_given_out() {
        let (out, stopped) = run(&["</end>"], &[b"a <", b"/e", b"m>"]);
        assert!(!stopped);
        assert_eq!(out, ["a ", "", "</em>", ""]);
        assert_eq!(run(&["aab"], &[b"aa", b"a", b"c"]).0, ["", "a", "aac", ""]);
    }

    #[test]
    fn the_first_of_several_stop_strings_wins() {
        assert_eq!(run(&["two", "one"], &[b"zero one two"]), (vec!["zero ".to_owned()], true));
    }

    #[test]
    fn characters_are_never_cut() {
        let smile = "😀é".as_bytes();
        let pieces: Vec<&[u8]> = smile.chunks(1).collect();
        let (out, _) = run(&[], &pieces);
        assert_eq!(out.concat(), "😀é");
        assert!(out.iter().all(|text| ["", "😀", "é"].contains(&text.as_str())));
    }

    #[test]
    fn broken_bytes_become_replacement_characters() {
        assert_eq!(run(&[], &[b"a\xff", b"b\xe2\x82"]).0.concat(), "a\u{fffd}b\u{fffd}");
    }

    proptest! {
        #[test]
        fn the_text_is_what_comes_before_the_first_stop_string(
            text in "[ab\u{e9}]{0,24}", stop in "[ab\u{e9}]{1,4}", size in 1usize..5,
        ) {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let (out, stopped) = run(&[&stop], &pieces);
            prop_assert_eq!(out.concat(), text.split(stop.as_str()).next().unwrap_or_default());
            prop_assert_eq!(stopped, text.contains(&stop));
        }
    }
}
