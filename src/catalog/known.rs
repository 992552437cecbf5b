//! The catalog of well-known models: names for sources, built into the program.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::{Error, Family, Figures};
use crate::convert::PromptStyle;
use crate::quant::Quant;
use crate::source::{Pinned, SourceRef};
use crate::units::Bytes;
use crate::yaml::{
    self, Entry, Faults, Node, Problems, Read, Spanned, Table, Whole, expected, nearest, record, word,
};

/// The text that is built in.
const TEXT: &str = include_str!("../../manifests/catalog.yaml");

static KNOWN: LazyLock<Result<BTreeMap<String, KnownModel>, Problems>> =
    LazyLock::new(|| read("manifests/catalog.yaml", TEXT));

/// A well-known model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KnownModel {
    /// Its name here: `catalog:NAME`.
    pub name: String,
    /// Where its weights are: a repository of the hub, or differences in one to another.
    pub source: SourceRef,
    /// Its licence as the source declares it.
    pub license: String,
    /// Whether the hub wants a login and an accepted licence.
    pub is_gated: bool,
    /// What it is good for, in a few words.
    pub about: String,
    /// How it is spoken to.
    pub prompt: Prompt,
    /// The number of parameters that is published for it; of a model that sees, of the part for text.
    pub parameters: u64,
    /// Its sizes.
    pub figures: Figures,
}

/// How a model is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// By the chat template that its source brings.
    Own,
    /// As Alpaca was taught: instruction and response.
    Alpaca,
    /// As Vicuna was taught: user and assistant.
    Vicuna,
    /// Not at all: it continues text.
    None,
}

impl Prompt {
    /// Returns the word that the catalog has for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Alpaca => "alpaca",
            Self::Vicuna => "vicuna",
            Self::None => "none",
        }
    }
}

impl KnownModel {
    /// Forecasts the bytes of its weights by quant ([`Figures::bytes`]): of a small quant, a
    /// large one, and none.
    pub fn forecast(&self) -> BTreeMap<String, Bytes> {
        [Quant::Q4KM, Quant::Q8_0, Quant::F16]
            .into_iter()
            .map(|quant| (quant.to_string(), self.figures.bytes(quant)))
            .collect()
    }
}

word!(Prompt: Prompt::Own, Prompt::Alpaca, Prompt::Vicuna, Prompt::None);

/// Returns the model that the catalog has under `name`.
pub fn find(name: &str) -> Result<&'static KnownModel, Error> {
    let known = KNOWN.as_ref().map_err(|problems| Error::ReadCatalog(problems.clone()))?;
    known.get(name).ok_or_else(|| {
        let names = || known.keys().map(String::as_str);
        Error::NotInCatalog {
            name: name.chars().take(80).collect(),
            near: nearest(name, names()).map(str::to_owned),
        }
    })
}

/// Returns the style of prompts that a source was taught, where the catalog knows the source and
/// that it brings no template.
pub fn prompt_style(source: &Pinned) -> Option<PromptStyle> {
    let repository = source.repository()?;
    let is_it = |known: &&KnownModel| match &known.source {
        SourceRef::Hub { repo, .. } => repo == repository,
        SourceRef::Delta { delta, .. } => {
            matches!(&**delta, SourceRef::Hub { repo, .. } if repo == repository)
        }
        _ => false,
    };
    match all().find(is_it)?.prompt {
        Prompt::Alpaca => Some(PromptStyle::Alpaca),
        Prompt::Vicuna => Some(PromptStyle::Vicuna),
        Prompt::Own | Prompt::None => None,
    }
}

/// Returns every model of the catalog, by name.
pub fn all() -> impl Iterator<Item = &'static KnownModel> {
    KNOWN.as_ref().ok().into_iter().flat_map(BTreeMap::values)
}

record! {
    /// A well-known model.
    Written: "a model of the catalog" {
        /// A repository of the hub, or differences in one to another.
        need source: Place;
        /// The licence that the source declares.
        need license: Line;
        /// Whether the hub wants a login.
        may is_gated: Flag = Flag(false);
        /// What it is good for, in a few words.
        need about: Line;
        /// How it is spoken to.
        need prompt: Prompt;
        /// The number of parameters that is published for it.
        need parameters: Count;
        /// Its sizes.
        need figures: Sizes;
    }
}

record! {
    /// Differences, to be added to other weights.
    Difference: "`source`" {
        /// The weights that they are added to: a repository of the hub.
        need base: Line;
        /// The differences: a repository of the hub.
        need delta: Line;
    }
}

record! {
    /// Sizes of a model.
    Sizes: "`figures`" {
        /// What its blocks are made of.
        need family: Family;
        /// Transformer blocks.
        need layers: Whole<1, 1_000>;
        /// Width of the residual stream.
        need hidden: Whole<1, 65_536>;
        /// Width inside the feed-forward part.
        need feed_forward: Whole<1, 1_048_576>;
        /// Attention heads.
        need heads: Whole<1, 4_096>;
        /// Heads of keys and values.
        need kv_heads: Whole<1, 4_096>;
        /// Width of one head; by default what heads share of `hidden`.
        may head_dim: Whole<1, 16_384>;
        /// Rows of the embedding.
        need vocab: Whole<1, 16_777_216>;
        /// Tokens that the model was trained to look back on.
        need context: Whole<1, 16_777_216>;
        /// Tokens that blocks look back on, where these are fewer.
        may window: Whole<1, 16_777_216>;
        /// Whether the output head is the embedding.
        may is_tied: Flag = Flag(false);
        /// Whether context and window were not seen in a published configuration.
        may unchecked: Flag = Flag(false);
    }
}

/// A repository of the hub as text, or a [`Difference`].
#[derive(Debug)]
pub(super) enum Place {
    Text(String),
    Difference(Box<Difference>),
}

impl Read for Place {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self> {
        match &node.value {
            yaml::Value::Map(_) => {
                Difference::read(node, faults).map(|read| Self::Difference(Box::new(read)))
            }
            _ => Line::read(node, faults).map(|line| Self::Text(line.0)),
        }
    }
}

impl schemars::JsonSchema for Place {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Place".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let (text, difference) = (generator.subschema_for::<Line>(), generator.subschema_for::<Difference>());
        schemars::json_schema!({ "anyOf": [text, difference] })
    }
}

impl Place {
    /// Returns the source, where it is on the hub.
    fn on_the_hub(&self) -> Option<SourceRef> {
        let hub = |text: &str| match text.parse() {
            Ok(source @ SourceRef::Hub { .. }) => Some(source),
            _ => None,
        };
        match self {
            Self::Text(text) => hub(text),
            Self::Difference(both) => {
                let [base, delta] = [&both.base, &both.delta].map(|line| hub(&line.as_ref()?.0));
                Some(SourceRef::Delta { base: Box::new(base?), delta: Box::new(delta?) })
            }
        }
    }
}

/// A number that may be larger than 32 bits.
#[derive(Debug, Clone, Copy, serde::Serialize, schemars::JsonSchema)]
pub(super) struct Count(u64);

impl Read for Count {
    fn read(node: &Node, faults: &mut Faults) -> Option<Self> {
        match node.value {
            yaml::Value::Int(value) if value > 0 => Some(Self(value.unsigned_abs())),
            _ => expected("a whole number of 1 or more", node, faults),
        }
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
        let name = name.value.0;
        if let Some(place) = &value.source
            && place.on_the_hub().is_none()
        {
            faults.push(yaml::Problem::new(yaml::Kind::Invalid, span, "expected `source: hf:ORG/REPO`"));
        } else if let Some(model) = known_model(&name, value) {
            known.insert(name, model);
        }
    }
    if faults.is_empty() { Ok(known) } else { Err(faults.into_problems()) }
}

/// Puts together what was read; none where a part has a fault.
fn known_model(name: &str, written: Written) -> Option<KnownModel> {
    Some(KnownModel {
        name: name.to_owned(),
        source: written.source?.on_the_hub()?,
        license: written.license?.0,
        is_gated: written.is_gated?.0,
        about: written.about?.0,
        prompt: written.prompt?,
        parameters: written.parameters?.0,
        figures: figures(&written.figures?)?,
    })
}

fn figures(sizes: &Sizes) -> Option<Figures> {
    let (hidden, heads) = (sizes.hidden?.0, sizes.heads?.0);
    Some(Figures {
        family: sizes.family?,
        layers: sizes.layers?.0,
        hidden,
        feed_forward: sizes.feed_forward?.0,
        heads,
        kv_heads: sizes.kv_heads?.0,
        head_dim: sizes.head_dim.map_or(hidden / heads, |width| width.0),
        vocab: sizes.vocab?.0,
        context: sizes.context?.0,
        window: sizes.window.map(|window| window.0),
        is_tied: sizes.is_tied?.0,
        is_unchecked: sizes.unchecked?.0,
    })
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
    fn a_source_that_brings_no_template_has_the_style_of_the_catalog() {
        let style = |uri: &str| {
            let source = Pinned { uri: uri.to_owned(), files: Vec::new(), license: None };
            prompt_style(&source)
        };
        assert_eq!(style("hf:lmsys/vicuna-7b-v1.5@0123"), Some(PromptStyle::Vicuna));
        let sum = "hf:tatsu-lab/alpaca-7b-wdiff@0123 over file:./llama-7b";
        assert_eq!(style(sum), Some(PromptStyle::Alpaca));
        for other in
            ["hf:HuggingFaceTB/SmolLM2-135M-Instruct@0123", "hf:a/vicuna-7b-v1.5@0123", "file:vicuna"]
        {
            assert_eq!(style(other), None, "{other}");
        }
    }

    #[test]
    fn sizes_make_the_parameters_that_are_published() {
        for KnownModel { name, figures, parameters, .. } in all() {
            assert_eq!(figures.parameters(), *parameters, "{name}");
        }
    }

    #[test]
    fn every_model_keeps_to_the_laws() {
        // as the hub's tags and the licences' own names have them
        const LICENSES: [&str; 8] = [
            "apache-2.0",
            "bigscience-bloom-rail-1.0",
            "cc-by-nc-4.0",
            "gemma",
            "llama2",
            "llama3.2",
            "mit",
            "qwen-research",
        ];
        for KnownModel { name, figures, license, is_gated, prompt, .. } in all() {
            assert!(LICENSES.contains(&license.as_str()), "{name}: {license}");
            assert_eq!(figures.heads % figures.kv_heads, 0, "{name}");
            assert!(figures.head_dim % 2 == 0 && figures.vocab > 10_000, "{name}");
            // the families whose heads share the width evenly
            if !matches!(figures.family, Family::Qwen3 | Family::Gemma2 | Family::Gemma3 | Family::T5) {
                assert_eq!(figures.head_dim * figures.heads, figures.hidden, "{name}");
            }
            assert!(figures.window.is_none_or(|window| window < figures.context), "{name}");
            let is_asked_for =
                ["gemma", "llama3.2"].contains(&license.as_str()) || name.starts_with("llama-2");
            assert_eq!(*is_gated, is_asked_for, "{name}");
            let is_chat =
                ["instruct", "chat", "-it", "qwen3", "smollm3"].iter().any(|word| name.contains(word));
            assert_eq!(is_chat, *prompt == Prompt::Own, "{name}");
        }
        assert!(
            all().any(
                |model| model.prompt == Prompt::Alpaca && matches!(model.source, SourceRef::Delta { .. })
            )
        );
    }

    #[test]
    fn sizes_forecast_the_bytes_of_a_file() {
        // by hand: 134 479 872 values of two bytes, and 61 norms of 576 values of four
        let model = find("smollm2-135m-instruct").expect("in the catalog");
        assert_eq!(model.figures.bytes(Quant::F16), Bytes(269_100_288));
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
            "the catalog has no model \"llama-3.2-1b-instuct\": did you mean \"llama-3.2-1b-instruct\"? `bramble catalog` lists them all"
        );
        assert_eq!(find("x").expect_err("unknown").suggestion(), None);
        let near = |name: &str| match find(name) {
            Err(Error::NotInCatalog { near, .. }) => near,
            _ => None,
        };
        assert_eq!(near("llama-3.2-1b").as_deref(), Some("llama-3.2-1b-instruct"));
        for (written, meant) in [
            ("qwen2.5-3", "qwen2.5-3b-instruct"),
            ("Qwen-2.5-0.5B", "qwen2.5-0.5b-instruct"),
            ("llama-3-8b", "llama-3.2-3b-instruct"),
            ("llama-2-7b-chta", "llama-2-7b-chat"),
            ("mistral", "mistral-7b-instruct-v0.3"),
            ("phi4-mini", "phi-4-mini-instruct"),
            ("gemma3-1b", "gemma-3-1b-it"),
            ("tinyllama-1.1b-chat-v1.0", "tinyllama-1.1b-chat"),
        ] {
            assert_eq!(near(written).as_deref(), Some(meant), "{written}");
        }
        assert_eq!(near(""), None);
    }

    #[test]
    fn a_catalog_with_a_source_elsewhere_is_refused() {
        let text = "a:\n  source: file:/etc/passwd\n  license: mit\n  about: x\n  prompt: own\n  parameters: 1\n  figures: { family: llama, layers: 1, hidden: 2, feed_forward: 2, heads: 1, kv_heads: 1, vocab: 2, context: 2 }\n";
        let problems = read("c.yaml", text).expect_err("not on the hub").to_string();
        assert!(problems.contains("c.yaml:2:3: expected `source: hf:ORG/REPO`"), "{problems}");
    }
}
