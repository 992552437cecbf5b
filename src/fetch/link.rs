//! One GGUF behind an `https:` address, held to a SHA-256: the one that stands behind `#sha256=`,
//! or that of what came the first time, which the lock then keeps.

use std::fmt;

use reqwest::{StatusCode, Url};

use super::address::{check_path, is_gguf};
use super::answer::content_range;
use super::download::Known;
use super::error::Error;
use super::obtain::{fetch, has_room};
use super::waits::Backoff;
use super::web::Ask;
use super::{Fetcher, choose};
use crate::ids::Digest;
use crate::source::{Pinned, PinnedFile};
use crate::units::Bytes;

/// An address, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    url: Url,
    /// The name of the file at its end.
    pub name: String,
    sha256: Option<Digest>,
}

impl Link {
    /// Reads `https://HOST/…/FILE.gguf[#sha256=HEX]`. Plain HTTP is left to the parsers of
    /// manifests to refuse: what is pinned is checked, whatever way it comes.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let bad = |why| Error::BadSource { text: text.chars().take(300).collect(), why };
        let mut url = Url::parse(text).map_err(|_| bad("it is no address"))?;
        let sha256 = match url.fragment().map(|fragment| fragment.strip_prefix("sha256=")) {
            None => None,
            Some(Some(hex)) => Some(hex.parse().map_err(|_| bad("#sha256= wants 64 hexadecimal digits"))?),
            Some(None) => return Err(bad("behind # only sha256=HEX is understood")),
        };
        url.set_fragment(None);
        let is_web = matches!(url.scheme(), "http" | "https") && url.has_host();
        if !is_web || !url.username().is_empty() || url.password().is_some() {
            return Err(bad("it is no https:// address without a login"));
        }
        let last = url.path_segments().and_then(Iterator::last).unwrap_or_default();
        let name = decode(last);
        if !is_gguf(&name) || name.contains('/') {
            return Err(bad("an address ends with the name of one .gguf file"));
        }
        check_path(text, &name)?;
        choose::gguf(text, &name)?;
        Ok(Self { url, name, sha256 })
    }

    pub(super) fn ask(&self) -> Ask {
        // joined to the hub's address, a whole address stays what it is
        Ask { path: self.url.to_string(), what: self.to_string(), ..Ask::default() }
    }
}

impl fmt::Display for Link {
    /// Leaves out what stands behind `?`: it may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.url.origin().ascii_serialization(), self.url.path())
    }
}

/// Learns the size of the file, and its SHA-256 if nobody says it: by fetching all of it.
pub(super) async fn pin(fetcher: &Fetcher, link: &Link) -> Result<Pinned, Error> {
    let bytes = size(fetcher, link).await?;
    let ask = link.ask();
    let file = |sha256| PinnedFile { path: link.name.clone(), bytes, sha256 };
    let file = if let Some(sha256) = link.sha256 {
        file(sha256)
    } else {
        fetcher.web.note(&format!(
            "no SHA-256 is known of {link}: all of it is fetched now, and what came is what is pinned"
        ));
        // as long as its own digest is not known, its address names what has arrived
        let arriving = file(Digest::of(link.url.as_str().as_bytes()));
        has_room(fetcher, &ask.what, bytes)?;
        file(fetch(fetcher, &ask, &arriving, Known::ByName).await?.digest)
    };
    Ok(Pinned { uri: link.url.to_string(), files: vec![file], license: None })
}

/// Asks how large the file is.
async fn size(fetcher: &Fetcher, link: &Link) -> Result<Bytes, Error> {
    let ask = Ask { range: Some((0, Some(0))), ..link.ask() };
    let mut backoff = Backoff::default();
    let answer = loop {
        match fetcher.web.ask_once(&ask).await {
            Ok(answer) => break answer,
            Err(error) => fetcher.web.pause_after(&mut backoff, error).await?,
        }
    };
    let size = match answer.response.status() {
        StatusCode::PARTIAL_CONTENT => content_range(answer.response.headers()).and_then(|(_, total)| total),
        StatusCode::OK => answer.response.content_length(),
        _ => None,
    };
    let why = || "it does not say how large the file is".to_owned();
    size.filter(|size| *size > 0).map(Bytes).ok_or_else(|| Error::BadAnswer { what: ask.what, why: why() })
}

/// Undoes the escapes of a URL; what is none stays.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        if let Some(byte) = escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_bring_its_digest() {
        let digest = Digest::of(b"x");
        let link = Link::parse(&format!("https://host/a/m%20x.gguf?key=secret#sha256={digest}")).unwrap();
        assert_eq!((link.name.as_str(), link.sha256), ("m x.gguf", Some(digest)));
        assert_eq!(link.to_string(), "https://host/a/m%20x.gguf", "what may be a secret is not shown");
        assert_eq!(link.ask().path, "https://host/a/m%20x.gguf?key=secret");
        assert_eq!(Link::parse("https://host/m.gguf").unwrap().sha256, None);
    }

    #[test]
    fn what_is_no_address_of_a_gguf_is_refused() {
        for text in [
            "host/m.gguf",
            "ftp://host/m.gguf",
            "https://user:pass@host/m.gguf",
            "https://host/m.zip",
            "https://host/..%2fm.gguf",
            "https://host/m.gguf#v2",
            "https://host/m.gguf#sha256=12",
            "https://host/m-00001-of-00002.gguf",
        ] {
            assert!(Link::parse(text).is_err(), "{text}");
        }
    }
}
