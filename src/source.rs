//! Where weights come from: as the manifest says it, and pinned to exact bytes.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

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

/// Why a text is not a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It begins like none of them.
    #[error(
        "expected hf:ORG/REPO[@REVISION][/FILE.gguf], file:PATH, catalog:NAME or https://…/FILE.gguf, found {0:?}"
    )]
    Form(String),
    /// The repository is not `ORG/REPO`.
    #[error("expected ORG/REPO after hf:, of A-Z, a-z, 0-9, '.', '_' and '-'; found {0:?}")]
    Repo(String),
    /// What is after `@` is not a branch, tag or commit.
    #[error("expected a branch, tag or commit after '@', without '/'; found {0:?}")]
    Revision(String),
    /// What is after the repository is not a GGUF file.
    #[error("expected the path of one .gguf file after the repository, found {0:?}")]
    File(String),
    /// The address is not one that can be fetched.
    #[error("expected https://HOST/…/FILE.gguf without spaces or a login, found {0:?}")]
    Url(String),
    /// The path is empty or has control characters.
    #[error("expected a path after file:, found {0:?}")]
    Path(String),
    /// The catalog has no such names.
    #[error("expected a catalog name of a-z, 0-9, '.' and '-', found {0:?}")]
    Catalog(String),
}

/// Whether a file is a GGUF by its name. The hub's names have their case: `.GGUF` is another name.
fn is_gguf_name(path: &str) -> bool {
    path.strip_suffix(".gguf").is_some_and(|stem| !stem.is_empty())
}

/// Whether `text` is a harmless segment of a path or name on the hub.
fn is_segment(text: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=96).contains(&text.len())
        && text.bytes().all(is_inner)
        && !text.starts_with(['.', '-'])
        && !text.contains("..")
}

impl FromStr for SourceRef {
    type Err = Error;

    /// Reads one of the forms of text; a delta is a mapping in the manifest, never a text.
    fn from_str(text: &str) -> Result<Self, Error> {
        let shown = |text: &str| text.chars().take(120).collect::<String>();
        if let Some(rest) = text.strip_prefix("hf:") {
            return hub(rest);
        }
        if let Some(path) = text.strip_prefix("file:") {
            let is_path = !path.is_empty() && path.len() <= 4096 && !path.chars().any(char::is_control);
            return if is_path { Ok(Self::File(path.to_owned())) } else { Err(Error::Path(shown(path))) };
        }
        if let Some(name) = text.strip_prefix("catalog:") {
            let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
            let is_name = is_segment(name) && name.bytes().all(is_inner);
            return if is_name {
                Ok(Self::Catalog(name.to_owned()))
            } else {
                Err(Error::Catalog(shown(name)))
            };
        }
        if let Some(rest) = text.strip_prefix("https://") {
            let host = rest.split('/').next().unwrap_or_default();
            let is_harmless =
                |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\' | '<' | '>' | '`');
            let is_url = !host.is_empty()
                && host.len() < rest.len()
                && !host.contains('@')
                && text.len() <= 4096
                && text.chars().all(is_harmless);
            return if is_url { Ok(Self::Url(text.to_owned())) } else { Err(Error::Url(shown(text))) };
        }
        Err(Error::Form(shown(text)))
    }
}

fn hub(rest: &str) -> Result<SourceRef, Error> {
    let mut parts = rest.splitn(3, '/');
    let (org, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let file = parts.next();
    let (name, revision) = match name.split_once('@') {
        Some((name, revision)) => (name, Some(revision)),
        None => (name, None),
    };
    if !is_segment(org) || !is_segment(name) {
        return Err(Error::Repo(rest.chars().take(120).collect()));
    }
    if let Some(revision) = revision.filter(|revision| !is_segment(revision)) {
        return Err(Error::Revision(revision.chars().take(120).collect()));
    }
    let is_gguf = |file: &str| file.len() <= 512 && is_gguf_name(file) && file.split('/').all(is_segment);
    if let Some(file) = file.filter(|file| !is_gguf(file)) {
        return Err(Error::File(file.chars().take(120).collect()));
    }
    Ok(SourceRef::Hub {
        repo: format!("{org}/{name}"),
        revision: revision.map(str::to_owned),
        file: file.map(str::to_owned),
    })
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

/// Stands between differences and their base, in the URI and in the licence of their sum.
const OVER: &str = " over ";

/// A licence that a publisher does not name, beside one that does.
const NO_LICENSE: &str = "unstated";

impl Pinned {
    /// Returns differences and their base as one source: the files of each are in a folder of
    /// its own, `delta/` and `base/`, and both licences are named.
    pub fn sum(base: &Self, delta: &Self) -> Self {
        let under = |folder: &str, source: &Self| -> Vec<PinnedFile> {
            let path = |file: &PinnedFile| format!("{folder}/{}", file.path);
            source.files.iter().map(|file| PinnedFile { path: path(file), ..file.clone() }).collect()
        };
        let license = |source: &Self| source.license.clone().unwrap_or_else(|| NO_LICENSE.to_owned());
        let is_named = base.license.is_some() || delta.license.is_some();
        Self {
            uri: format!("{}{OVER}{}", delta.uri, base.uri),
            files: [under("base", base), under("delta", delta)].concat(),
            license: is_named.then(|| format!("{}{OVER}{}", license(delta), license(base))),
        }
    }

    /// Returns base and differences, of a source that is their sum.
    pub fn parts(&self) -> Option<(Self, Self)> {
        let (delta_uri, base_uri) = self.uri.split_once(OVER)?;
        let of = |folder: &str| -> Vec<PinnedFile> {
            let inner = |file: &PinnedFile| {
                let path = file.path.strip_prefix(folder)?.strip_prefix('/')?.to_owned();
                Some(PinnedFile { path, ..file.clone() })
            };
            self.files.iter().filter_map(inner).collect()
        };
        let (base, delta) = (of("base"), of("delta"));
        if base.is_empty() || delta.is_empty() || base.len() + delta.len() != self.files.len() {
            return None;
        }
        let licenses = self.license.as_deref().and_then(|license| license.split_once(OVER));
        let (delta_license, base_license) = licenses.unzip();
        let named = |license: Option<&str>| license.filter(|name| *name != NO_LICENSE).map(str::to_owned);
        let base = Self { uri: base_uri.to_owned(), files: base, license: named(base_license) };
        let delta = Self { uri: delta_uri.to_owned(), files: delta, license: named(delta_license) };
        Some((base, delta))
    }

    /// Returns the repository of the hub that it is, `ORG/REPO`; of differences, theirs.
    pub fn repository(&self) -> Option<&str> {
        let uri = self.uri.split_once(OVER).map_or(self.uri.as_str(), |(delta, _)| delta);
        uri.strip_prefix("hf:")?.split('@').next()
    }

    /// Returns the size of all files together.
    pub fn bytes(&self) -> Bytes {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Returns whether the source is one GGUF file, to be used as it is.
    pub fn is_gguf(&self) -> bool {
        self.files.len() == 1 && is_gguf_name(&self.files[0].path)
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
    /// The style of prompts that the weights get a chat template for, where the source brings none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_style: Option<String>,
    /// The importance matrix that the quant is made with, as the manifest names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imatrix: Option<PinnedFile>,
}

impl Recipe {
    /// Returns the name of this recipe: the SHA-256 of its canonical JSON (licence left out).
    pub fn digest(&self) -> Digest {
        let files: Vec<_> = self.source.files.iter().map(|f| (&f.path, f.sha256)).collect();
        let mut parts = vec![json!(files), json!(self.quant), json!(self.converter)];
        parts.extend(self.prompt_style.iter().map(|style| json!(style)));
        // weights tell the name of the file that they were made with, without its folder
        let imatrix = self.imatrix.as_ref();
        parts.extend(imatrix.map(|file| json!([file.path.rsplit('/').next(), file.sha256])));
        Digest::of(json!(parts).to_string().as_bytes())
    }
}

#[cfg(test)]
mod texts_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_source_reads_back_as_it_is_shown() {
        let sources = [
            "hf:org/repo",
            "hf:HuggingFaceTB/SmolLM2-135M-Instruct@main",
            "hf:a/b@0f1e2d/sub/model-Q4_0.gguf",
            "hf:a/b/model.gguf",
            "https://example.org/a/model.gguf",
            "file:./weights/llama 7b",
            "catalog:llama-3.2-1b-instruct",
        ];
        for text in sources {
            assert_eq!(text.parse::<SourceRef>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn a_sum_falls_into_its_parts_again() {
        let file = |path: &str| PinnedFile {
            path: path.to_owned(),
            bytes: Bytes(path.len() as u64),
            sha256: Digest::of(path.as_bytes()),
        };
        let pinned = |uri: &str, license: Option<&str>| Pinned {
            uri: uri.to_owned(),
            files: vec![file("config.json"), file(uri)],
            license: license.map(str::to_owned),
        };
        let both = [
            (pinned("file:./llama 7b", None), pinned("hf:org/delta@0123", Some("apache-2.0"))),
            (pinned("hf:org/base@0123", Some("llama2")), pinned("hf:org/delta@0123", None)),
            (pinned("hf:org/base@0123", None), pinned("file:delta", None)),
        ];
        for (base, delta) in both {
            let sum = Pinned::sum(&base, &delta);
            assert!(sum.files.is_sorted() && sum.bytes() == base.bytes() + delta.bytes());
            assert_eq!(sum.parts(), Some((base.clone(), delta)));
            assert_eq!(base.parts(), None);
        }
        let (base, delta) = (pinned("hf:a/b@0", Some("llama2")), pinned("hf:c/d@1", Some("mit")));
        let sum = Pinned::sum(&base, &delta);
        assert_eq!(sum.license.as_deref(), Some("mit over llama2"));
        assert_eq!((sum.repository(), base.repository()), (Some("c/d"), Some("a/b")));
        assert_eq!(pinned("file:delta", None).repository(), None);
    }

    #[test]
    fn a_style_of_prompts_makes_other_bytes_and_none_leaves_the_name_as_it_was() {
        let source = Pinned { uri: "hf:a/b@0".to_owned(), files: Vec::new(), license: None };
        let recipe = |prompt_style: Option<&str>| {
            let prompt_style = prompt_style.map(str::to_owned);
            Recipe { source: source.clone(), quant: None, converter: 2, prompt_style, imatrix: None }
        };
        assert_eq!(recipe(None).digest(), Digest::of(b"[[],null,2]"));
        assert_ne!(recipe(Some("vicuna")).digest(), recipe(None).digest());
        assert_ne!(recipe(Some("vicuna")).digest(), recipe(Some("alpaca")).digest());
    }

    #[test]
    fn weights_made_with_an_importance_matrix_are_others() {
        let recipe = |imatrix: Option<(&str, &str)>| Recipe {
            source: Pinned { uri: "hf:a/b@0".to_owned(), files: Vec::new(), license: None },
            quant: Some(Quant::Q4_0),
            converter: 2,
            prompt_style: None,
            imatrix: imatrix.map(|(path, text)| PinnedFile {
                path: path.to_owned(),
                bytes: Bytes(text.len() as u64),
                sha256: Digest::of(text.as_bytes()),
            }),
        };
        let digest = |imatrix| recipe(imatrix).digest();
        assert_eq!(digest(None), Digest::of(br#"[[],"Q4_0",2]"#));
        let usual = digest(Some(("chat.imatrix", "measured")));
        assert_ne!(usual, digest(None));
        assert_ne!(usual, digest(Some(("chat.imatrix", "measured anew"))));
        assert_ne!(usual, digest(Some(("other.imatrix", "measured"))), "its name stands in the weights");
        assert_eq!(usual, digest(Some(("matrices/chat.imatrix", "measured"))), "its folder does not");
    }

    #[test]
    fn a_source_cannot_climb_or_smuggle() {
        use Error as E;
        let fault = |text: &str| text.parse::<SourceRef>().expect_err(text);
        assert!(matches!(fault("org/repo"), E::Form(_)));
        assert!(matches!(fault("http://example.org/m.gguf"), E::Form(_)));
        assert!(matches!(fault("hf:org"), E::Repo(_)));
        assert!(matches!(fault("hf:../repo"), E::Repo(_)));
        assert!(matches!(fault("hf:org/re po"), E::Repo(_)));
        assert!(matches!(fault("hf:org/repo@"), E::Revision(_)));
        assert!(matches!(fault("hf:org/repo@a;b"), E::Revision(_)));
        assert!(matches!(fault("hf:org/repo/../../x.gguf"), E::File(_)));
        assert!(matches!(fault("hf:org/repo/x.safetensors"), E::File(_)));
        assert!(matches!(fault("https://user@host/x.gguf"), E::Url(_)));
        assert!(matches!(fault("https://host"), E::Url(_)));
        assert!(matches!(fault("file:"), E::Path(_)));
        assert!(matches!(fault("file:a\nb"), E::Path(_)));
        assert!(matches!(fault("catalog:A_b"), E::Catalog(_)));
    }
}
