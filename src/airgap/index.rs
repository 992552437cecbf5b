use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::generation::Bundle;
use crate::ids::{Digest, FleetName, ModelName};
use crate::quant::Quant;
use crate::source::Pinned;
use crate::units::Bytes;

/// What is in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// The version of this form: [`Index::FORMAT`].
    pub format: u32,
    /// The version of Bramble that wrote it.
    pub version: String,
    /// When, by the clock of whoever wrote it.
    pub at: String,
    /// Whose it is.
    pub fleet: FleetName,
    /// The text of the manifest.
    pub manifest: String,
    /// The text of its lock.
    pub lock: String,
    /// What hosts run, a bundle for each kind of machine.
    pub programs: Vec<Bundle>,
    /// The models of the manifest.
    pub models: Vec<Model>,
    /// Every blob of the file, in the order of their digests.
    pub blobs: BTreeMap<Digest, Bytes>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Its name in the manifest.
    pub model: ModelName,
    /// Where it comes from, with its licence.
    pub source: Pinned,
    /// Whether the files of the source are in the file, so that other quants can be made of them.
    pub has_source: bool,
    /// What was made of it.
    pub weights: Vec<Weights>,
    /// What a plan has to know of it, as the program of [`Index::version`] writes it down; none where the source is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<serde_json::Value>,
}

/// A GGUF that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// How ([`crate::source::Recipe::digest`]).
    pub recipe: Digest,
    /// The SHA-256 of the GGUF.
    pub digest: Digest,
    /// Its size.
    pub bytes: Bytes,
    /// Its quant.
    pub quant: Option<Quant>,
}

impl Index {
    /// The version of the stored form.
    pub const FORMAT: u32 = 1;

    /// Reads the text of an index, and whether it names only what it has.
    ///
    /// # Errors
    /// [`Error::Newer`] first, so that a newer file is called newer and not broken.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_json::from_slice(text).map_err(Error::Index)?;
        if head.format != Self::FORMAT {
            return Err(Error::Newer { found: head.format, known: Self::FORMAT });
        }
        let index: Self = serde_json::from_slice(text).map_err(Error::Index)?;
        for (what, digest, bytes) in index.named() {
            if index.blobs.get(digest) != Some(&bytes) {
                return Err(Error::NotThere { what });
            }
        }
        Ok(index)
    }

    /// Returns every blob that something in the index needs.
    fn named(&self) -> impl Iterator<Item = (String, &Digest, Bytes)> {
        let programs = self
            .programs
            .iter()
            .map(|bundle| (format!("the program for {}", bundle.target), &bundle.digest, bundle.bytes));
        let weights = self.models.iter().flat_map(|model| {
            let made = model
                .weights
                .iter()
                .map(|made| (format!("{} {}", model.model, quant(made)), &made.digest, made.bytes));
            let files = model.source.files.iter().filter(|_| model.has_source);
            made.chain(
                files.map(|file| (format!("{} of {}", file.path, model.model), &file.sha256, file.bytes)),
            )
        });
        programs.chain(weights)
    }

    /// Returns the bytes of all blobs together.
    pub fn bytes(&self) -> Bytes {
        self.blobs.values().copied().sum()
    }
}

fn quant(weights: &Weights) -> &'static str {
    weights.quant.map_or("as is", Quant::name)
}
