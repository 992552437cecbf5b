use std::fs;
use std::path::Path;

/// Folders under the root in which small files are written under another name first.
const FOLDERS: [&str; 7] = ["chunks", "facts", "hashed", "headers", "made", "partial", "users"];

/// Removes what killed runs have left: files that never got their names, links to sources likewise,
/// and locks on what was being made. Only who has the store alone may do so.
///
/// Blobs that were arriving or being made stay: the next run goes on with them. What cannot be
/// removed stays, too.
pub(super) fn sweep(root: &Path) {
    for folder in FOLDERS {
        remove_in(&root.join(folder), &is_unnamed);
    }
    remove_in(&root.join("made"), &|path| path.extension().is_some_and(|extension| extension == "lock"));
    for source in fs::read_dir(root.join("sources")).into_iter().flatten().flatten() {
        remove_in(&source.path(), &is_unnamed);
    }
}

fn is_unnamed(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"new-"))
}

fn remove_in(folder: &Path, is_left: &dyn Fn(&Path) -> bool) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if is_left(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;
    use crate::ids::Digest;

    #[test]
    fn what_killed_runs_left_is_removed_by_the_first_who_opens_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "half").unwrap();
            path
        };
        let recipe = Digest::of(b"recipe");
        let left =
            ["made/new-1", "users/new-2", "partial/new-3", "sources/x/new-4", &format!("made/{recipe}.lock")]
                .map(put);
        let kept = [
            &format!("partial/{recipe}"),
            &format!("partial/make-{recipe}.partial"),
            "sources/x/config.json",
        ]
        .map(&put);
        let first = Store::open(dir.path()).unwrap();
        assert!(left.iter().all(|path| !path.exists()) && kept.iter().all(|path| path.exists()));
        // while it is in use, what is half written may be somebody's
        let busy = put("made/new-5");
        let making = first.try_making(&recipe).unwrap().unwrap();
        let second = Store::open(dir.path()).unwrap();
        assert!(busy.exists() && second.try_making(&recipe).unwrap().is_none());
        drop(making);
        assert!(!dir.path().join(format!("made/{recipe}.lock")).exists());
        assert!(second.try_making(&recipe).unwrap().is_some());
    }
}
