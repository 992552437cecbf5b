//! From nodes to values, by types that say at once what is read and what an editor's
//! JSON Schema says: a field or a pattern stands in one place.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value as Json;

use super::node::{Key, Node, Span, Value, resolve};
use super::problem::{Kind, MAX_KEPT, Problem, Problems, clean, line_and_column};

/// The most entries of one mapping or list: hosts of a large fleet.
const MAX_ENTRIES: usize = 10_000;

/// The longest word that a suggestion is looked for.
const MAX_SUGGEST: usize = 64;

/// A text and the faults found in it so far.
pub(crate) struct Faults {
    file: String,
    text: Arc<str>,
    found: Vec<Problem>,
    count: usize,
}

impl Faults {
    pub(crate) fn new(file: &str, text: &str) -> Self {
        Self { file: file.to_owned(), text: text.into(), found: Vec::new(), count: 0 }
    }

    pub(crate) fn push(&mut self, problem: Problem) {
        self.count += 1;
        if self.is_open() {
            self.found.push(problem);
        }
    }

    /// Leaves `problem` alone: for a text that cannot be read to its end.
    pub(crate) fn replace_all(&mut self, problem: Problem) {
        self.found = vec![problem];
        self.count = 1;
    }

    /// Returns whether another problem would be kept, so that words for it are worth their work.
    pub(crate) fn is_open(&self) -> bool {
        self.found.len() < MAX_KEPT
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn line_and_column(&self, at: usize) -> (usize, usize) {
        line_and_column(&self.text, at)
    }

    pub(super) fn text_owner(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    pub(crate) fn into_problems(self) -> Problems {
        Problems::new(&self.file, &self.text, self.found, self.count)
    }
}

/// A type that is read from a node. What cannot be read leaves a problem and is none.
pub(crate) trait Read: Sized + JsonSchema {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self>;
}

/// Leaves "expected this, found that".
pub(crate) fn expected<T>(what: &str, node: &Node, faults: &mut Faults) -> Option<T> {
    faults.push(unexpected(what, node));
    None
}

fn unexpected(what: &str, node: &Node) -> Problem {
    let message = format!("expected {what}, found {}", node.value.describe());
    Problem::new(Kind::Invalid, node.span, message)
}

/// Leaves the same, for a number or a truth value: one in quotes is a text.
pub(crate) fn expected_unquoted<T>(what: &str, node: &Node, faults: &mut Faults) -> Option<T> {
    let mut problem = unexpected(what, node);
    if let Value::Text(text) = &node.value
        && matches!(resolve(text), Value::Int(_) | Value::Float(_) | Value::Bool(_))
    {
        problem.message.push_str(" in quotes");
        problem = problem.help(format!("write {} without quotes", quoted(text)));
    }
    faults.push(problem);
    None
}

/// Returns foreign text for a message: in backquotes, harmless to a terminal, cut to 60 characters.
pub(crate) fn quoted(text: &str) -> String {
    let is_cut = text.chars().nth(60).is_some();
    let text: String = text.chars().take(60).collect();
    format!("`{}{}`", clean(&text), if is_cut { "…" } else { "" })
}

/// Returns the candidate that is nearest to `word`, where one is near enough to be meant.
///
/// Case and punctuation do not count. First comes what is the same, then what begins with
/// `word`, then what, or whose beginning, can be typed as `word` by few mistakes, and last what `word` begins
/// with. Of several, the one that agrees for longest, then the shortest, then that of the greatest number, as
/// `8gb` before `4gb` and `v0.3` before `v0.1`.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_SUGGEST {
        return None;
    }
    let fold = |text: &str| {
        text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<Vec<char>>()
    };
    let word = fold(word);
    let rank = |candidate: &str| {
        let folded = fold(candidate);
        let tier = if word == folded {
            (0, 0)
        } else if word.len() >= 2 && folded.starts_with(&word) {
            (1, 0)
        } else if let Some(mistakes) = mistakes(&word, &folded) {
            (2, mistakes)
        } else if folded.len() >= 4 && word.starts_with(&folded) {
            (3, 0)
        } else {
            return None;
        };
        let agreeing = word.iter().zip(&folded).take_while(|(a, b)| a == b).count();
        let number: String = folded[agreeing..].iter().filter(|c| c.is_numeric()).collect();
        Some((tier, Reverse(agreeing), folded.len(), Reverse(number)))
    };
    let known = candidates.into_iter().filter(|text| text.len() <= MAX_SUGGEST);
    let ranked = known.filter_map(|candidate| Some((rank(candidate)?, candidate)));
    ranked.min_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, candidate)| candidate)
}

/// Returns by how many mistakes `word` may have been typed for `candidate`, or for its beginning where that is no
/// guess at all; none where they are too many: one in three letters.
fn mistakes(word: &[char], candidate: &[char]) -> Option<usize> {
    let distance = |other: &[char]| strsim::generic_damerau_levenshtein(word, other);
    let whole = distance(candidate);
    let beginnings = if word.len() >= 4 && word.first() == candidate.first() {
        let lengths = word.len().saturating_sub(2)..=candidate.len().min(word.len() + 2);
        lengths.filter_map(|length| candidate.get(..length)).map(distance).min()
    } else {
        None
    };
    let least = beginnings.map_or(whole, |beginning| beginning.min(whole));
    (least <= (word.len() / 3).max(1)).then_some(least)
}

/// A value with its place.
#[derive(Debug, Clone)]
pub(crate) struct Spanned<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

impl<T: Read> Read for Spanned<T> {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self> {
        T::read(node, faults).map(|value| Self { value, span: node.span })
    }
}

impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl Read for bool {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self> {
        match node.value {
            Value::Bool(value) => Some(value),
            _ => expected_unquoted("`true` or `false`", node, faults),
        }
    }
}

fn too_many<T>(entries: usize, node: &Node, faults: &mut Faults) -> Option<T> {
    let message = format!("{entries} entries, and at most {MAX_ENTRIES} are read");
    faults.push(Problem::new(Kind::Invalid, node.span, message));
    None
}

/// A list; what could not be read of it is left out.
impl<T: Read> Read for Vec<T> {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self> {
        let Value::List(items) = &node.value else { return expected("a list", node, faults) };
        if items.len() > MAX_ENTRIES {
            return too_many(items.len(), node, faults);
        }
        Some(items.iter().filter_map(|item| T::read(item, faults)).collect())
    }
}

/// A value that may be unreadable without the list around it being so.
#[derive(Debug)]
pub(crate) struct Maybe<T>(pub(crate) Option<T>);

impl<T: Read> Read for Maybe<T> {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self> {
        Some(Self(T::read(node, faults)))
    }
}

impl<T: JsonSchema> JsonSchema for Maybe<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// An entry of a mapping from names that the user gives; its value is none where it could not be read.
#[derive(Debug)]
pub(crate) struct Entry<K, T> {
    pub(crate) name: Spanned<K>,
    pub(crate) value: Option<T>,
}

/// A mapping from names that the user gives.
#[derive(Debug)]
pub(crate) struct Table<K, T>(pub(crate) Vec<Entry<K, T>>);

impl<K: Read, T: Read> Read for Table<K, T> {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            return expected("a mapping from names", node, faults);
        };
        if entries.len() > MAX_ENTRIES {
            return too_many(entries.len(), node, faults);
        }
        let entries = entries.iter().filter_map(|(key, node)| {
            let name = Node { span: key.span, value: Value::Text(key.text.clone()) };
            let name = Spanned::read(&name, faults);
            let value = T::read(node, faults);
            name.map(|name| Entry { name, value })
        });
        Some(Self(entries.collect()))
    }
}

impl<K: JsonSchema, T: JsonSchema> JsonSchema for Table<K, T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("TableOf{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let names = generator.subschema_for::<K>();
        let values = generator.subschema_for::<T>();
        json_schema!({
            "type": "object", "propertyNames": names, "additionalProperties": values, "maxProperties": MAX_ENTRIES
        })
    }
}

/// The keys of a record that are there, with their places.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys {
    pub(crate) span: Span,
    found: Vec<Key>,
    /// Known keys that a mistyped one probably meant: they are not also reported missing.
    meant: Vec<String>,
}

impl Keys {
    /// Checks that `node` is a mapping with known keys only.
    pub(crate) fn read<'n>(
        noun: &str,
        known: &[&str],
        node: &'n Node,
        faults: &mut Faults,
    ) -> Option<(Self, &'n [(Key, Node)])> {
        let Value::Map(entries) = &node.value else { return expected(noun, node, faults) };
        let mut meant = Vec::new();
        for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&key.text.as_str())) {
            let mut problem = Problem::new(Kind::UnknownKey, key.span, String::new());
            if faults.is_open() {
                let all = known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
                problem.message = format!("unknown key {} in {noun}", quoted(&key.text));
                problem.help = Some(match nearest(&key.text, known.iter().copied()) {
                    Some(word) => {
                        meant.push(word.to_owned());
                        format!("did you mean `{word}`? known here: {all}")
                    }
                    None => format!("known here: {all}"),
                });
            }
            faults.push(problem);
        }
        let keys = entries.iter().map(|(key, _)| key).filter(|key| known.contains(&key.text.as_str()));
        Some((Self { span: node.span, found: keys.cloned().collect(), meant }, entries))
    }

    /// Returns where a key stands, if it is there.
    pub(crate) fn place(&self, key: &str) -> Option<Span> {
        self.found.iter().find(|found| found.text == key).map(|found| found.span)
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.place(key).is_some()
    }
}

/// Returns a field's key: its name without Rust's mark for a name that is a keyword.
pub(crate) fn bare(field: &'static str) -> &'static str {
    field.strip_prefix("r#").unwrap_or(field)
}

/// A mapping with known keys, as `record!` declares it.
pub(crate) trait Record {
    /// Returns the keys that are there.
    fn keys(&self) -> &Keys;
}

/// Reads one field of a record; a value that is left empty is a fault.
pub(crate) fn field<T: Read>(key: &str, entries: &[(Key, Node)], faults: &mut Faults) -> Option<T> {
    let (_, node) = entries.iter().find(|(found, _)| found.text == key)?;
    if node.value == Value::Null {
        let help = "give it a value, or leave the key out";
        faults.push(Problem::new(Kind::Missing, node.span, format!("`{key}` has no value")).help(help));
        return None;
    }
    T::read(node, faults)
}

/// Leaves a problem where a key that must be there is not.
pub(crate) fn require(key: &str, doc: &str, noun: &str, keys: &Keys, faults: &mut Faults) {
    if !keys.has(key) && !keys.meant.iter().any(|meant| meant == key) {
        // the first key of a mapping is a better place than the whole of it
        let at = keys.found.first().map_or(keys.span, |first| first.span);
        let problem = Problem::new(Kind::Missing, at, format!("`{key}` is missing in {noun}"));
        faults.push(problem.help(format!("`{key}`: {}", doc.trim())));
    }
}

/// The schema of a record, field by field.
pub(crate) struct Fields {
    properties: serde_json::Map<String, Json>,
    required: Vec<Json>,
}

impl Fields {
    pub(crate) fn new() -> Self {
        Self { properties: serde_json::Map::new(), required: Vec::new() }
    }

    pub(crate) fn add(
        &mut self,
        key: &str,
        doc: &str,
        is_needed: bool,
        default: Option<Json>,
        schema: Schema,
    ) {
        let mut schema = schema;
        schema.insert("description".to_owned(), doc.trim().into());
        if let Some(default) = default {
            schema.insert("default".to_owned(), default);
        }
        self.properties.insert(key.to_owned(), schema.to_value());
        if is_needed {
            self.required.push(key.into());
        }
    }

    pub(crate) fn finish(self, noun: &str, doc: &str) -> Schema {
        let mut schema = json_schema!({
            "title": noun, "type": "object", "description": doc.trim(), "additionalProperties": false, "properties": self.properties
        });
        if !self.required.is_empty() {
            schema.insert("required".to_owned(), self.required.into());
        }
        schema
    }
}

/// Declares a mapping with known keys: the struct, how it is read, and its schema.
///
/// `need KEY: TYPE` must be there, `may KEY: TYPE` may be left out, `may KEY: TYPE = DEFAULT`
/// too. Fields are options, none where they are missing or could not be read, so
/// that the fields beside a fault can still be checked.
macro_rules! record {
    ($(#[doc = $about:literal])+ $name:ident: $noun:literal $(, $adjust:path)? {
        $($(#[doc = $doc:literal])+ $kind:ident $field:ident: $type:ty $(= $default:expr)?;)+
    }) => {
        $(#[doc = $about])+
        #[derive(Debug, Default)]
        pub(super) struct $name {
            keys: $crate::yaml::record_parts::Keys,
            $($(#[doc = $doc])+ pub(super) $field: Option<$type>,)+
        }

        impl $crate::yaml::Read for $name {
            fn read(
                node: &$crate::yaml::Node, faults: &mut $crate::yaml::Faults,
            ) -> Option<Self> {
                use $crate::yaml::record_parts as parts;
                let known = [$(parts::bare(stringify!($field))),+];
                let (keys, entries) = parts::Keys::read($noun, &known, node, faults)?;
                $($crate::yaml::record!(@require $kind $field concat!($($doc),+), $noun, &keys, faults);)+
                $(let $field = parts::field::<$type>(parts::bare(stringify!($field)), entries, faults)
                    $(.or_else(|| Some($default)))?;)+
                Some(Self { keys, $($field),+ })
            }
        }

        impl $crate::yaml::Record for $name {
            fn keys(&self) -> &$crate::yaml::record_parts::Keys {
                &self.keys
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                use $crate::yaml::record_parts as parts;
                let mut fields = parts::Fields::new();
                $(
                    let default: Option<serde_json::Value> = None;
                    $(let default: Option<serde_json::Value> =
                        default.or_else(|| serde_json::to_value::<$type>($default).ok());)?
                    let schema = generator.subschema_for::<$type>();
                    let is_needed = $crate::yaml::record!(@is_needed $kind);
                    fields.add(parts::bare(stringify!($field)), concat!($($doc),+), is_needed, default, schema);
                )+
                let schema = fields.finish($noun, concat!($($about),+));
                $(let schema = $adjust(schema);)?
                schema
            }
        }
    };
    (@is_needed need) => { true };
    (@is_needed may) => { false };
    (@require need $field:ident $doc:expr, $noun:expr, $keys:expr, $faults:expr) => {
        {
            use $crate::yaml::record_parts as parts;
            parts::require(parts::bare(stringify!($field)), $doc, $noun, $keys, $faults);
        }
    };
    (@require may $($rest:tt)*) => {};
}
pub(crate) use record;

/// Declares a text of a certain form: the newtype, how it is read, and its schema.
///
/// `check` is what holds; `pattern` says the same to editors (a test compares them).
macro_rules! text {
    ($(#[doc = $doc:literal])+ $name:ident: $noun:literal, pattern $pattern:literal, check $check:expr, hint $hint:expr) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(transparent)]
        pub(super) struct $name(pub(super) String);

        impl $crate::yaml::Read for $name {
            fn read(
                node: &$crate::yaml::Node, faults: &mut $crate::yaml::Faults,
            ) -> Option<Self> {
                use $crate::yaml::{Kind, Problem, Value, quoted};
                let check: fn(&str) -> bool = $check;
                let hint: fn(&str) -> Option<String> = $hint;
                match &node.value {
                    Value::Text(text) if check(text) => Some(Self(text.clone())),
                    Value::Text(text) => {
                        let message = format!("expected {}, found {}", $noun, quoted(text));
                        let mut problem = Problem::new(Kind::Invalid, node.span, message);
                        problem.help = hint(text);
                        faults.push(problem);
                        None
                    }
                    Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
                        let message = format!("expected {}, found {}", $noun, node.value.describe());
                        let mut problem = Problem::new(Kind::Invalid, node.span, message);
                        let text = node.value.to_json().to_string();
                        problem.help = if check(&text) {
                            Some("put it in quotes to make it a text".to_owned())
                        } else {
                            hint(&text)
                        };
                        faults.push(problem);
                        None
                    }
                    _ => $crate::yaml::expected($noun, node, faults),
                }
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "title": $noun, "type": "string", "pattern": $pattern })
            }
        }
    };
}
pub(crate) use text;

/// Makes an enum readable whose variants are plain words: the words are those that serde writes.
macro_rules! word {
    ($type:ty: $($variant:expr),+ $(,)?) => {
        impl $crate::yaml::Read for $type {
            fn read(
                node: &$crate::yaml::Node, faults: &mut $crate::yaml::Faults,
            ) -> Option<Self> {
                $crate::yaml::record_parts::read_word(&[$($variant),+], node, faults)
            }
        }
    };
}
pub(crate) use word;

/// Reads one of some words.
pub(crate) fn read_word<T: serde::Serialize + Copy>(
    all: &[T],
    node: &Node,
    faults: &mut Faults,
) -> Option<T> {
    let words: Vec<String> = all
        .iter()
        .filter_map(|variant| serde_json::to_value(variant).ok()?.as_str().map(str::to_owned))
        .collect();
    if let Value::Text(text) = &node.value
        && let Some(at) = words.iter().position(|word| word == text)
    {
        return all.get(at).copied();
    }
    let list = words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    let message = format!("expected one of {list}; found {}", node.value.describe());
    let near = match &node.value {
        Value::Text(text) => nearest(text, words.iter().map(String::as_str)),
        _ => None,
    };
    let problem = Problem::new(Kind::Invalid, node.span, message);
    // YAML 1.1 took `off` for false, and some editors still write it so
    let is_off = node.value == Value::Bool(false) && words.iter().any(|word| word == "off");
    faults.push(if is_off { problem.help("write `off`") } else { problem.did_you_mean(near) });
    None
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub(crate) struct Whole<const MIN: u32, const MAX: u32>(pub(crate) u32);

impl<const MIN: u32, const MAX: u32> Read for Whole<MIN, MAX> {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self> {
        let value = match node.value {
            Value::Int(value) => u32::try_from(value).ok().filter(|value| (MIN..=MAX).contains(value)),
            _ => None,
        };
        match value {
            Some(value) => Some(Self(value)),
            None => expected_unquoted(&format!("a whole number from {MIN} to {MAX}"), node, faults),
        }
    }
}

impl<const MIN: u32, const MAX: u32> JsonSchema for Whole<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Whole{MIN}To{MAX}").into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

impl<T: serde::Serialize> serde::Serialize for Spanned<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_what_was_probably_meant() {
        const WORDS: [&str; 12] = [
            "pi4-1gb",
            "pi4-2gb",
            "pi4-4gb",
            "pi4-8gb",
            "pi5-2gb",
            "pi5-4gb",
            "pi5-8gb",
            "pi5-16gb",
            "context",
            "tokens_per_second",
            "Q4_K_M",
            "Q4_0",
        ];
        for (word, meant) in [
            ("pi5-8g", Some("pi5-8gb")),
            ("pi4-8g", Some("pi4-8gb")),
            ("PI5_8GB", Some("pi5-8gb")),
            ("pi5 8", Some("pi5-8gb")),
            ("pi5-1", Some("pi5-16gb")),
            ("pi5", Some("pi5-8gb")),
            ("pi6-8gb", Some("pi5-8gb")),
            ("contxt", Some("context")),
            ("context_length", Some("context")),
            ("tokens-per-secnd", Some("tokens_per_second")),
            ("token_per", Some("tokens_per_second")),
            ("q4km", Some("Q4_K_M")),
            ("q40", Some("Q4_0")),
            ("desktop", None),
            ("x", None),
            ("", None),
            ("-", None),
        ] {
            assert_eq!(nearest(word, WORDS), meant, "{word}");
        }
    }
}
