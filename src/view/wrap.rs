//! Lines that fit where they are read: cut between words, colours counted as no width, wide characters as two columns.

use textwrap::core::{Word, display_width};
use textwrap::{Options, WordSeparator, WordSplitter, WrapAlgorithm};

/// Narrower than this, nothing is cut: a word a line is no text.
const NARROWEST: usize = 20;

/// What a line may begin with, before what it says.
const SIGNS: [&str; 9] = ["+", "~", "-", "!", "x", "ok", ">", "*", "="];

/// What stays with the number before it.
const UNITS: [&str; 25] = [
    "%",
    "B",
    "B/s",
    "GB",
    "GB/s",
    "GiB",
    "GiB/s",
    "KiB",
    "KiB/s",
    "M",
    "MB",
    "MB/s",
    "Mbit/s",
    "MiB",
    "MiB/s",
    "TiB",
    "bits",
    "bits/byte",
    "min",
    "s",
    "slot",
    "slots",
    "tok/s",
    "tokens",
    "°C",
];

/// Returns `text` with each line that is wider than `width` cut between words. What goes on is indented below what the
/// line says, behind its sign. Neither a command, in backquotes or alone on its line, nor a number and its unit is cut.
pub fn folded(text: &str, width: Option<usize>) -> String {
    let Some(width) = width.filter(|width| *width >= NARROWEST) else { return text.to_owned() };
    let (mut out, mut open) = (String::with_capacity(text.len()), String::new());
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        let lines = if display_width(line) <= width || is_command(line) {
            recoloured(&[line], 0, &mut open)
        } else {
            let margin = " ".repeat(margin(line).min(width / 3));
            let options = options(width).subsequent_indent(&margin).break_words(false);
            recoloured(&textwrap::wrap(line, options), margin.len(), &mut open)
        };
        out.push_str(&lines.join("\n"));
        out.push_str(end);
    }
    out
}

/// Returns as much of a line without colours as there is room for, with `…` in place of the rest.
pub fn cut(line: &str, width: Option<usize>) -> String {
    let Some(width) = width.filter(|width| *width >= NARROWEST && display_width(line) > *width) else {
        return line.to_owned();
    };
    let fits = |(at, c): &(usize, char)| display_width(&line[..at + c.len_utf8()]) < width;
    let cut: String = line.char_indices().take_while(fits).map(|(_, c)| c).collect();
    cut.trim_end().to_owned() + "…"
}

/// Returns whether a line is there to be copied whole.
fn is_command(line: &str) -> bool {
    uncoloured(line).trim_start().starts_with("bramble ")
}

/// Returns the columns before what a line says, or two more than its indent where it has no sign.
fn margin(line: &str) -> usize {
    let line = uncoloured(line);
    let rest = line.trim_start_matches(' ');
    let indent = line.len() - rest.len();
    match rest.split_once(' ') {
        Some((sign, says)) if SIGNS.contains(&sign) => {
            indent + sign.len() + 1 + (says.len() - says.trim_start_matches(' ').len())
        }
        _ => indent + 2,
    }
}

/// Cuts one line into lines of at most `width` columns, between words; a word that is longer has a line to itself.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() {
        return Vec::new();
    }
    recoloured(&textwrap::wrap(&text, options(width).break_words(false)), 0, &mut String::new())
}

/// Cuts what a cell says into lines of at most `width` columns, also within a word where that is longer.
pub(super) fn wrap_cell(cell: &str, width: usize) -> Vec<String> {
    recoloured(&textwrap::wrap(cell, options(width)), 0, &mut String::new())
}

/// Returns the columns of the widest part of `cell` that is only cut where there is no other way.
pub(super) fn widest_piece(cell: &str) -> usize {
    pieces(cell).map(|piece| display_width(&piece)).max().unwrap_or(0)
}

fn options(width: usize) -> Options<'static> {
    Options::new(width)
        .word_separator(WordSeparator::Custom(pieces))
        .word_splitter(WordSplitter::NoHyphenation)
        .wrap_algorithm(WrapAlgorithm::FirstFit)
}

/// Cuts a line between words, but for commands in backquotes, numbers with their units, and a sign that it begins with.
fn pieces(line: &str) -> Box<dyn Iterator<Item = Word<'_>> + '_> {
    let mut words: Vec<(usize, &str)> = Vec::new();
    let mut at = line.len() - line.trim_start_matches(' ').len();
    while let Some(rest) = line.get(at..).filter(|rest| !rest.is_empty()) {
        let end = word_end(rest);
        words.push((at, &rest[..end]));
        at += end + (rest[end..].len() - rest[end..].trim_start_matches(' ').len());
    }
    let mut starts: Vec<usize> = vec![0];
    for (number, pair) in words.windows(2).enumerate() {
        let (before, after) = (uncoloured(pair[0].1), uncoloured(pair[1].1));
        let is_sign = number == 0 && SIGNS.contains(&before.as_str());
        if !is_sign && !is_amount(&before, &after) {
            starts.push(pair[1].0);
        }
    }
    let ends: Vec<usize> = starts[1..].iter().copied().chain([line.len()]).collect();
    Box::new(starts.into_iter().zip(ends).map(|(start, end)| Word::from(&line[start..end])))
}

/// Returns where the first word of `text` ends; spaces between two backquotes are within it.
fn word_end(text: &str) -> usize {
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            ' ' => return at,
            '`' => {
                if let Some(length) = text[at + 1..].find('`') {
                    chars = text[at + length + 2..].char_indices();
                    return at + length + 2 + word_end(chars.as_str());
                }
            }
            _ => {}
        }
    }
    text.len()
}

fn is_amount(number: &str, unit: &str) -> bool {
    let number = number.trim_start_matches(['(', '~', '-', '+']);
    let is_number = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit() || c == '.');
    is_number && UNITS.contains(&unit.trim_end_matches([',', ';', '.', ':', ')', '*']))
}

/// Gives each line its own colours, so that none runs on over what stands beside or before the next one. `open` is the
/// colour before and after them.
fn recoloured(lines: &[impl AsRef<str>], margin: usize, open: &mut String) -> Vec<String> {
    let mut out = Vec::with_capacity(lines.len());
    for line in lines {
        let line = line.as_ref();
        // the margin is ours, and has no colour
        let margin = if out.is_empty() { 0 } else { margin };
        let mut whole = format!("{}{open}{}", &line[..margin], &line[margin..]);
        for part in line.split('\x1b').skip(1) {
            if let Some(code) = part.strip_prefix('[').and_then(|rest| Some(rest.split_once('m')?.0)) {
                *open = if code == "0" { String::new() } else { format!("\x1b[{code}m") };
            }
        }
        if !open.is_empty() {
            whole.push_str("\x1b[0m");
        }
        out.push(whole);
    }
    out
}

/// Takes the colours out of a text of ours.
fn uncoloured(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    first + &parts.filter_map(|part| Some(part.split_once('m')?.1)).collect::<String>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_cut_between_words() {
        assert_eq!(wrap("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrap("unbreakable x", 4), ["unbreakable", "x"]);
        assert_eq!(wrap("°C °C", 5), ["°C °C"]);
        assert_eq!(wrap("漢字 漢字", 7), ["漢字", "漢字"]);
        assert_eq!(wrap("  ", 5), Vec::<String>::new());
    }

    #[test]
    fn commands_amounts_and_signs_stay_whole() {
        assert_eq!(wrap("say `bramble plan` now", 10), ["say", "`bramble plan`", "now"]);
        assert_eq!(wrap("(`a b`, c) and ` d", 7), ["(`a b`,", "c) and", "` d"]);
        assert_eq!(wrap("of 7.2 GiB, more", 6), ["of", "7.2 GiB,", "more"]);
        assert_eq!(wrap("4 of 5", 4), ["4 of", "5"]);
        assert_eq!(wrap_cell("> Q4_K_M", 8), ["> Q4_K_M"]);
    }

    #[test]
    fn what_goes_on_stands_below_what_the_line_says() {
        let folded = |text| folded(text, Some(24));
        assert_eq!(folded("short\n"), "short\n");
        assert_eq!(folded("x  kitchen  the wire is cut\nok\n"), "x  kitchen  the wire is\n   cut\nok\n");
        assert_eq!(folded("  > auto takes what fits best"), "  > auto takes what fits\n    best");
        assert_eq!(folded("The next plan counts with these."), "The next plan counts\n  with these.");
        assert_eq!(
            folded("run `bramble bundle import site.bramble` there"),
            "run\n  `bramble bundle import site.bramble`\n  there"
        );
    }

    #[test]
    fn nothing_is_cut_where_nobody_looks_or_nothing_has_room_or_it_is_to_be_copied() {
        let long = "a long line that no terminal of nineteen columns can show";
        assert_eq!(folded(long, None), long);
        assert_eq!(folded(long, Some(19)), long);
        let command = "Then:\n  bramble init --host pi@192.168.1.20\n";
        assert_eq!(folded(command, Some(20)), command);
    }

    #[test]
    fn what_must_stay_on_its_line_is_cut_off() {
        assert_eq!(cut("12 | context: 512  # tokens", Some(20)), "12 | context: 512…");
        assert_eq!(cut("12 | 漢字漢字漢字漢字", Some(20)), "12 | 漢字漢字漢字漢…");
        assert_eq!(cut("12 | context: 512", Some(20)), "12 | context: 512");
    }

    #[test]
    fn a_colour_goes_on_and_does_not_reach_the_margin() {
        let lines = wrap_cell("a \x1b[31mred one\x1b[0m here", 6);
        assert_eq!(lines, ["a \x1b[31mred\x1b[0m", "\x1b[31mone\x1b[0m", "here"]);
        let text = folded("  \x1b[2mdim words that go on and on\x1b[0m\n", Some(20));
        assert_eq!(text, "  \x1b[2mdim words that go\x1b[0m\n    \x1b[2mon and on\x1b[0m\n");
        // it may go on over lines of ours, too
        assert_eq!(folded("\x1b[2mone\ntwo\x1b[0m\n", Some(20)), "\x1b[2mone\x1b[0m\n\x1b[2mtwo\x1b[0m\n");
    }

    proptest! {
        /// Nothing is lost, and no line is wider than it may be but for one piece.
        #[test]
        fn folding_keeps_every_word(text in "([a-z漢`]{1,9} {1,2}){0,30}", width in 20_usize..60) {
            let folded = folded(&text, Some(width));
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(words(&folded), words(&text));
            for line in folded.lines().filter(|_| !text.contains('`')) {
                prop_assert!(display_width(line.trim_end()) <= width, "{:?}", line);
            }
        }
    }
}
