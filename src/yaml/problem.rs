//! Faults and how they are shown.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::node::Span;
use crate::terminal;

/// The most problems that are kept; the rest is counted.
pub const MAX_KEPT: usize = 200;

/// The widest excerpt that is shown, in characters.
const MAX_EXCERPT: usize = 100;

/// What sort of fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It cannot be read at all.
    Syntax,
    /// The same key twice.
    Duplicate,
    /// A key that nothing has.
    UnknownKey,
    /// A key or value that must be there and is not.
    Missing,
    /// A value of the wrong form.
    Invalid,
    /// A name of something that is not in the file.
    UnknownName,
    /// Two things that do not go together.
    Conflict,
    /// Right, and not supported yet.
    NotYet,
}

/// One fault, before its place is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub(crate) kind: Kind,
    pub(crate) span: Span,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    pub(crate) is_secret: bool,
}

impl Problem {
    pub(crate) fn new(kind: Kind, span: Span, message: impl Into<String>) -> Self {
        Self { kind, span, message: message.into(), help: None, is_secret: false }
    }

    /// Adds what to write instead.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Offers `word`, where there is one near enough.
    #[must_use]
    pub(crate) fn did_you_mean(self, word: Option<&str>) -> Self {
        match word {
            Some(word) => self.help(format!("did you mean `{word}`?")),
            None => self,
        }
    }

    /// Keeps the text at the place out of what is shown.
    #[must_use]
    pub(crate) fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }
}

/// One fault with its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// What sort of fault it is.
    pub kind: Kind,
    /// What is wrong, as a lower-case sentence.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    /// The line; 1 is the first.
    pub line: usize,
    /// The column in characters; 1 is the first.
    pub column: usize,
    /// The bytes of the text that it is about.
    #[serde(serialize_with = "as_pair")]
    pub span: Span,
    /// The line itself or, if it is long, the part around the place; control characters replaced.
    pub excerpt: String,
    /// The first character of the place in `excerpt`, from 0.
    pub excerpt_start: usize,
    /// The characters of the place in `excerpt`; 1 or more.
    pub excerpt_length: usize,
}

fn as_pair<S: serde::Serializer>(span: &Span, serializer: S) -> Result<S::Ok, S::Error> {
    [span.start, span.end].serialize(serializer)
}

/// Every fault of one file, in the order of their places. `Display` is [`Problems::render`] without colour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problems {
    /// The file as it was named.
    pub file: String,
    /// How many there are.
    pub count: usize,
    /// The first of them, at most [`MAX_KEPT`].
    pub problems: Vec<Place>,
}

impl std::error::Error for Problems {}

impl Problems {
    /// Looks up the places of `problems` in `text`.
    pub(crate) fn new(file: &str, text: &str, mut problems: Vec<Problem>, count: usize) -> Self {
        problems.sort_by_key(|problem| problem.span);
        let problems = problems.iter().map(|problem| place(text, problem)).collect();
        Self { file: clean(file), count, problems }
    }

    /// Returns whether every fault is of this kind.
    pub fn are_all(&self, kind: Kind) -> bool {
        self.count == self.problems.len() && self.problems.iter().all(|problem| problem.kind == kind)
    }

    /// Returns the text for people, each fault with its line and a caret, and the count at the end.
    pub fn render(&self, is_coloured: bool) -> String {
        let paint = |code: &'static str| if is_coloured { code } else { "" };
        let (red, blue, green) = (paint("\u{1b}[1;31m"), paint("\u{1b}[1;34m"), paint("\u{1b}[1;32m"));
        let (bold, plain) = (paint("\u{1b}[1m"), paint("\u{1b}[0m"));
        let mut out = String::new();
        // writing to a String cannot fail
        for at in &self.problems {
            let not_yet = if at.kind == Kind::NotYet { "not supported yet: " } else { "" };
            let number = at.line.to_string();
            let margin = " ".repeat(number.len());
            let lead = " ".repeat(at.excerpt_start);
            let carets = "^".repeat(at.excerpt_length);
            let _ = writeln!(
                out,
                "{red}error{plain}{bold}: {}:{}:{}: {not_yet}{}{plain}",
                self.file, at.line, at.column, at.message
            );
            let _ = writeln!(out, " {blue}{margin} |{plain}");
            let _ = writeln!(out, " {blue}{number} |{plain} {}", at.excerpt);
            let _ = writeln!(out, " {blue}{margin} |{plain} {lead}{red}{carets}{plain}");
            if let Some(help) = &at.help {
                let _ = writeln!(out, " {blue}{margin} ={plain} {green}help{plain}: {help}");
            }
            out.push('\n');
        }
        let hidden = self.count - self.problems.len();
        if hidden > 0 {
            let _ = writeln!(out, "… and {hidden} more");
        }
        let noun = if self.count == 1 { "problem" } else { "problems" };
        let _ = writeln!(out, "{} {noun} in {}", self.count, self.file);
        out
    }

    /// Returns the value for programs: `{file, count, problems: [{kind, message, help, line, column, span, …}]}`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// Returns line and column of a byte, both from 1, the column in characters.
pub(super) fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let at = text.floor_char_boundary(at);
    let before = &text[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.bytes().filter(|&b| b == b'\n').count() + 1;
    let column = before[line_start..].trim_start_matches('\u{feff}').chars().count() + 1;
    (line, column)
}

fn place(text: &str, problem: &Problem) -> Place {
    let (line, column) = line_and_column(text, problem.span.start);
    let start = text.floor_char_boundary(problem.span.start);
    let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
    // a line of a hostile file may be the whole file
    let whole = text[line_start..line_end].trim_start_matches('\u{feff}').trim_end();
    let end = text.floor_char_boundary(problem.span.end).clamp(start, line_end);
    let length = text[start..end].chars().count().max(1);

    let first = if column > MAX_EXCERPT * 2 / 3 { column - MAX_EXCERPT / 3 } else { 0 };
    let mut excerpt: Vec<char> = whole.chars().skip(first).take(MAX_EXCERPT).map(visible).collect();
    let excerpt_start = column - 1 - first;
    let excerpt_length = length.min(MAX_EXCERPT.saturating_sub(excerpt_start)).max(1);
    if problem.is_secret {
        excerpt.iter_mut().skip(excerpt_start).for_each(|c| *c = '*');
    }
    let is_cut = whole.chars().nth(first + MAX_EXCERPT).is_some();
    if first > 0
        && let Some(c) = excerpt.first_mut()
    {
        *c = '…';
    }
    let excerpt: String = excerpt.into_iter().chain(is_cut.then_some('…')).collect();
    Place {
        kind: problem.kind,
        // words of the file stand in it, and not always as they are written there
        message: clean_lines(&problem.message),
        help: problem.help.as_deref().map(clean_lines),
        line,
        column,
        span: problem.span,
        excerpt,
        excerpt_start,
        excerpt_length,
    }
}

/// A tab as a space, so that the caret stands right; other control characters, which
/// could rewrite the terminal, as a replacement.
fn visible(c: char) -> char {
    match c {
        '\t' => ' ',
        c if !terminal::is_plain(c) => '\u{fffd}',
        c => c,
    }
}

/// Returns `text` without what could rewrite a terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(visible).collect()
}

/// Does so for a text of several lines.
fn clean_lines(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { c } else { visible(c) }).collect()
}
