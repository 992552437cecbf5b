//! The catalog of well-known models: names for sources, built into the program.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::Error;
use crate::source::SourceRef;
use crate::yaml::{self, Entry, Faults, Node, Problems, Read, Spanned, Table, expected, nearest, record};

/// The text that is built in.
const TEXT: &str = include_str!("../../manifests/catalog.yaml");

static KNOWN: LazyLock<Result<BTreeMap<String, KnownModel>, Problems>> =
    LazyLock::new(|| read("manifests/catalog.yaml", TEXT));

/// A well-known model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownModel {
    /// Its name here: `catalog:NAME`.
    pub name: String,
    /// Where its weights are: a repository of the hub.
    pub source: SourceRef,
    /// Its licence as the source declares it.
    pub license: String,
    /// Whether the hub wants a login and an accepted licence.
    pub is_gated: bool,
    /// What it is good for, in a few words.
    pub about: String,
}

/// Returns the model that the catalog has under `name`.
pub fn find(name: &str) -> Result<&'static KnownModel, Error> {
    let known = KNOWN.as_ref().map_err(|problems| Error::ReadCatalog(problems.clone()))?;
    known.get(name).ok_or_else(|| Error::NotInCatalog {
        name: name.chars().take(80).collect(),
        near: nearest(name, known.keys().map(String::as_str)).map(str::to_owned),
    })
}

/// Returns every model of the catalog, by name.
pub fn all() -> impl Iterator<Item = &'static KnownModel> {
    KNOWN.as_ref().ok().into_iter().flat_map(BTreeMap::values)
}

record! {
    /// A well-known model.
    Written: "a model of the catalog" {
        /// A repository of the hub.
        need source: Line;
        /// The licence that the source declares.
        need license: Line;
        /// Whether the hub wants a login.
        may is_gated: Flag = Flag(false);
        /// What it is good for, in a few words.
        need about: Line;
    }
}

/// A text that is not empty.
#[derive(Debug, serde::Serialize, schemars::JsonSchema)]
pub(super) struct Line(String);

impl Read for Line {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self> {
        match &node.value {
            yaml::Value::Text(text) if !text.is_empty() => Some(Self(text.clone())),
            _ => expected("a text", node, faults),
        }
    }
}

/// Yes or no.
#[derive(Debug, Clone, Copy, serde::Serialize, schemars::JsonSchema)]
pub(super) struct Flag(bool);

impl Read for Flag {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self> {
        match node.value {
            yaml::Value::Bool(value) => Some(Self(value)),
            _ => expected("true or false", node, faults),
        }
    }
}

fn read(file_name: &str, text: &str) -> Result<BTreeMap<String, KnownModel>, Problems> {
    let mut faults = Faults::new(file_name, text);
    let table =
        yaml::parse(&mut faults).and_then(|node| Table::<Line, Spanned<Written>>::read(&node, &mut faults));
    let mut known = BTreeMap::new();
    for Entry { name, value } in table.map(|table| table.0).unwrap_or_default() {
        let Some(Spanned { value, span }) = value else { continue };
        let (Some(source), Some(license), Some(about)) = (value.source, value.license, value.about) else {
            continue;
        };
        match source.0.parse() {
            Ok(source @ SourceRef::Hub { .. }) => {
                let is_gated = value.is_gated.is_some_and(|flag| flag.0);
                let name = name.value.0;
                let model =
                    KnownModel { name: name.clone(), source, license: license.0, is_gated, about: about.0 };
                known.insert(name, model);
            }
            _ => faults.push(yaml::Problem::new(yaml::Kind::Invalid, span, "expected `source: hf:ORG/REPO`")),
        }
    }
    if faults.is_empty() { Ok(known) } else { Err(faults.into_problems()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_that_is_built_in_is_read() {
        assert_eq!(KNOWN.as_ref().map(BTreeMap::len), Ok(all().count()));
        assert!(all().count() >= 20);
        for model in all() {
            // each can be written in a manifest
            let text = format!("catalog:{}", model.name);
            assert_eq!(text.parse(), Ok(SourceRef::Catalog(model.name.clone())));
        }
    }

    #[test]
    fn a_name_gives_its_source() {
        let model = find("smollm2-135m-instruct").expect("in the catalog");
        assert_eq!(model.source.to_string(), "hf:HuggingFaceTB/SmolLM2-135M-Instruct");
        assert_eq!(model.license, "apache-2.0");
        assert!(!model.is_gated && find("gemma-2-2b-it").expect("in the catalog").is_gated);
    }

    #[test]
    fn a_name_that_is_not_there_brings_the_nearest_one() {
        let error = find("llama-3.2-1b-instuct").expect_err("mistyped");
        assert_eq!(error.suggestion(), Some("llama-3.2-1b-instruct"));
        assert_eq!(
            error.to_string(),
            "the catalog has no model \"llama-3.2-1b-instuct\": did you mean \"llama-3.2-1b-instruct\"?"
        );
        assert_eq!(find("x").expect_err("unknown").suggestion(), None);
    }

    #[test]
    fn a_catalog_with_a_source_elsewhere_is_refused() {
        let text = "a:\n  source: file:/etc/passwd\n  license: mit\n  about: x\n";
        let problems = read("c.yaml", text).expect_err("not on the hub").to_string();
        assert!(problems.contains("c.yaml:2:3: expected `source: hf:ORG/REPO`"), "{problems}");
    }
}
