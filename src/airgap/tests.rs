use std::cell::Cell;
use std::fs;
use std::path::PathBuf;

use super::*;
use crate::generation::Bundle;
use crate::ids::Digest;
use crate::signature::{self, SigningKey};
use crate::source::{Pinned, PinnedFile};
use crate::store::Store;
use crate::units::Bytes;

/// A machine that exports: a program, the file of a source, and a GGUF that was made of it.
struct Site {
    dir: tempfile::TempDir,
    key: SigningKey,
    index: Index,
    blobs: Vec<Blob>,
}

const CONTENTS: [&[u8]; 3] = [b"program", &[7; 3_000_000], b""];

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut blobs: Vec<Blob> = CONTENTS
            .iter()
            .enumerate()
            .map(|(n, bytes)| {
                let path = dir.path().join(format!("blob-{n}"));
                fs::write(&path, bytes).unwrap();
                Blob { digest: Digest::of(bytes), bytes: Bytes(bytes.len() as u64), path }
            })
            .collect();
        let [program, file, made] = [0, 1, 2].map(|n| blobs[n].clone());
        let bundle = Bundle {
            format: 1,
            target: "aarch64-unknown-linux-gnu".to_owned(),
            machine: "aarch64".to_owned(),
            file: "aarch64.tar.gz".to_owned(),
            digest: program.digest,
            bytes: program.bytes,
            unpacked_bytes: Bytes(9),
            version: "0.1.0".to_owned(),
            glibc: "2.36".to_owned(),
            gpu: None,
        };
        let files =
            vec![PinnedFile { path: "model.safetensors".to_owned(), bytes: file.bytes, sha256: file.digest }];
        let model = Model {
            model: "chat".parse().unwrap(),
            source: Pinned { uri: "hf:a/b@0123".to_owned(), files, license: Some("apache-2.0".to_owned()) },
            has_source: true,
            weights: vec![Weights {
                recipe: Digest::of(b"recipe"),
                digest: made.digest,
                bytes: made.bytes,
                quant: None,
            }],
            facts: None,
        };
        let index = Index {
            format: Index::FORMAT,
            version: "0.1.0".to_owned(),
            at: "2026-11-28T10:00:00Z".to_owned(),
            fleet: "home".parse().unwrap(),
            manifest: "bramble: 1\n".to_owned(),
            lock: "{}\n".to_owned(),
            programs: vec![bundle],
            models: vec![model],
            blobs: blobs.iter().map(|blob| (blob.digest, blob.bytes)).collect(),
        };
        blobs.sort_by_key(|blob| blob.digest);
        Self { dir, key: SigningKey::generate().unwrap().0, index, blobs }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("site.bramble")
    }

    fn export(&self) -> PathBuf {
        write(&self.path(), &self.index, &self.blobs, &self.key, &|_| {}).unwrap();
        self.path()
    }

    fn open(&self) -> Result<Opened, Error> {
        open(&self.path(), &[self.key.public().unwrap()])
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

#[test]
fn what_is_exported_is_taken_in_and_a_second_time_nothing_is() {
    let site = Site::new();
    site.export();
    let opened = site.open().unwrap();
    assert_eq!(opened.index, site.index);
    assert_eq!(opened.comment, "fleet home bramble 0.1.0 at 2026-11-28T10:00:00Z");
    let (_dir, store) = store();
    let last = Cell::new(Bytes::ZERO);
    let received = opened.receive(&store, &|bytes| last.set(bytes)).unwrap();
    assert_eq!(received, Received { new: 3, bytes: Bytes(3_000_007), known: 0 });
    assert_eq!(last.get(), opened.index.bytes());
    for blob in &site.blobs {
        assert_eq!(store.verify(&blob.digest).unwrap(), blob.bytes);
    }
    let again = opened.receive(&store, &|_| {}).unwrap();
    assert_eq!(again, Received { new: 0, bytes: Bytes::ZERO, known: 3 });
}

#[test]
fn the_same_things_give_the_same_file() {
    let site = Site::new();
    let first = fs::read(site.export()).unwrap();
    assert_eq!(first, fs::read(site.export()).unwrap());
}

#[test]
fn nobody_is_believed_whose_key_was_not_named() {
    let site = Site::new();
    site.export();
    let stranger = SigningKey::generate().unwrap().0.public().unwrap();
    let refused = open(&site.path(), &[stranger]).unwrap_err();
    assert!(
        matches!(refused, Error::Signature { source: signature::Error::OtherKey { .. }, .. }),
        "{refused}"
    );
    assert!(open(&site.path(), &[]).is_err());
    assert!(open(&site.path(), &[stranger, site.key.public().unwrap()]).is_ok());
}

#[test]
fn a_bit_that_fell_over_anywhere_is_found_and_nothing_wrong_is_kept() {
    let site = Site::new();
    let good = fs::read(site.export()).unwrap();
    let mut positions: Vec<usize> = (0..good.len()).step_by(40_009).collect();
    positions.extend((0..8192).step_by(61));
    for at in positions {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(site.path(), &bad).unwrap();
        let (_dir, store) = store();
        let outcome = site.open().and_then(|opened| opened.receive(&store, &|_| {}).map(|_| opened.index));
        if let Ok(index) = outcome {
            // padding, and what tar notes beside names: nothing that is kept
            assert_eq!(index, site.index, "at {at}");
        }
        for made in store.list().unwrap() {
            assert_eq!(store.verify(&made.digest).unwrap(), made.bytes, "at {at}");
            assert!(site.index.blobs.contains_key(&made.digest), "at {at}");
        }
    }
}

#[test]
fn a_file_that_is_cut_short_goes_on_where_it_was_once_it_is_whole() {
    let site = Site::new();
    let good = fs::read(site.export()).unwrap();
    let (_dir, store) = store();
    for keep in [0, 100, 2000, good.len() / 2, good.len() - 1500] {
        fs::write(site.path(), &good[..keep]).unwrap();
        let cut = site.open().and_then(|opened| opened.receive(&store, &|_| {}));
        assert!(cut.is_err(), "{keep} of {}", good.len());
    }
    fs::write(site.path(), &good).unwrap();
    site.open().unwrap().receive(&store, &|_| {}).unwrap();
    assert!(site.blobs.iter().all(|blob| store.has(&blob.digest)));
}

#[test]
fn an_entry_that_the_index_does_not_name_is_refused_wherever_it_would_go() {
    let site = Site::new();
    site.export();
    let opened = site.open().unwrap();
    for name in ["../../evil", "/etc/passwd", "blobs/sha256/../../x", "blobs/sha256/00"] {
        let mut bytes = fs::read(site.path()).unwrap();
        bytes.truncate(usize::try_from(blobs_at(&site)).unwrap());
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(4);
        header.set_mode(0o644);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&[b'x'; 512]);
        bytes.extend_from_slice(&[0; 1024]);
        fs::write(site.path(), bytes).unwrap();
        let (dir, store) = store();
        let refused = opened.receive(&store, &|_| {}).unwrap_err();
        assert!(refused.to_string().contains("not one that its index names"), "{refused}");
        assert!(store.list().unwrap().is_empty());
        assert!(!dir.path().join("../evil").exists());
        site.export();
    }
}

#[test]
fn an_entry_that_is_about_another_is_refused_before_it_is_read() {
    let site = Site::new();
    let good = fs::read(site.export()).unwrap();
    let opened = site.open().unwrap();
    // names, links and attributes for the next, and a list of holes: each would be read whole, and says that it is endless
    for kind in *b"LKxgS" {
        let mut header = tar::Header::new_gnu();
        header.set_size(1 << 40);
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_cksum();
        for at in [0, usize::try_from(blobs_at(&site)).unwrap()] {
            let bytes = [&good[..at], header.as_bytes(), &vec![b'x'; 1 << 20]].concat();
            fs::write(site.path(), bytes).unwrap();
            let (_dir, store) = store();
            let refused = match at {
                0 => site.open().unwrap_err(),
                _ => opened.receive(&store, &|_| {}).unwrap_err(),
            };
            let why = if at == 0 { "index.json is missing" } else { "not one that its index names" };
            assert!(refused.to_string().contains(why), "{kind}, {at}: {refused}");
        }
        fs::write(site.path(), &good).unwrap();
    }
}

/// Returns where the first blob begins: behind two entries.
fn blobs_at(site: &Site) -> u64 {
    let mut archive = tar::Archive::new(fs::File::open(site.path()).unwrap());
    let third = archive.entries().unwrap().nth(2).unwrap().unwrap();
    third.raw_header_position()
}

#[test]
fn an_index_names_only_what_it_has() {
    let site = Site::new();
    let mut without = site.index.clone();
    without.blobs.remove(&Digest::of(CONTENTS[1]));
    let parse = |index: &Index| Index::parse(&serde_json::to_vec(index).unwrap());
    assert_eq!(parse(&site.index).unwrap(), site.index);
    let said = parse(&without).unwrap_err().to_string();
    assert_eq!(said, "its index names model.safetensors of chat, which is not in it: export it again");
    let newer = Index { format: 2, ..site.index.clone() };
    let said = parse(&newer).unwrap_err().to_string();
    assert_eq!(said, "it has format 2, and this bramble knows format 1: update bramble");
    assert!(matches!(Index::parse(b"{}"), Err(Error::Index(_))));
}

#[test]
fn what_is_damaged_here_is_not_handed_on() {
    let site = Site::new();
    let blob = site.blobs.iter().find(|blob| blob.bytes > Bytes(1_000_000)).unwrap();
    fs::write(&blob.path, vec![8; 3_000_000]).unwrap();
    let refused = write(&site.path(), &site.index, &site.blobs, &site.key, &|_| {}).unwrap_err();
    assert!(matches!(refused, Error::Damaged { digest } if digest == blob.digest), "{refused}");
    fs::write(&blob.path, b"short").unwrap();
    assert!(write(&site.path(), &site.index, &site.blobs, &site.key, &|_| {}).is_err());
    assert!(!site.path().exists());
}
