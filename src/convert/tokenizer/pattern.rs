//! Patterns by which a tokenizer cuts texts, as far as real ones go.
//!
//! They come from a stranger's file. What runs them writes calls of groups out, and repeats
//! what matches nothing as often as a pattern counts, so that a short one may take all memory
//! or never end. Real ones are made of characters, classes, groups and looks around, and
//! count to 512: what has more than that is not run.

use fancy_regex::{Regex, RegexBuilder};

/// The bytes of all patterns of a tokenizer; real ones have less than 1000.
const BYTES_LIMIT: usize = 8 << 10;

/// The pieces of all patterns of a tokenizer, where counts are written out; those of Trinity
/// come to some 1700, since it counts to 510 three times.
const PIECES_LIMIT: usize = 2048;

/// What a group or an assertion comes to beside a character, since it may go over no text.
const GROUP_PIECES: usize = 8;

/// How often a character or a class is repeated by count; Jais 2 has runs of 512 spaces.
const COUNT_LIMIT: usize = 512;

/// How often a group is repeated by count; Chameleon has 4.
const GROUP_COUNT_LIMIT: usize = 16;

/// How deep groups and classes are nested; real ones come to 3.
const NESTING_LIMIT: usize = 16;

/// How often a search goes back. The one text that is searched has some 400 bytes, and a real
/// pattern goes back a few times at each.
const BACKTRACK_LIMIT: usize = 10_000;

/// The instructions of a pattern; real ones have some 100.
const PROGRAM_LIMIT: usize = 4096;

/// The bytes of each part that is made into an automaton: the limit that it has anyway.
const PART_LIMIT: usize = 10 << 20;

/// How the groups of real patterns begin, where they are more than a bracket.
const GROUPS: [&str; 7] = ["?:", "?=", "?!", "?<=", "?<!", "?>", "?i:"];

/// The patterns of one tokenizer, which are held to limits together.
#[derive(Default)]
pub(super) struct Patterns {
    bytes: usize,
    pieces: usize,
}

impl Patterns {
    /// Returns what runs the next pattern; none where no real tokenizer has one like it.
    pub(super) fn compile(&mut self, pattern: &str) -> Option<Regex> {
        self.admit(pattern)?;
        let mut builder = RegexBuilder::new(pattern);
        builder.backtrack_limit(BACKTRACK_LIMIT).max_prog_size(PROGRAM_LIMIT).delegate_size_limit(PART_LIMIT);
        builder.build().ok()
    }

    fn admit(&mut self, pattern: &str) -> Option<()> {
        self.bytes = self.bytes.saturating_add(pattern.len());
        if self.bytes > BYTES_LIMIT {
            return None;
        }
        self.pieces += written_out(pattern)?;
        (self.pieces <= PIECES_LIMIT).then_some(())
    }
}

/// Returns the pieces of a pattern where counts are written out, at most [`PIECES_LIMIT`]; none
/// where it has what no real one has.
fn written_out(pattern: &str) -> Option<usize> {
    let mut reader = Reader { rest: pattern };
    // the pieces of the groups that are open, the innermost last
    let mut open = vec![0];
    // what a repetition would repeat: its pieces, and how often they may be counted
    let mut last: Option<(usize, usize)> = None;
    while let Some(character) = reader.character() {
        last = match character {
            '(' => {
                reader.group()?;
                open.push(GROUP_PIECES);
                None
            }
            ')' => {
                let pieces = open.pop()?;
                *open.last_mut()? += pieces;
                Some((pieces, GROUP_COUNT_LIMIT))
            }
            '|' => None,
            '*' | '+' | '?' | '{' => {
                let (pieces, limit) = last?;
                let count = if character == '{' { reader.count()? } else { 1 };
                if count > limit {
                    return None;
                }
                *open.last_mut()? += pieces * (count - 1);
                // as few as will do, or never fewer than there were
                if !reader.take("?") {
                    reader.take("+");
                }
                None
            }
            _ => {
                let is_text = match character {
                    '[' => reader.class().map(|()| true),
                    '\\' => reader.escape(),
                    '^' | '$' => Some(false),
                    _ => Some(true),
                }?;
                *open.last_mut()? += if is_text { 1 } else { GROUP_PIECES };
                is_text.then_some((1, COUNT_LIMIT))
            }
        };
        if open.len() > NESTING_LIMIT + 1 || *open.last()? > PIECES_LIMIT {
            return None;
        }
    }
    match open.as_slice() {
        [pieces] => Some(*pieces),
        _ => None,
    }
}

/// A pattern as it is read, in the order in which `fancy-regex` reads it.
struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn character(&mut self) -> Option<char> {
        let mut characters = self.rest.chars();
        let next = characters.next();
        self.rest = characters.as_str();
        next
    }

    /// Takes a text if it comes next; tells whether it did.
    fn take(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Takes what a group begins with, behind its bracket.
    fn group(&mut self) -> Option<()> {
        let is_known = !self.rest.starts_with('?') || GROUPS.iter().any(|start| self.take(start));
        is_known.then_some(())
    }

    /// Takes a class up to its end; others may be nested in it.
    fn class(&mut self) -> Option<()> {
        let mut depth = 1;
        self.begin_class();
        while depth > 0 {
            match self.character()? {
                '[' if depth < NESTING_LIMIT => {
                    depth += 1;
                    self.begin_class();
                }
                '[' => return None,
                ']' => depth -= 1,
                '\\' => {
                    self.escape()?;
                }
                _ => {}
            }
        }
        Some(())
    }

    /// A bracket that stands first in a class is a character of it.
    fn begin_class(&mut self) {
        self.take("^");
        self.take("]");
    }

    /// Takes what stands behind a backslash; tells whether it goes over text, as all but
    /// assertions do. Calls of groups and what refers to them are not known.
    fn escape(&mut self) -> Option<bool> {
        match self.character()? {
            'p' | 'P' | 'x' | 'u' => self.name().map(|()| true),
            'A' | 'B' | 'G' | 'Z' | 'b' | 'z' | '<' | '>' => Some(false),
            'D' | 'H' | 'S' | 'W' | 'd' | 'f' | 'h' | 'n' | 'r' | 's' | 't' | 'v' | 'w' => Some(true),
            other => (!other.is_ascii_alphanumeric()).then_some(true),
        }
    }

    /// Takes the name of a class or the number of a character: in braces, or its first letter.
    fn name(&mut self) -> Option<()> {
        if !self.take("{") {
            return self.character().filter(char::is_ascii_alphanumeric).map(|_| ());
        }
        let (name, rest) = self.rest.split_once('}')?;
        self.rest = rest;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_^=-".contains(&byte);
        name.bytes().all(is_plain).then_some(())
    }

    /// Takes a count behind its brace, `3}`, `3,}` or `1,3}`; returns the largest number, 1 at
    /// least.
    fn count(&mut self) -> Option<usize> {
        let (count, rest) = self.rest.split_once('}')?;
        self.rest = rest;
        let (least, most) = count.split_once(',').unwrap_or((count, ""));
        let least = number(least)?;
        let most = if most.is_empty() { least } else { number(most)? };
        (least <= most).then_some(most.max(1))
    }
}

fn number(digits: &str) -> Option<usize> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
    const PUNCTUATION: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

    /// The patterns of real tokenizers, those of one on a line.
    const REAL: [&[&str]; 16] = [
        // Falcon, StarCoder
        &[r"[\p{P}\$\+<=>\^~\|`]+", WORDS, "[0-9][0-9][0-9]"],
        &[r"\p{N}", WORDS],
        // Llama 3, Qwen 2, BLOOM
        &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        &[r" ?[^(\s|[.,!?…。，、।۔،])]+"],
        // GPT-4o, Tekken, Kimi K2
        &[
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        &[
            r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+|[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))+((?=[\p{L}])([^A-Z]))*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        &[r"[\p{Han}]+|[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{M}&&[^\p{Han}]]+|\s+"],
        // DeepSeek V3, Coder, Youtu
        &[r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", PUNCTUATION],
        &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\s+$", r"\p{N}"],
        &[r"[가-힣ㄱ-ㆎ]+|[！…“”‘’：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"],
        // Jais 2, Trinity
        &[
            r"(?i:'s|'d)|\p{N}{1,3}|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
        ],
        &[
            r"\p{Nd}{1,510}(?=(?>\p{Nd}{510})*(?:\P{Nd}|$))|\G\p{Nd}{510}",
            r"\A\p{Nd}{1,2}(?=\p{Nd}{3}+\z)",
            r"\A\p{Nd}{3}|\G\p{Nd}{3}",
            PUNCTUATION,
        ],
        // SuperBPE, Tiny Aya, Ling
        &[r"\p{N}+", r"(?=(\d{3})+(?!\d))", r"\d{1,3}(?=(?:\d{3})*\b)"],
        &[
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        ],
        // Chameleon, and looks behind
        &["(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", r"(?<!\n)^ ", r"(?<=[\u0980-\u09ff]):"],
    ];

    #[test]
    fn what_real_tokenizers_have_is_run() {
        for patterns in REAL {
            let mut all = Patterns::default();
            for pattern in patterns {
                assert!(all.admit(pattern).is_some(), "{pattern}");
            }
        }
        assert!(Patterns::default().compile(WORDS).is_some());
    }

    #[test]
    fn what_may_take_all_memory_or_never_end_is_not_run() {
        let strange = [
            // calls of groups, and what refers to them
            r"(a|b\g<1>)",
            r"[a]\g<0>",
            r"(?P>a)(?<a>b)",
            r"(a)\1",
            r"(?<a>b)\k<a>",
            r"(?P<a>b)",
            "(?(1)a|b)",
            "(?~a)",
            "(?R)",
            "(*FAIL)",
            // what changes how the rest is read
            "(?x)a",
            "a(?#b)",
            r"\p[a]",
            r"[\p{]}]",
            // counts
            r"((?=\n)){9223372036854775807}",
            r"((?=\n)){17}",
            r"(?:((?=\n)){16}|b){16}",
            "a{513}",
            "(?:a{512}){5}",
            "a{600,}",
            "a{3,1}",
            "a{,3}",
            "a{99999999999999999999}",
            // what is no pattern, or none that is written so
            "a**",
            "(?:a",
            "a)",
            "[a",
            r"a\",
        ];
        for pattern in strange {
            assert!(Patterns::default().compile(pattern).is_none(), "{pattern}");
        }
        let nested = |depth: usize| format!("{}a{}", "(".repeat(depth), ")".repeat(depth));
        assert!(written_out(&nested(16)).is_some() && written_out(&nested(17)).is_none());
        let classes = |depth: usize| format!("{}a{}", "[".repeat(depth), "]".repeat(depth));
        assert!(written_out(&classes(16)).is_some() && written_out(&classes(17)).is_none());
    }

    #[test]
    fn the_patterns_of_a_tokenizer_are_held_to_limits_together() {
        let mut all = Patterns::default();
        assert!((0..4).all(|_| all.admit("a{512}").is_some()));
        assert!(all.admit("a").is_none());
        let long = format!("[{}]", "a".repeat(5000));
        let mut all = Patterns::default();
        assert!(all.admit(&long).is_some() && all.admit(&long).is_none());
    }

    #[test]
    fn a_search_that_goes_back_and_back_ends() {
        let pattern = Patterns::default().compile("(a|aa)+b(?!c)").unwrap();
        assert!(pattern.find("aab").unwrap().is_some());
        assert!(pattern.find(&"a".repeat(22)).is_err());
    }
}
