//! What the headers of an answer say of the body, before any byte of it.

use std::ops::Range;

use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap};

use super::error::Error;
use super::web::{Answer, Ask};
use crate::source::PinnedFile;
use crate::units::Bytes;

/// Which bytes an answer to a question for `wanted` brings.
pub(super) enum Begin {
    /// Those that are wanted, or the first of them.
    Here,
    /// The whole file, from its first byte.
    AtZero,
    /// None of these.
    Nowhere,
    /// Those of a file of another size.
    Wrong(Bytes),
}

/// Finds out where the body of an answer begins.
pub(super) fn begins_at(answer: &Answer, wanted: &Range<u64>, file: &PinnedFile) -> Begin {
    let response = &answer.response;
    match response.status() {
        StatusCode::RANGE_NOT_SATISFIABLE => Begin::Nowhere,
        StatusCode::PARTIAL_CONTENT => match content_range(response.headers()) {
            Some((_, Some(total))) if total != file.bytes.0 => Begin::Wrong(Bytes(total)),
            Some((first, _)) if first == wanted.start => Begin::Here,
            // a range that was not asked for is as good as none
            _ => Begin::Nowhere,
        },
        _ => match response.content_length() {
            Some(length) if length != file.bytes.0 => Begin::Wrong(Bytes(length)),
            _ if *wanted == (0..file.bytes.0) => Begin::Here,
            _ => Begin::AtZero,
        },
    }
}

/// Compares what the hub says of the file with what was pinned, before any byte of it.
pub(super) fn is_pinned(answer: &Answer, ask: &Ask, file: &PinnedFile) -> Result<(), Error> {
    if ask.repo.is_empty() {
        // only the hub speaks of these
        return Ok(());
    }
    let what = || ask.what.clone();
    if answer.commit.as_ref().is_some_and(|commit| *commit != ask.revision) {
        let why = "it is of another commit than the one that was asked for".to_owned();
        return Err(Error::BadAnswer { what: what(), why });
    }
    if let Some(got) = answer.linked_size
        && got != file.bytes
    {
        return Err(Error::WrongLength { what: what(), expected: file.bytes, got });
    }
    // small files have git's own hash there, which is shorter
    let published = answer.linked_etag.as_ref().and_then(|etag| etag.trim_matches('"').parse().ok());
    match published {
        Some(got) if got != file.sha256 => Err(Error::Mismatch { what: what(), expected: file.sha256, got }),
        _ => Ok(()),
    }
}

/// Reads `Content-Range: bytes FIRST-LAST/TOTAL`.
pub(super) fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()))
}

/// Returns the answer's `ETag`; a weak one promises nothing about bytes.
pub(super) fn strong_etag(headers: &HeaderMap) -> Option<String> {
    let etag = headers.get(ETAG)?.to_str().ok()?;
    etag.starts_with('"').then(|| etag.to_owned())
}
