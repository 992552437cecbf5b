//! Text to a tree. The parser is `saphyr-parser`, used event by event: its marks are
//! right but for the quirks that are mended here, each named where it is.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};

use super::problem::{Kind, Problem};
use super::read::{Faults, quoted};

/// The longest text that is read: 1 MiB, some hundred times a manifest of a thousand hosts.
pub const MAX_BYTES: usize = 1 << 20;

/// The deepest nesting that is read.
pub const MAX_DEPTH: usize = 64;

/// A range of the text, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it stands. A mapping or list in block style has the place of its first entry;
    /// a value that is not there, that of its key.
    pub span: Span,
    /// What it is.
    pub value: Value,
}

/// A key of a mapping with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The key as text, whatever it looks like: `1` and `true` are texts here.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

/// A value by the YAML 1.2 core schema.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing, `null` or `~`.
    Null,
    /// `true` or `false`. `yes`, `no`, `on` and `off` are texts in YAML 1.2.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number, infinities included.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of the text, without the second of two equal keys.
    Map(Vec<(Key, Node)>),
}

impl Value {
    /// Returns what it is, for messages: `a list`, `the number 8`.
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Bool(value) => format!("the truth value {value}"),
            Self::Int(value) => format!("the number {value}"),
            Self::Float(value) => format!("the number {value}"),
            Self::Text(text) if text.is_empty() => "an empty text".to_owned(),
            Self::Text(text) => quoted(text),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a mapping".to_owned(),
        }
    }

    /// Returns the value as JSON; numbers that JSON lacks become null.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Int(value) => (*value).into(),
            Self::Float(value) => (*value).into(),
            Self::Text(text) => text.as_str().into(),
            Self::List(items) => items.iter().map(|item| item.value.to_json()).collect(),
            Self::Map(entries) => {
                let entries = entries.iter().map(|(key, node)| (key.text.clone(), node.value.to_json()));
                serde_json::Value::Object(entries.collect())
            }
        }
    }
}

/// Reads `faults`' text as one YAML document. Where it cannot be read at all, returns
/// none and leaves exactly one problem; duplicate keys leave a problem each.
pub(crate) fn parse(faults: &mut Faults) -> Option<Node> {
    let text = faults.text_owner();
    if text.len() > MAX_BYTES {
        let size = crate::units::Bytes(text.len() as u64);
        faults.push(
            Problem::new(Kind::Syntax, Span::default(), format!("the file is too long: {size}"))
                .help("at most 1 MiB is read"),
        );
        return None;
    }
    // a byte-order mark at the start means nothing; elsewhere it is the parser's matter
    let skipped = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let mut builder = Builder { text: &text, faults, offsets: Offsets::new(&text, skipped) };
    builder.document(&mut Parser::new_from_str(&text[skipped..]))
}

/// From the parser's marks, which count characters, to bytes of the text.
struct Offsets {
    bytes: Vec<u32>,
}

impl Offsets {
    fn new(text: &str, skipped: usize) -> Self {
        let starts = text[skipped..].char_indices().map(|(at, _)| at + skipped);
        // MAX_BYTES fits u32
        let bytes = starts.chain([text.len()]).map(|at| u32::try_from(at).unwrap_or(u32::MAX)).collect();
        Self { bytes }
    }

    fn byte(&self, index: usize) -> usize {
        self.bytes.get(index).or(self.bytes.last()).map_or(0, |&at| at as usize)
    }

    fn span(&self, span: saphyr_parser::Span) -> Span {
        Span { start: self.byte(span.start.index()), end: self.byte(span.end.index()) }
    }
}

/// One open mapping or list.
enum Open {
    List { span: Span, items: Vec<Node> },
    Map { span: Span, entries: Vec<(Key, Node)>, seen: HashMap<String, Span>, key: Option<Key> },
}

struct Builder<'a> {
    text: &'a str,
    faults: &'a mut Faults,
    offsets: Offsets,
}

impl Builder<'_> {
    fn document<'i>(&mut self, parser: &mut Parser<'i, StrInput<'i>>) -> Option<Node> {
        let mut open: Vec<Open> = Vec::new();
        let mut root: Option<Node> = None;
        while let Some(event) = parser.next_event() {
            let (event, mark) = match event {
                Ok(event) => event,
                Err(error) => return self.syntax_error(&error),
            };
            let span = self.offsets.span(mark);
            let done = match event {
                Event::Scalar(text, style, _, tag) => {
                    if let Some(tag) = tag {
                        return self.refuse(
                            span,
                            format!("tags are not read: {}", quoted(&tag.to_string())),
                            "leave it out",
                        );
                    }
                    Some(self.scalar(&text, style, span))
                }
                Event::SequenceStart(_, tag) | Event::MappingStart(_, tag) if tag.is_some() => {
                    return self.refuse(span, "tags are not read".to_owned(), "leave it out");
                }
                Event::SequenceStart(..) | Event::MappingStart(..) => {
                    if open.len() >= MAX_DEPTH {
                        return self.refuse_depth(span);
                    }
                    if let Some(Open::Map { key: None, .. }) = open.last() {
                        let message = "a list or mapping cannot be a key".to_owned();
                        return self.refuse(span, message, "keys are plain words");
                    }
                    open.push(if matches!(event, Event::SequenceStart(..)) {
                        Open::List { span, items: Vec::new() }
                    } else {
                        Open::Map { span, entries: Vec::new(), seen: HashMap::new(), key: None }
                    });
                    None
                }
                Event::SequenceEnd | Event::MappingEnd => open.pop().map(|open| match open {
                    Open::List { span, items } => Node { span, value: Value::List(items) },
                    Open::Map { span, entries, .. } => Node { span, value: Value::Map(entries) },
                }),
                Event::Alias(_) => {
                    let message = "aliases are not read".to_owned();
                    return self.refuse(span, message, "write the value out, or use `defaults`");
                }
                Event::DocumentStart(_) if root.is_some() => {
                    let message = "a second document begins here".to_owned();
                    return self.refuse(span, message, "a file holds one document: remove the `---`");
                }
                _ => None,
            };
            let Some(node) = done else { continue };
            match open.last_mut() {
                None => root = Some(node),
                Some(Open::List { items, .. }) => items.push(node),
                Some(Open::Map { entries, seen, key, .. }) => match key.take() {
                    None => *key = Some(self.key(node)),
                    Some(key) => {
                        if let Some(first) = seen.get(&key.text) {
                            let first = *first;
                            self.duplicate(&key, first);
                            continue;
                        }
                        let mut node = node;
                        // the parser puts a value that is missing at the next token
                        if node.span.start == node.span.end && node.value == Value::Null {
                            node.span = key.span;
                        }
                        seen.insert(key.text.clone(), key.span);
                        entries.push((key, node));
                    }
                },
            }
        }
        if root.is_none() {
            return self.refuse(Span::default(), "the file is empty".to_owned(), "begin with `bramble: 1`");
        }
        root
    }

    fn duplicate(&mut self, key: &Key, first: Span) {
        let mut problem = Problem::new(Kind::Duplicate, key.span, String::new());
        // to count lines costs a look at the whole text: not for what will not be shown
        if self.faults.is_open() {
            let (line, _) = self.faults.line_and_column(first.start);
            problem.message = format!("key {} is there twice", quoted(&key.text));
            problem.help = Some(format!("it is on line {line} already: keep one of them"));
        }
        self.faults.push(problem);
    }

    fn key(&self, node: Node) -> Key {
        let span = node.span;
        let text = match node.value {
            Value::Text(text) => text,
            // as it is written: `1`, `true`, `~`
            _ => self.text.get(span.start..span.end).unwrap_or_default().trim().to_owned(),
        };
        Key { text, span }
    }

    fn scalar(&self, text: &str, style: ScalarStyle, mut span: Span) -> Node {
        let value = match style {
            ScalarStyle::Plain => resolve(text),
            _ => Value::Text(text.to_owned()),
        };
        let written = self.text.get(span.start..span.end).unwrap_or_default();
        let length = match style {
            // the parser's mark of a quoted text runs on over spaces and a comment
            ScalarStyle::DoubleQuoted => quoted_length(written, '"'),
            ScalarStyle::SingleQuoted => quoted_length(written, '\''),
            // and that of a missing one in braces covers the closing brace
            ScalarStyle::Plain if text.is_empty() => 0,
            _ => written.trim_end().len(),
        };
        span.end = span.start + length;
        Node { span, value }
    }

    fn refuse(&mut self, span: Span, message: String, help: &str) -> Option<Node> {
        self.faults.replace_all(Problem::new(Kind::Syntax, span, message).help(help));
        None
    }

    fn refuse_depth(&mut self, span: Span) -> Option<Node> {
        self.refuse(span, format!("nested deeper than {MAX_DEPTH} levels"), "a manifest needs five")
    }

    fn syntax_error(&mut self, error: &saphyr_parser::ScanError) -> Option<Node> {
        let mut at = self.offsets.byte(error.marker().index());
        // the parser has a limit of its own, for what it must read ahead
        if error.info().contains("recursion limit") {
            return self.refuse_depth(Span { start: at, end: at });
        }
        let mut help = "YAML cannot go on here; look at this line and the one before";
        // a tab is complained of where the text before it ended: show the tab itself
        if let Some(tab) = error.info().contains("tab").then(|| self.tab_after(at)).flatten() {
            at = tab;
            help = "a tab stands in the indentation: YAML wants spaces";
        }
        let span = Span { start: at, end: at };
        self.refuse(span, format!("this is not YAML: {}", error.info()), help)
    }

    /// The first tab among the white space that begins the line at `at` or a later one.
    fn tab_after(&self, at: usize) -> Option<usize> {
        let line_start = self.text.get(..at)?.rfind('\n').map_or(0, |newline| newline + 1);
        let mut start = line_start;
        for line in self.text[line_start..].split_inclusive('\n') {
            let indentation = line.len() - line.trim_start_matches([' ', '\t']).len();
            if let Some(tab) = line[..indentation].find('\t') {
                return Some(start + tab);
            }
            start += line.len();
        }
        None
    }
}

/// The length of the quoted text that `written` begins with, quotes included.
fn quoted_length(written: &str, quote: char) -> usize {
    let mut inner = written.char_indices().skip_while(|&(_, c)| c != quote).skip(1).peekable();
    while let Some((at, c)) = inner.next() {
        if c == '\\' && quote == '"' {
            inner.next();
        } else if c == quote {
            // in single quotes, two of them are one of the text
            if quote == '\'' && inner.peek().is_some_and(|&(_, next)| next == quote) {
                inner.next();
                continue;
            }
            return at + quote.len_utf8();
        }
    }
    written.len()
}

/// A plain scalar by the core schema (YAML 1.2.2, section 10.3.2).
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    let radix = |prefix: &str, radix: u32| {
        let digits = text.strip_prefix(prefix)?;
        let is_plain = digits.starts_with(|c: char| c.is_ascii_hexdigit());
        is_plain.then(|| i64::from_str_radix(digits, radix).ok()).flatten()
    };
    if let Some(value) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return Value::Int(value);
    }
    // Rust also takes `inf`, `nan` and `infinity` for numbers: YAML does not
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_number = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if is_number {
        if let Ok(value) = text.parse::<i64>() {
            return Value::Int(value);
        }
        if let Ok(value) = text.parse::<f64>() {
            return Value::Float(value);
        }
    }
    Value::Text(text.to_owned())
}
