//! Headers of weights without the weights: by range requests, or from what is here.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use reqwest::StatusCode;

use super::answer::content_range;
use super::error::Error;
use super::header::{self, Scan};
use super::{Fetcher, Place, python};
use crate::checkpoint::{self, Stored, torch};
use crate::source::{Pinned, PinnedFile};
use crate::store::write_whole;
use crate::units::Bytes;

/// What is asked for first: the headers of most shards fit.
const FIRST_STEP: u64 = 128 << 10;

/// The headers of all files of one source; those of a model of 400 GB have some ten MiB.
const LONGEST_HEADERS: usize = 256 << 20;

/// A configuration file longer than this is none.
const CONFIG_MAX: u64 = 64 << 20;

/// What a pinned source says of itself, unread: the rooms of the formats understand it.
#[derive(Debug, Clone, PartialEq)]
pub struct RawModel {
    /// The headers.
    pub header: RawHeader,
    /// Of a checkpoint, the small files beside `config.json`, by name and as they are: with
    /// them a tokenizer is judged before any weights are here.
    pub small: Vec<(String, Vec<u8>)>,
}

/// The headers of a checkpoint or of a GGUF.
#[derive(Debug, Clone, PartialEq)]
pub enum RawHeader {
    /// A checkpoint.
    Checkpoint {
        /// `config.json`.
        config: serde_json::Value,
        /// The JSON header of each shard as safetensors has it, without the length before it, in the
        /// order of the pinned files. What a torch file or a sum has is written in the same form.
        shards: Vec<Vec<u8>>,
    },
    /// One GGUF: its first bytes, up to the end of the tensor list.
    Gguf {
        /// From the first byte of the file.
        header: Vec<u8>,
    },
}

pub(super) async fn describe(fetcher: &Fetcher, pinned: &Pinned) -> Result<RawModel, Error> {
    if let Some((base, delta)) = pinned.parts() {
        return sum(fetcher, pinned, &base, &delta).await;
    }
    let place = fetcher.place(pinned)?;
    if pinned.is_gguf() {
        let header = head(fetcher, &place, &pinned.files[0], header::gguf).await?;
        return Ok(RawModel { header: RawHeader::Gguf { header }, small: Vec::new() });
    }
    let file = |name: &str| pinned.files.iter().find(|file| file.path == name);
    let missing = || Error::NotACheckpoint {
        what: pinned.uri.clone(),
        why: "there is no config.json in it".to_owned(),
    };
    let config = json(fetcher, &place, file("config.json").ok_or_else(missing)?).await?;
    let (mut shards, mut length) = (Vec::new(), 0);
    for file in &pinned.files {
        let mut head = match file.path.rsplit_once('.') {
            Some((_, "safetensors")) => head(fetcher, &place, file, header::safetensors).await?,
            Some((_, "bin")) => torch_head(fetcher, &place, file).await?,
            _ => continue,
        };
        length += head.len();
        if length > LONGEST_HEADERS {
            let (what, most) = (pinned.uri.clone(), Bytes(LONGEST_HEADERS as u64));
            return Err(Error::BadHeader {
                what,
                why: format!("those of all its files are longer than {most}"),
            });
        }
        shards.push(head.split_off(8));
    }
    let mut small = Vec::new();
    let is_small = |name: &str| name != "config.json" && super::choose::SMALL.contains(&name);
    for file in pinned.files.iter().filter(|file| is_small(&file.path)) {
        small.push((file.path.clone(), whole(fetcher, &place, file).await?));
    }
    Ok(RawModel { header: RawHeader::Checkpoint { config, shards }, small })
}

/// Describes differences and their base: the tensors are those of the sum, all else came with
/// the differences.
async fn sum(fetcher: &Fetcher, pinned: &Pinned, base: &Pinned, delta: &Pinned) -> Result<RawModel, Error> {
    let bad = |why: String| Error::BadHeader { what: pinned.uri.clone(), why };
    let no_sum = || bad("differences and their base are both checkpoints".to_owned());
    // the same function once more: the future has to be boxed
    let (base, raw) =
        tokio::try_join!(Box::pin(describe(fetcher, base)), Box::pin(describe(fetcher, delta)))?;
    let RawHeader::Checkpoint { shards: base_shards, .. } = &base.header else { return Err(no_sum()) };
    let RawHeader::Checkpoint { config, shards } = raw.header else { return Err(no_sum()) };
    let (base, delta) = (tensors(base_shards), tensors(&shards));
    let added = base.and_then(|base| checkpoint::add(&base, &delta?));
    let shards = vec![checkpoint::render(&added.map_err(|error| bad(error.to_string()))?).into_bytes()];
    Ok(RawModel { header: RawHeader::Checkpoint { config, shards }, ..raw })
}

fn tensors(shards: &[Vec<u8>]) -> Result<BTreeMap<String, Stored>, checkpoint::Error> {
    let mut all = BTreeMap::new();
    for json in shards {
        let header = [&(json.len() as u64).to_le_bytes()[..], json].concat();
        all.extend(checkpoint::Header::parse(&header)?.tensors);
    }
    Ok(all)
}

/// Returns what a torch file has, as the head of a safetensors file.
async fn torch_head(fetcher: &Fetcher, place: &Place, file: &PinnedFile) -> Result<Vec<u8>, Error> {
    let bad = |why: String| Error::BadHeader { what: file.path.clone(), why };
    let kept = fetcher.store.root().join("headers").join(file.sha256.to_string());
    let source = From::of(fetcher, place, file).await?;
    if matches!(source, From::Web(_)) {
        let head = read_piece(kept.clone(), 0, header::SAFETENSORS_MAX).await.unwrap_or_default();
        let scanned = header::safetensors(&head, Bytes(head.len() as u64));
        if matches!(scanned, Scan::Whole(bytes) if bytes == head.len() as u64) {
            return Ok(head);
        }
    }
    let mut scan = torch::Scan::new(file.bytes.0);
    let contents = loop {
        match scan.step().map_err(|error| bad(error.to_string()))? {
            torch::Step::Done(contents) => break contents,
            torch::Step::Need(range) => {
                let mut piece = Vec::new();
                match &source {
                    From::File(path) => {
                        piece = read_piece(path.clone(), range.start, range.end - range.start).await?;
                    }
                    From::Web(place) => {
                        more(fetcher, place, file, range.start, &mut piece, range.end).await?;
                    }
                }
                scan.take(range.start, piece);
            }
        }
    };
    let json = checkpoint::render(&contents.tensors());
    let head = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    if matches!(source, From::Web(_)) {
        keep(fetcher, kept, head.clone()).await;
    }
    Ok(head)
}

async fn json(fetcher: &Fetcher, place: &Place, file: &PinnedFile) -> Result<serde_json::Value, Error> {
    let text = whole(fetcher, place, file).await?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::BadAnswer { what: file.path.clone(), why: error.to_string() })
}

/// Returns a small file as it is.
async fn whole(fetcher: &Fetcher, place: &Place, file: &PinnedFile) -> Result<Vec<u8>, Error> {
    let bad = |why: String| Error::BadAnswer { what: file.path.clone(), why };
    if file.bytes.0 > CONFIG_MAX {
        return Err(bad(format!("it is longer than {}", Bytes(CONFIG_MAX))));
    }
    let path = match place {
        Place::Hub(_) | Place::Link(_) => {
            fetcher.bring(place, std::slice::from_ref(file)).await?;
            fetcher.store.path(&file.sha256)
        }
        Place::Local(folder) => super::local::place(folder, file),
    };
    read_head(path, file.bytes.0).await
}

/// Returns the header of one file.
async fn head(
    fetcher: &Fetcher,
    place: &Place,
    file: &PinnedFile,
    scan: fn(&[u8], Bytes) -> Scan,
) -> Result<Vec<u8>, Error> {
    let bad = |why: String| Error::BadHeader { what: file.path.clone(), why };
    // headers stay, so that planning again needs no network; the blob itself is trusted more
    let kept = fetcher.store.root().join("headers").join(file.sha256.to_string());
    let source = From::of(fetcher, place, file).await?;
    let mut head = match source {
        From::Web(_) => read_head(kept.clone(), header::GGUF_MAX).await.unwrap_or_default(),
        From::File(_) => Vec::new(),
    };
    let is_kept = !head.is_empty();
    loop {
        match scan(&head, file.bytes) {
            Scan::Whole(bytes) => {
                head.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
                if matches!(source, From::Web(_)) && !is_kept {
                    keep(fetcher, kept, head.clone()).await;
                }
                return Ok(head);
            }
            Scan::Bad(why) => return Err(bad(why)),
            Scan::More(need) => {
                // doubling keeps the number of requests small whatever the header's length
                let wish = need.max(FIRST_STEP).max(head.len() as u64 * 2).min(file.bytes.0);
                match &source {
                    From::File(path) => head = read_head(path.clone(), wish).await?,
                    From::Web(place) => more(fetcher, place, file, 0, &mut head, wish).await?,
                }
                if (head.len() as u64) < need {
                    return Err(bad("the file ends inside it".to_owned()));
                }
            }
        }
    }
}

/// Where the bytes of a file come from.
enum From<'a> {
    File(PathBuf),
    Web(&'a Place),
}

impl<'a> From<'a> {
    async fn of(fetcher: &Fetcher, place: &'a Place, file: &PinnedFile) -> Result<Self, Error> {
        Ok(match place {
            Place::Local(folder) => Self::File(super::local::place(folder, file)),
            _ if fetcher.is_here(file) => Self::File(fetcher.store.path(&file.sha256)),
            Place::Hub(address) if fetcher.is_offline() => {
                let (fetcher, address, file) = (fetcher.clone(), address.clone(), file.clone());
                let what = file.path.clone();
                let found = tokio::task::spawn_blocking(move || {
                    python::find(fetcher.settings.hub_cache.as_deref()?, &address, &file, &fetcher.store)
                });
                found.await.map_err(|_| Error::Cut { what })?.map_or(Self::Web(place), Self::File)
            }
            _ => Self::Web(place),
        })
    }
}

/// Fetches the bytes of a file up to `until`: `head` has those from `from` on.
async fn more(
    fetcher: &Fetcher,
    place: &Place,
    file: &PinnedFile,
    from: u64,
    head: &mut Vec<u8>,
    until: u64,
) -> Result<(), Error> {
    let web = &fetcher.web;
    let mut backoff = super::waits::Backoff::default();
    while from + (head.len() as u64) < until {
        let before = head.len();
        let Some(mut ask) = place.ask(&file.path) else { return Ok(()) };
        ask.range = Some((from + before as u64, Some(until - 1)));
        if let Err(error) = more_once(web, &ask, from, head, until).await {
            if head.len() > before {
                backoff.progressed();
            }
            web.pause_after(&mut backoff, error).await?;
        }
    }
    Ok(())
}

async fn more_once(
    web: &super::web::Web,
    ask: &super::web::Ask,
    from: u64,
    head: &mut Vec<u8>,
    until: u64,
) -> Result<(), Error> {
    let mut answer = web.ask_once(ask).await?;
    let bad = |why: &str| Error::BadAnswer { what: ask.what.clone(), why: why.to_owned() };
    // a server without ranges sends all of it from the start: the first part is passed over
    let mut skip = match answer.response.status() {
        StatusCode::PARTIAL_CONTENT => match content_range(answer.response.headers()) {
            Some((first, _)) if first == from + head.len() as u64 => 0,
            _ => return Err(bad("it is another range than the one that was asked for")),
        },
        StatusCode::OK => usize::try_from(from).unwrap_or(usize::MAX).saturating_add(head.len()),
        _ => return Err(bad("the file is shorter than it was pinned")),
    };
    while let Some(piece) = web.next_piece(&mut answer.response, &ask.what).await? {
        let passed = skip.min(piece.len());
        skip -= passed;
        let piece = &piece[passed..];
        let room = usize::try_from(until - from).unwrap_or(usize::MAX) - head.len();
        head.extend_from_slice(&piece[..room.min(piece.len())]);
        if from + head.len() as u64 == until {
            return Ok(());
        }
    }
    let (got, expected) = (Bytes(from + head.len() as u64), Bytes(until));
    Err(Error::EndedEarly { what: ask.what.clone(), got, expected })
}

/// Reads at most `max` bytes from the start of a file.
async fn read_head(path: PathBuf, max: u64) -> Result<Vec<u8>, Error> {
    read_piece(path, 0, max).await
}

/// Reads at most `max` bytes of a file from `start` on.
async fn read_piece(path: PathBuf, start: u64, max: u64) -> Result<Vec<u8>, Error> {
    let what = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || {
        let read = |path: &Path| {
            let mut file = std::fs::File::open(path)?;
            file.seek(SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            file.take(max).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read(&path).map_err(|source| Error::Local { path, source })
    });
    read.await.map_err(|_| Error::Cut { what })?
}

/// Keeps a header for the next time. It only saves requests, so that failing is no matter.
async fn keep(fetcher: &Fetcher, path: PathBuf, head: Vec<u8>) {
    let folder = fetcher.store.root().join("headers");
    let kept = tokio::task::spawn_blocking(move || {
        if std::fs::create_dir_all(folder).is_ok() {
            drop(write_whole(&path, &head));
        }
    });
    drop(kept.await);
}
