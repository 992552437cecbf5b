//! What of a text may reach a terminal. Models, hosts, hubs and their programs may say anything, also what moves
//! the cursor, sets a title, fills the clipboard, or shows words in another order than they have.
//!
//! What is foreign goes through [`text`] or [`line`] where it becomes a part of what we say. What we say goes through
//! [`coloured`] on its way out, and JSON through [`json`]: so that what was forgotten is harmless, too.

use std::fmt::Write as _;

/// The colours that we use, by their code (SGR), and the code that ends them.
pub const COLOURS: [&str; 6] = ["0", "1", "2", "31", "32", "33"];

/// Returns whether `c` may stand in a name or a fact: it is seen, and turns no text round.
pub fn is_plain(c: char) -> bool {
    !c.is_control() && !is_turning(c) && !is_invisible(c) && !matches!(c, '\u{200c}'..='\u{200f}')
}

/// Embeds, overrides and isolates a direction, for more than its own word.
fn is_turning(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Is neither seen nor part of how a language is written. Joiners (U+200C, U+200D) and marks of a direction (U+200E,
/// U+200F) are: Persian, Hindi, Hebrew and many emoji need them.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{200b}'
            | '\u{2028}'..='\u{2029}'
            | '\u{2060}'..='\u{2065}'
            | '\u{206a}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// Returns foreign text with its lines and tabs, without what could drive a terminal or hide.
pub fn text(text: &str) -> String {
    text.chars()
        .filter(|c| matches!(c, '\n' | '\t') || !(c.is_control() || is_turning(*c) || is_invisible(*c)))
        .collect()
}

/// Returns foreign text as one line.
pub fn line(foreign: &str) -> String {
    text(foreign).replace(['\n', '\t'], " ")
}

/// Returns a text of ours without all that drives a terminal but [`COLOURS`].
pub fn coloured(ours: &str) -> String {
    let mut parts = ours.split('\x1b');
    let mut out = text(parts.next().unwrap_or_default());
    for part in parts {
        let ours = part.strip_prefix('[').and_then(|rest| rest.split_once('m'));
        if let Some((code, rest)) = ours
            && COLOURS.contains(&code)
        {
            out.push_str("\x1b[");
            out.push_str(code);
            out.push('m');
            out.push_str(&text(rest));
        } else {
            out.push_str(&text(part));
        }
    }
    out
}

/// Returns JSON that says the same, with what could drive a terminal escaped: JSON itself lets U+009B stand, which
/// begins sequences as the escape does.
pub fn json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        if c == '\n' || !(c.is_control() || is_turning(c) || is_invisible(c)) {
            out.push(c);
            continue;
        }
        // only a text in it can have one of these
        for unit in c.encode_utf16(&mut units) {
            // writing to a String cannot fail
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A title, the clipboard, a link, the cursor, the screen, each in its long and its short form, and texts that turn round.
    const HOSTILE: [&str; 9] = [
        "\x1b]0;owned\x07",
        "\x1b]52;c;cm0gLXJm\x1b\\",
        "\x1b]8;;http://evil/\x1b\\kitchen\x1b]8;;\x1b\\",
        "\x1b[2J\x1b[H",
        "\u{9b}31m",
        "\u{9d}0;owned\u{9c}",
        "\x1bP$q\x1b\\",
        "gnp.\u{202e}exe\u{2066}",
        "a\rok kitchen\x08\x7f",
    ];

    fn is_harmless(text: &str) -> bool {
        !text.chars().any(|c| (c.is_control() && !matches!(c, '\n' | '\t')) || is_turning(c))
    }

    #[test]
    fn nothing_foreign_drives_a_terminal() {
        for hostile in HOSTILE {
            assert!(is_harmless(&text(hostile)), "{hostile:?}");
            assert!(is_harmless(&line(hostile)) && !line(hostile).contains('\n'), "{hostile:?}");
            assert!(is_harmless(&coloured(hostile)), "{hostile:?}");
            let written = serde_json::to_string(hostile).unwrap();
            assert!(is_harmless(&json(&written)), "{hostile:?}");
            assert_eq!(serde_json::from_str::<String>(&json(&written)).unwrap(), hostile);
        }
        assert_eq!(text("a\n\tb"), "a\n\tb");
        assert_eq!(line("a\n\tb\n"), "a  b ");
    }

    #[test]
    fn what_languages_are_written_with_stays() {
        for good in ["می\u{200c}خواهم", "👩\u{200d}👧", "שלום\u{200f}!", "क्\u{200d}ष", "naïve — 漢字"]
        {
            assert_eq!(text(good), good);
        }
        assert!(!is_plain('\u{200d}') && is_plain('é'));
    }

    #[test]
    fn our_colours_stay_and_no_other_sequence() {
        assert_eq!(coloured("\x1b[31mx\x1b[0m y\n"), "\x1b[31mx\x1b[0m y\n");
        assert_eq!(coloured("\x1b[31;5mx\x1b[5my\x1b[38mz\x1b[m\x1b"), "[31;5mx[5my[38mz[m");
        assert_eq!(coloured("\x1b\x1b[1mx\x1b[0m"), "\x1b[1mx\x1b[0m");
    }

    proptest! {
        #[test]
        fn whatever_is_said_drives_nothing(said in any::<String>()) {
            prop_assert!(is_harmless(&text(&said)));
            let out = coloured(&said);
            for part in out.split('\x1b').skip(1) {
                let code = part.strip_prefix('[').and_then(|rest| rest.split_once('m'));
                prop_assert!(code.is_some_and(|(code, _)| COLOURS.contains(&code)));
            }
            prop_assert!(is_harmless(&out.replace('\x1b', "")));
            let written = serde_json::to_string_pretty(&[&said]).unwrap();
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&json(&written)).unwrap(), vec![said]);
        }
    }
}
