//! One file into the store: resumed, checked while it arrives, tried again.

use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap};
use tokio::sync::mpsc;

use super::error::Error;
use super::web::{Answer, Ask, Backoff, Web};
use crate::source::PinnedFile;
use crate::store::{self, Store, Writer};
use crate::units::Bytes;

/// Pieces between the network and the disk: some 16 KiB each, so that a slow disk slows
/// the network instead of filling the memory.
const PIECES: usize = 64;

/// Brings `file` into the store. `progress` is told how many of its bytes are here.
pub(super) async fn download(
    web: &Web,
    store: &Store,
    ask: &Ask,
    file: &PinnedFile,
    progress: &(dyn Fn(Bytes) + Sync),
) -> Result<(), Error> {
    let keep = |source| Error::Store { what: ask.what.clone(), source };
    let mut backoff = Backoff::default();
    let mut writer = loop {
        let (store, digest) = (store.clone(), file.sha256);
        match off_thread(ask, move || store.resume(&digest)).await?.map_err(keep) {
            Ok(writer) => break writer,
            Err(error) => web.pause_after(&mut backoff, error).await?,
        }
    };
    if store.size(&file.sha256) == Some(file.bytes) {
        // another process has just finished it
        return off_thread(ask, move || writer.discard()).await?.map_err(keep);
    }
    if writer.written() > file.bytes {
        writer.restart().map_err(keep)?;
    }
    // bytes of an earlier run may have rotted: then it is worth beginning again, once
    let mut is_resumed = writer.written() > Bytes::ZERO;
    progress(writer.written());
    loop {
        if writer.written() == file.bytes {
            match off_thread(ask, move || writer.seal()).await? {
                Ok(_) => return Ok(()),
                Err(store::Error::Mismatch { expected, got, .. }) if !is_resumed => {
                    return Err(Error::Mismatch { what: ask.what.clone(), expected, got });
                }
                Err(store::Error::Mismatch { .. }) => {
                    tracing::warn!(what = %ask.what, "what had arrived before is damaged: beginning again");
                    is_resumed = false;
                    let (store, digest) = (store.clone(), file.sha256);
                    writer = off_thread(ask, move || store.resume(&digest)).await?.map_err(keep)?;
                    continue;
                }
                Err(source) => return Err(keep(source)),
            }
        }
        let before = writer.written();
        let (back, result) = attempt(web, writer, ask, file, progress).await?;
        writer = back;
        if writer.written() > before {
            backoff.progressed();
        }
        if let Err(error) = result {
            if matches!(error, Error::WrongLength { .. } | Error::Mismatch { .. }) {
                off_thread(ask, move || writer.discard()).await?.map_err(keep)?;
                return Err(error);
            }
            web.pause_after(&mut backoff, error).await?;
        }
    }
}

/// Asks for what is missing and writes what comes, until it ends or fails.
async fn attempt(
    web: &Web,
    mut writer: Writer,
    ask: &Ask,
    file: &PinnedFile,
    progress: &(dyn Fn(Bytes) + Sync),
) -> Result<(Writer, Result<(), Error>), Error> {
    let from = writer.written();
    let mut ask = ask.clone();
    if from > Bytes::ZERO {
        ask.range = Some((from.0, None));
        ask.if_range = writer.note();
    }
    let answer = match web.ask_once(&ask).await {
        Ok(answer) => answer,
        Err(error) => return Ok((writer, Err(error))),
    };
    if let Err(error) = is_pinned(&answer, &ask, file) {
        return Ok((writer, Err(error)));
    }
    let keep = |source| Error::Store { what: ask.what.clone(), source };
    let version = strong_etag(answer.response.headers());
    let is_other = version.is_some() && ask.if_range.is_some() && version != ask.if_range;
    match begins_at(&answer, from, file) {
        // a server that ignores If-Range: the rest of another version does not fit
        Begin::Here if is_other => {
            writer.restart().map_err(keep)?;
            let (what, got) = (ask.what.clone(), from);
            return Ok((writer, Err(Error::EndedEarly { what, got, expected: file.bytes })));
        }
        Begin::Here => {}
        // another version, or a server without ranges: all of it comes again
        Begin::AtZero => writer.restart().map_err(keep)?,
        Begin::Nowhere => {
            writer.restart().map_err(keep)?;
            let (what, got) = (ask.what.clone(), from);
            return Ok((writer, Err(Error::EndedEarly { what, got, expected: file.bytes })));
        }
        Begin::Wrong(got) => {
            let (what, expected) = (ask.what.clone(), file.bytes);
            return Ok((writer, Err(Error::WrongLength { what, expected, got })));
        }
    }
    let note = version.filter(|_| writer.written() == Bytes::ZERO);
    pump(web, writer, note, answer, &ask, file, progress).await
}

/// Moves the body to the disk: this task reads, a blocking one hashes and writes.
async fn pump(
    web: &Web,
    mut writer: Writer,
    note: Option<String>,
    mut answer: Answer,
    ask: &Ask,
    file: &PinnedFile,
    progress: &(dyn Fn(Bytes) + Sync),
) -> Result<(Writer, Result<(), Error>), Error> {
    let (sender, mut receiver) = mpsc::channel::<bytes::Bytes>(PIECES);
    let mut taken = writer.written();
    let writing = tokio::task::spawn_blocking(move || {
        if let Some(Err(error)) = note.map(|note| writer.set_note(&note)) {
            return (writer, Err(error));
        }
        while let Some(piece) = receiver.blocking_recv() {
            if let Err(error) = writer.write(&piece) {
                return (writer, Err(error));
            }
        }
        (writer, Ok(()))
    });
    let read = loop {
        match web.next_piece(&mut answer.response, &ask.what).await {
            Ok(Some(piece)) => {
                taken += Bytes(piece.len() as u64);
                if taken > file.bytes {
                    let (what, expected) = (ask.what.clone(), file.bytes);
                    break Err(Error::WrongLength { what, expected, got: taken });
                }
                // the receiver is gone only when writing failed, which is told below
                if sender.send(piece).await.is_err() {
                    break Ok(());
                }
                progress(taken);
            }
            Ok(None) if taken < file.bytes => {
                let (what, expected) = (ask.what.clone(), file.bytes);
                break Err(Error::EndedEarly { what, got: taken, expected });
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    drop(sender);
    let (writer, written) = writing.await.map_err(|_| Error::Cut { what: ask.what.clone() })?;
    let result = match written {
        Err(source) => Err(Error::Store { what: ask.what.clone(), source }),
        Ok(()) => read,
    };
    Ok((writer, result))
}

enum Begin {
    /// With the byte that is wanted.
    Here,
    /// With the first byte of the file.
    AtZero,
    /// There are no bytes from there on.
    Nowhere,
    /// It is of a file of another size.
    Wrong(Bytes),
}

/// Finds out where the body of an answer begins.
fn begins_at(answer: &Answer, from: Bytes, file: &PinnedFile) -> Begin {
    let response = &answer.response;
    match response.status() {
        StatusCode::RANGE_NOT_SATISFIABLE => Begin::Nowhere,
        StatusCode::PARTIAL_CONTENT => match content_range(response.headers()) {
            Some((_, Some(total))) if total != file.bytes.0 => Begin::Wrong(Bytes(total)),
            Some((first, _)) if first == from.0 => Begin::Here,
            // a range that was not asked for is as good as none
            _ => Begin::Nowhere,
        },
        _ => match response.content_length() {
            Some(length) if length != file.bytes.0 => Begin::Wrong(Bytes(length)),
            _ if from == Bytes::ZERO => Begin::Here,
            _ => Begin::AtZero,
        },
    }
}

/// Compares what the hub says of the file with what was pinned, before any byte of it.
fn is_pinned(answer: &Answer, ask: &Ask, file: &PinnedFile) -> Result<(), Error> {
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
fn strong_etag(headers: &HeaderMap) -> Option<String> {
    let etag = headers.get(ETAG)?.to_str().ok()?;
    etag.starts_with('"').then(|| etag.to_owned())
}

/// Runs what blocks on the disk where that is allowed.
async fn off_thread<T: Send + 'static>(
    ask: &Ask,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Cut { what: ask.what.clone() })
}
