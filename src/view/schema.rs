//! The manifest's reference as a page, from its JSON Schema.

use std::fmt::Write as _;

use serde_json::Value;

/// What stands above the first table.
const HEAD: &str = "\
# The manifest, key by key

Printed by `bramble schema --markdown` from the types that read a manifest; a test holds this page to them. Whole manifests with comments are in
[examples](../examples/home/fleet.yaml), and [manifests/full.yaml](../manifests/full.yaml) has every key. `bramble schema` prints the same as a JSON Schema
for editors, and `bramble check` says what is wrong with a manifest, with its line. A key that is not here is an error.

NAME is a name of yours: a-z, 0-9 and `-`, at most 63 characters, the first no `-`.
";

/// A choice of more words than this has a section of its own.
const MAX_WORDS: usize = 8;

/// A type with a section of its own, and where it is met first.
#[derive(Clone)]
struct Part<'a> {
    name: &'a str,
    path: String,
    heading: String,
}

/// Returns the page. Each part follows the one that it is met in, once.
pub fn schema(schema: &Value) -> String {
    let mut page = HEAD.to_owned();
    let mut reference = Reference { schema, found: Vec::new(), met: Vec::new() };
    let mut left: Vec<Part> = Vec::new();
    section(&mut page, "", "The whole", schema, &mut reference);
    loop {
        left.extend(reference.found.drain(..).rev());
        let Some(part) = left.pop() else { return page };
        section(&mut page, &part.path, &part.heading, reference.definition(part.name), &mut reference);
    }
}

/// What is known while the page is written.
struct Reference<'a> {
    schema: &'a Value,
    /// What the section that is being written has met first.
    found: Vec<Part<'a>>,
    /// Every type that has a section or will get one.
    met: Vec<Part<'a>>,
}

impl<'a> Reference<'a> {
    fn definition(&self, name: &str) -> &'a Value {
        &self.schema["$defs"][name]
    }

    /// Returns the definition that `value` points to, with its name; or the value itself.
    fn target(&self, value: &'a Value) -> (Option<&'a str>, &'a Value) {
        match value["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/")) {
            Some(name) => (Some(name), self.definition(name)),
            None => (None, value),
        }
    }

    /// Says what may stand at `path`.
    fn kind(&mut self, path: &str, value: &'a Value) -> String {
        let (name, value) = self.target(value);
        let is_long = value["oneOf"].as_array().is_some_and(|forms| forms.len() > MAX_WORDS);
        match name {
            Some(name) if value["properties"].is_object() => return self.link(path, name),
            // whatever it is met in, it is the same list of words
            Some(name) if is_long => return format!("a {}", self.link(&name.to_lowercase(), name)),
            _ => {}
        }
        if let Some(title) = value["title"].as_str() {
            return title.to_owned();
        }
        if let Some(constant) = value.get("const") {
            return format!("`{}`", bare(constant));
        }
        for choice in ["anyOf", "oneOf"] {
            if let Some(forms) = value[choice].as_array() {
                let forms: Vec<String> = forms.iter().map(|form| self.kind(path, form)).collect();
                return alternatives(&forms);
            }
        }
        match value["type"].as_str() {
            Some("boolean") => "`true` or `false`".to_owned(),
            Some("integer") => format!("{} to {}", value["minimum"], value["maximum"]),
            Some("number") => format!("a number from {} to {}", value["minimum"], value["maximum"]),
            Some("array") => format!("a list: {}", self.kind(&format!("{path}[]"), &value["items"])),
            Some("object") => {
                format!("by NAME: {}", self.kind(&format!("{path}.NAME"), &value["additionalProperties"]))
            }
            _ => "text".to_owned(),
        }
    }

    /// Returns a link to the section of a type, which it gets where it is met first.
    fn link(&mut self, path: &str, name: &'a str) -> String {
        let known = self.met.iter().find(|part| part.name == name).map(|part| part.heading.clone());
        let heading = known.unwrap_or_else(|| {
            let noun = self.definition(name)["title"].as_str().unwrap_or(name);
            let is_taken = self.met.iter().any(|part| part.heading == path);
            let heading = if is_taken { format!("{path}: {noun}") } else { path.to_owned() };
            let part = Part { name, path: path.to_owned(), heading: heading.clone() };
            self.met.push(part.clone());
            self.found.push(part);
            heading
        });
        format!("[{heading}](#{})", anchor(&heading))
    }

    /// Returns what each word of a choice means, where the key's own text does not say it.
    fn meanings(&self, value: &'a Value) -> String {
        let (_, target) = self.target(value);
        let said: Vec<String> = words(target).map(|(word, says)| format!("`{word}`: {says}")).collect();
        let is_said = value["description"].as_str().is_some_and(|says| says.contains("`: "));
        if is_said || said.is_empty() || said.len() > MAX_WORDS {
            return String::new();
        }
        format!(" {}.", said.join("; "))
    }
}

/// Returns the words of a choice that say what they mean.
fn words(value: &Value) -> impl Iterator<Item = (&str, String)> {
    value["oneOf"].as_array().into_iter().flatten().filter_map(|form| {
        let says = form["description"].as_str()?.trim_end_matches('.');
        Some((form["const"].as_str()?, says.replace('\n', " ")))
    })
}

fn section<'a>(
    page: &mut String,
    path: &str,
    heading: &str,
    value: &'a Value,
    reference: &mut Reference<'a>,
) {
    let about = value["description"].as_str().unwrap_or_default();
    // writing to a text does not fail
    let _ = write!(page, "\n## {heading}\n\n{about}\n\n");
    if !value["properties"].is_object() {
        page.extend(words(value).map(|(word, says)| format!("- `{word}`: {says}\n")));
        return;
    }
    page.push_str("| key | | without it | what it says |\n| --- | --- | --- | --- |\n");
    let needed = value["required"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (key, of) in value["properties"].as_object().into_iter().flatten() {
        let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let without = match of.get("default") {
            _ if needed.iter().any(|name| name == key) => "must be there".to_owned(),
            Some(default) => format!("`{}`", bare(default)),
            None => String::new(),
        };
        let kind = reference.kind(&below, of);
        let says = of["description"].as_str().unwrap_or_default();
        let says = format!("{says}{}", reference.meanings(of));
        let _ = writeln!(page, "| `{key}` | {} | {without} | {} |", cell(&kind), cell(&says));
    }
}

fn alternatives(forms: &[String]) -> String {
    match forms {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

/// A text without its quotes, anything else as JSON.
fn bare(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A text that ends no cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The name that a heading has in links, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' '));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}
