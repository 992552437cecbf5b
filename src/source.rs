//! Where weights come from: as the manifest says it, and pinned to exact bytes.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::Digest;
use crate::quant::Quant;
use crate::units::Bytes;

/// A source as the manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceRef {
    /// `hf:ORG/REPO[@REV][/FILE.gguf]`: a repository of the model hub.
    Hub {
        /// `ORG/REPO`.
        repo: String,
        /// Branch, tag or commit; `main` where none is named.
        revision: Option<String>,
        /// One GGUF file of the repository; none means its checkpoint.
        file: Option<String>,
    },
    /// `https://…`: one GGUF file.
    Url(String),
    /// `file:PATH`: a GGUF file, or a folder with a checkpoint, on the operator's machine.
    File(String),
    /// `catalog:NAME`: an entry of the catalog of well-known models.
    Catalog(String),
    /// Published differences to be added to weights that the user has.
    Delta {
        /// The weights that the user has.
        base: Box<Self>,
        /// The differences.
        delta: Box<Self>,
    },
}

impl fmt::Display for SourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub { repo, revision, file } => {
                write!(f, "hf:{repo}")?;
                revision.iter().try_for_each(|revision| write!(f, "@{revision}"))?;
                file.iter().try_for_each(|file| write!(f, "/{file}"))
            }
            Self::Url(url) => f.write_str(url),
            Self::File(path) => write!(f, "file:{path}"),
            Self::Catalog(name) => write!(f, "catalog:{name}"),
            Self::Delta { base, delta } => write!(f, "{delta} over {base}"),
        }
    }
}

/// A source resolved to exact bytes, as `bramble.lock` remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Pinned {
    /// The source with its revision made exact: `hf:ORG/REPO@<commit>`.
    pub uri: String,
    /// Every file that is needed, sorted by path.
    pub files: Vec<PinnedFile>,
    /// The licence as the source declares it (an SPDX identifier or the hub's word).
    pub license: Option<String>,
}

impl Pinned {
    /// Returns the size of all files together.
    pub fn bytes(&self) -> Bytes {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Returns whether the source is one GGUF file, to be used as it is.
    pub fn is_gguf(&self) -> bool {
        self.files.len() == 1 && self.files[0].path.ends_with(".gguf")
    }
}

/// One file of a pinned source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct PinnedFile {
    /// The path inside the source, `/`-separated, never absolute, without `..`.
    pub path: String,
    /// Its size.
    pub bytes: Bytes,
    /// Its SHA-256. The hub publishes it for large files only; for small ones it is
    /// what arrived when the source was pinned.
    pub sha256: Digest,
}

/// How the weights that a host gets are made: same recipe, same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Recipe {
    /// The exact source.
    pub source: Pinned,
    /// The quant; none means that the source's GGUF is used as it is.
    pub quant: Option<Quant>,
    /// The version of the converter: raised whenever its output changes.
    pub converter: u32,
}

impl Recipe {
    /// Returns the name of this recipe: the SHA-256 of its canonical JSON (licence left out).
    pub fn digest(&self) -> Digest {
        let files: Vec<_> = self.source.files.iter().map(|f| (&f.path, f.sha256)).collect();
        Digest::of(serde_json::json!([files, self.quant, self.converter]).to_string().as_bytes())
    }
}
