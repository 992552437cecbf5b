use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

/// The size of the pieces that the writer is fed.
const CHUNK: usize = 64 << 10;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("cache")).unwrap();
    (dir, store)
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| u8::try_from((i * 31 + i / 251) % 256).unwrap()).collect()
}

#[test]
fn a_blob_of_any_size_is_sealed_whole_and_read_only() {
    for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1] {
        let (_dir, store) = store();
        let data = bytes(size);
        let digest = Digest::of(&data);
        assert!(!store.has(&digest));
        let mut writer = store.create().unwrap();
        data.chunks(CHUNK).for_each(|piece| writer.write(piece).unwrap());
        assert!(!store.has(&digest), "an unsealed blob has no name");
        let made = writer.seal().unwrap();
        assert_eq!(made, Made { digest, bytes: Bytes(size as u64) });
        assert_eq!(fs::read(store.path(&digest)).unwrap(), data);
        assert_eq!(fs::metadata(store.path(&digest)).unwrap().permissions().mode() & 0o777, 0o444);
        assert_eq!(store.verify(&digest).unwrap(), Bytes(size as u64));
        assert_eq!(fs::read_dir(store.partials()).unwrap().count(), 0);
    }
}

#[test]
fn a_blob_without_a_known_digest_gets_it_at_the_seal() {
    let (_dir, store) = store();
    let mut writer = store.create().unwrap();
    writer.write(b"hello").unwrap();
    assert_eq!(writer.seal().unwrap().digest, Digest::of(b"hello"));
    drop(store.create().unwrap());
    assert_eq!(fs::read_dir(store.partials()).unwrap().count(), 0, "an abandoned one leaves nothing");
}

#[test]
fn a_changed_blob_is_found_by_looking_again() {
    let (_dir, store) = store();
    let mut writer = store.create().unwrap();
    writer.write(b"hello").unwrap();
    let digest = writer.seal().unwrap().digest;
    let path = store.path(&digest);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, b"hellO").unwrap();
    assert!(matches!(store.verify(&digest), Err(Error::Mismatch { .. })));
    store.remove(&digest).unwrap();
    assert!(matches!(store.verify(&digest), Err(Error::Missing { .. })));
    store.remove(&digest).unwrap();
}

#[test]
fn a_file_of_somebody_else_is_linked_only_when_its_hash_is_right() {
    let (dir, store) = store();
    let path = dir.path().join("theirs");
    fs::write(&path, b"theirs").unwrap();
    assert!(!store.adopt(&path, &Digest::of(b"other")).unwrap());
    let digest = Digest::of(b"theirs");
    assert!(store.adopt(&path, &digest).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().ino(), fs::metadata(store.path(&digest)).unwrap().ino());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o200, 0o200, "their file stays writable");
}

#[test]
fn what_a_recipe_made_is_remembered_while_the_blob_is_there() {
    let (_dir, store) = store();
    let recipe = Digest::of(b"recipe");
    let scratch = store.scratch(&recipe);
    fs::write(&scratch, b"weights").unwrap();
    let made = store.take(&scratch).unwrap();
    assert!(!scratch.exists());
    assert_eq!(store.made(&recipe), None);
    store.remember(&recipe, &made).unwrap();
    assert_eq!(Store::open(store.root()).unwrap().made(&recipe), Some(made));
    // a torn entry, as a filesystem without our care would leave it
    let entry = store.root().join("made").join(recipe.to_string());
    let whole = fs::read(&entry).unwrap();
    fs::write(&entry, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(store.made(&recipe), None);
    store.remember(&recipe, &made).unwrap();
    store.remove(&made.digest).unwrap();
    assert_eq!(store.made(&recipe), None, "without its blob an entry says nothing");
    assert!(matches!(store.remember(&recipe, &made), Err(Error::Missing { .. })));
}
