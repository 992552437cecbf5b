//! What the hub and its CDN answer.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use serde_json::{Value, json};

use super::wire::{Body, Reply, Request};
use super::{Entry, Fault, Shared};

/// `/api/models/ORG/REPO[/revision/REV|/tree/REV]`
pub(crate) fn api(shared: &Shared, request: &Request) -> Reply {
    let path = request.path.split('?').next().unwrap_or_default();
    let parts: Vec<String> = path.trim_start_matches("/api/models/").split('/').map(decode).collect();
    let [org, name, rest @ ..] = parts.as_slice() else { return Reply::refuse(404, "RepoNotFound") };
    let Some((entries, commit)) = known(shared, org, name) else { return no_repository(request) };
    let (kind, revision) = match rest {
        [] => ("revision", "main"),
        [kind, revision] => (kind.as_str(), revision.as_str()),
        _ => return Reply::refuse(404, ""),
    };
    if revision != "main" && revision != commit {
        return Reply::refuse(404, "RevisionNotFound");
    }
    if kind == "tree" {
        let files = entries.iter().map(|e| {
            let mut file = json!({"type": "file", "oid": e.oid(), "size": e.size, "path": e.name});
            if e.is_large {
                file["lfs"] = json!({"oid": e.sha256, "size": e.size, "pointerSize": 134});
            }
            file
        });
        return Reply::json(&files.collect());
    }
    let mut siblings: Vec<Value> = entries
        .iter()
        .map(|e| {
            let mut file = json!({"rfilename": e.name, "size": e.size, "blobId": e.oid()});
            if e.is_large {
                file["lfs"] = json!({"sha256": e.sha256, "size": e.size, "pointerSize": 134});
            }
            file
        })
        .collect();
    siblings.extend(shared.control().extra_siblings.iter().map(|name| json!({"rfilename": name, "size": 1})));
    let license = license(&shared.dir.join(org).join(name));
    let tags: Vec<String> = license.iter().map(|license| format!("license:{license}")).collect();
    Reply::json(&json!({
        "id": format!("{org}/{name}"), "sha": commit, "private": false, "gated": false, "tags": tags,
        "cardData": { "license": license }, "siblings": siblings,
    }))
}

/// Reads `license:` from the head of a repository's README.md.
fn license(root: &Path) -> Option<String> {
    let card = fs::read_to_string(root.join("README.md")).ok()?;
    card.lines().find_map(|line| line.strip_prefix("license:")).map(|text| text.trim().to_owned())
}

/// `/ORG/REPO/resolve/REV/PATH`
pub(crate) fn resolve(shared: &Shared, request: &Request) -> Reply {
    let parts: Vec<String> = request.path.trim_start_matches('/').split('/').map(decode).collect();
    let [org, name, verb, revision, file @ ..] = parts.as_slice() else { return Reply::refuse(404, "") };
    let Some((entries, commit)) = known(shared, org, name) else { return no_repository(request) };
    if verb != "resolve" {
        return Reply::refuse(404, "");
    }
    if revision != "main" && *revision != commit {
        return Reply::refuse(404, "RevisionNotFound");
    }
    let file = file.join("/");
    let Some(entry) = entries.into_iter().find(|entry| entry.name == file) else {
        return Reply::refuse(404, "EntryNotFound");
    };
    let mut headers = vec![("X-Repo-Commit", commit), ("Accept-Ranges", "bytes".to_owned())];
    if !entry.is_large {
        headers.push(("ETag", format!("\"{}\"", entry.oid())));
        let body = Body::File { path: entry.path, range: 0..entry.size, zeros: 0 };
        return Reply { status: 200, headers, body };
    }
    let mut control = shared.control();
    let signature = format!("s{}", control.signed.len());
    headers.push(("X-Linked-Etag", format!("\"{}\"", entry.sha256)));
    headers.push(("X-Linked-Size", entry.size.to_string()));
    headers.push(("Location", format!("{}/blob?signature={signature}", shared.cdn)));
    control.signed.insert(signature, (entry.path, entry.sha256, request.path.clone()));
    Reply { status: 302, headers, body: Body::Text(String::new()) }
}

/// `/blob?signature=S` at the second port.
pub(crate) fn cdn(shared: &Shared, request: &Request, fault: Option<&Fault>) -> io::Result<Reply> {
    let signature = request.path.rsplit('=').next().unwrap_or_default();
    let Some((path, sha256, _)) = shared.control().signed.get(signature).cloned() else {
        return Ok(Reply::refuse(403, ""));
    };
    if request.headers.contains_key("authorization") {
        // as S3 does: two ways of proving who one is are one too many
        return Ok(Reply::refuse(400, ""));
    }
    if fault == Some(&Fault::NewEtag) {
        *shared.control().etag_salts.entry(path.clone()).or_default() += 1;
    }
    let salt = shared.control().etag_salts.get(&path).copied().unwrap_or(0);
    let etag = format!("\"cdn-{}-{salt}\"", &sha256[..16]);
    let size = fs::metadata(&path)?.len();
    let total = match fault {
        Some(Fault::Longer(more)) => size + more,
        Some(Fault::Shorter(less)) => size - less,
        _ => size,
    };
    let size = size.min(total);
    let mut headers = vec![("ETag", etag.clone()), ("Accept-Ranges", "bytes".to_owned())];
    let is_same = request.headers.get("if-range").is_none_or(|wanted| *wanted == etag);
    let is_same = is_same && fault != Some(&Fault::NoRanges);
    let range = request.headers.get("range").filter(|_| is_same).and_then(|text| parse_range(text, size));
    let (status, range) = match range {
        None => (200, 0..size),
        Some(range) if range.start >= size => {
            headers.push(("Content-Range", format!("bytes */{total}")));
            return Ok(Reply { status: 416, headers, body: Body::Text(String::new()) });
        }
        Some(range) => {
            let shift = u64::from(fault == Some(&Fault::OtherRange) && range.start + 1 < range.end);
            let range = range.start + shift..range.end;
            headers.push(("Content-Range", format!("bytes {}-{}/{total}", range.start, range.end - 1)));
            (206, range)
        }
    };
    Ok(Reply { status, headers, body: Body::File { path, range, zeros: 0 } })
}

/// Reads `bytes=FIRST-[LAST]`.
fn parse_range(text: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let end = if last.is_empty() { size } else { last.parse::<u64>().ok()?.saturating_add(1).min(size) };
    Some(first.parse().ok()?..end)
}

fn known(shared: &Shared, org: &str, name: &str) -> Option<(Vec<Entry>, String)> {
    let is_plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('/');
    if !is_plain(org) || !is_plain(name) {
        return None;
    }
    shared.repository(&format!("{org}/{name}")).ok()
}

/// The hub does not tell strangers whether a repository exists.
fn no_repository(request: &Request) -> Reply {
    let status = if request.headers.contains_key("authorization") { 404 } else { 401 };
    Reply::refuse(status, "RepoNotFound")
}

fn decode(part: impl AsRef<str>) -> String {
    let bytes = part.as_ref().as_bytes();
    let mut out = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        let escaped = bytes.get(i + 1..i + 3).filter(|_| bytes[i] == b'%');
        let value = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(value.unwrap_or(bytes[i]));
        i += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('?');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
