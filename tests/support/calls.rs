//! The commands that a page shows and that tests run, read from their texts.
//!
//! A test of the documentation compares both: see [`Call::is_run_as`].

/// Commands of which the next word is another command.
const GROUPS: [&str; 4] = ["keys", "keys ca", "bundle", "store"];

/// What the stories call `bramble` by, and how many words of their own stand behind it: the exit code that `run` wants.
const RUNNERS: [(&str, usize); 7] =
    [("bramble", 0), ("$bramble", 0), ("b", 0), ("typed", 0), ("run", 1), ("a", 1), ("l", 1)];

/// A command line of `bramble`, as far as it says what is tried.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// `apply`, `keys add`.
    pub(crate) verb: String,
    /// How many words stand between the verb and the first option.
    words: usize,
    /// The options as they are typed, and whether a list with commas stands behind them.
    options: Vec<(String, bool)>,
}

impl Call {
    /// Reads the words behind `bramble`; none where no verb is among them.
    pub(crate) fn of(words: &[String]) -> Option<Self> {
        let mut words = words;
        while let [option, _, rest @ ..] = words
            && (option == "-f" || option == "--file")
        {
            words = rest;
        }
        let (verb, mut rest) = words.split_first()?;
        let mut verb = verb.clone();
        while let [next, more @ ..] = rest
            && GROUPS.contains(&verb.as_str())
            && !next.starts_with('-')
        {
            // the last one may be a name: `keys ca` stands alone, too
            verb = format!("{verb} {next}");
            rest = more;
        }
        let is_option = |word: &String| word.starts_with('-');
        let options = rest.iter().enumerate().filter(|(_, word)| is_option(word)).map(|(at, word)| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let next = rest.get(at + 1).filter(|next| !is_option(next)).map_or(value, String::as_str);
            (name.to_owned(), next.contains(','))
        });
        let options = options.collect();
        let words = rest.iter().take_while(|word| !is_option(word)).count();
        Some(Self { verb, words, options })
    }

    /// Whether one command of a test tries all of this one: it has the same verb, each of the options, spelled alike, a
    /// list where this one has a list, and at least as many words (such as hosts) before its options. It may have more
    /// options; values are its own.
    pub(crate) fn is_run_as(&self, other: &Self) -> bool {
        let has = |(name, is_list): &(String, bool)| {
            other.options.iter().any(|(theirs, has_list)| theirs == name && (*has_list || !is_list))
        };
        self.verb == other.verb && self.words <= other.words && self.options.iter().all(has)
    }
}

/// Returns the calls in lines of a shell: in a page, a story or a program of tests/e2e.
///
/// A call is what one of [`RUNNERS`] begins, up to the end of its line or what joins it to another command. Lines of
/// comments, and what stands in a pattern of `case`, are none.
pub(crate) fn of_shell(text: &str) -> Vec<Call> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().filter(|line| !line.trim_start().starts_with('#'));
    let lines = lines.map(|line| line.split(" #").next().unwrap_or_default());
    let parts = lines.flat_map(|line| line.split("&&").flat_map(|part| part.split(['|', ';'])));
    parts.flat_map(|part| part.split("$(")).filter_map(of_part).collect()
}

fn of_part(part: &str) -> Option<Call> {
    if part.contains("*)") {
        return None;
    }
    let words = words(part);
    let is_before = |word: &String| {
        ["if", "!", "until", "while", "do", "then", "(", "{"].contains(&word.as_str())
            || word.split_once('=').is_some_and(|(name, _)| {
                !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            })
    };
    let at = words.iter().position(|word| !is_before(word))?;
    let (_, own) = RUNNERS.iter().find(|(name, _)| *name == words[at])?;
    let said = words.get(at + 1 + own..)?;
    let is_redirection =
        |word: &String| word.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with(['>', '<', '&']);
    let said: Vec<String> = said.iter().take_while(|word| !is_redirection(word)).cloned().collect();
    Call::of(&said)
}

/// Cuts a line into words; what stands between quotes is one.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quote) = (vec![String::new()], None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, ' ' | ')') => words.push(String::new()),
            _ => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Returns the calls in the text of a Rust test: lists of arguments, `&["prune", "--keep", "1"]` or `(["prune"])`, of
/// which the first is written out. A list elsewhere, such as one to go through, is none. What is not written out counts
/// as a word.
pub(crate) fn of_rust(text: &str) -> Vec<Call> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let mut calls = Vec::new();
    for (at, _) in text.match_indices('[') {
        let list = text[at + 1..].trim_start();
        if text[..at].ends_with(['&', '(']) && list.starts_with('"') {
            calls.extend(Call::of(&elements(list)));
        }
    }
    calls
}

/// Returns the elements of a list up to its end: the text of what is written out, `…` for others.
fn elements(list: &str) -> Vec<String> {
    let (mut elements, mut depth, mut rest) = (vec![String::new()], 0, list.chars());
    while let Some(c) = rest.next() {
        let element = elements.last_mut().unwrap();
        match c {
            '"' => {
                element.clear();
                while let Some(c) = rest.next().filter(|c| *c != '"') {
                    element.extend(if c == '\\' { rest.next() } else { Some(c) });
                }
            }
            ']' if depth == 0 => break,
            ',' if depth == 0 => elements.push(String::new()),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ if element.is_empty() && !c.is_whitespace() => element.push('…'),
            _ => {}
        }
    }
    elements.retain(|element| !element.is_empty());
    elements
}
