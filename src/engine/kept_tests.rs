use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::mpsc::channel;

use super::super::fake::Echo;
use super::super::health::Shared;
use super::super::worker::run;
use super::super::worker::tests::{hear, job};
use super::super::{Engine, Loaded};
use super::*;

const NOTHING: Vec<Token> = Vec::new();

const QUESTION: &str = "a question long enough that keeping what was computed of it pays";

fn loaded(slots: usize) -> Loaded {
    Loaded { slots, context: 300, batch: 8, vocabulary: 257, ..Loaded::default() }
}

fn shelf(root: &Path, program: &str) -> Shelf {
    let stamp = Digest::of(program.as_bytes());
    Shelf { folder: root.join("prompts-parrot"), stamp }
}

/// Runs an engine of one slot from its start to its good end. Returns how many tokens of `prompt` it computed.
fn ask(shelf: Option<&Shelf>, slots: usize, prompt: &str) -> u32 {
    let shared = Arc::new(Shared::default());
    let (orders, inbox) = channel();
    let (order, mut listener) = job(&shared, prompt);
    orders.send(order).unwrap();
    drop(orders);
    let loaded = loaded(slots);
    let mut echo = Echo::new(&loaded, None);
    let mut cached = vec![Vec::new(); slots];
    if let Some(shelf) = shelf {
        cached = shelf.take(echo.caches().unwrap(), slots, 300);
    }
    run(&mut echo, &loaded, &inbox, &shared, &mut cached).unwrap();
    if let Some(shelf) = shelf {
        shelf.keep(echo.caches().unwrap(), &cached, &|| shared.is_stopping());
    }
    let (text, _, _, timings) = hear(&mut listener);
    assert_eq!(text, prompt);
    timings.prompt_n
}

fn files(root: &Path) -> usize {
    fs::read_dir(root).unwrap().count()
}

#[test]
fn a_restart_does_not_compute_a_kept_prompt_again() {
    let root = tempfile::tempdir().unwrap();
    let shelf = shelf(root.path(), "one");
    let all = u32::try_from(QUESTION.len()).unwrap();
    assert_eq!(ask(None, 1, QUESTION), all);
    assert_eq!(files(root.path()), 0, "nobody asked for it");
    assert_eq!(ask(Some(&shelf), 1, QUESTION), all);
    assert_eq!(fs::metadata(&shelf.folder).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(ask(Some(&shelf), 1, QUESTION), 1);
    // with more slots, and then with fewer
    assert_eq!(ask(Some(&shelf), 3, QUESTION), 1);
    assert_eq!(ask(Some(&shelf), 2, QUESTION), 1);
}

#[test]
fn what_is_kept_is_gone_once_it_was_read() {
    let root = tempfile::tempdir().unwrap();
    let shelf = shelf(root.path(), "one");
    ask(Some(&shelf), 1, QUESTION);
    let mut echo = Echo::new(&loaded(1), None);
    let taken = shelf.take(echo.caches().unwrap(), 1, 300);
    assert_eq!(taken[0].len(), 2 * QUESTION.len(), "the prompt and its answer");
    assert_eq!(files(root.path()), 0);
    let mut echo = Echo::new(&loaded(1), None);
    assert_eq!(shelf.take(echo.caches().unwrap(), 1, 300), [NOTHING]);
}

#[test]
fn what_is_of_another_program_or_damaged_or_too_long_is_not_used_and_not_left() {
    let root = tempfile::tempdir().unwrap();
    let one = shelf(root.path(), "one");
    let spoil: [(&str, &dyn Fn(), usize); 5] = [
        ("a flipped byte", &|| change(&one.file(0), |bytes| bytes[9] ^= 1), 300),
        ("half a file", &|| change(&one.file(0), |bytes| bytes.truncate(20)), 300),
        ("no file", &|| fs::remove_file(one.file(0)).unwrap(), 300),
        ("half a list", &|| change(&one.list_path(), |bytes| bytes.truncate(20)), 300),
        ("longer than a slot", &|| {}, 100),
    ];
    for (what, spoil, most) in spoil {
        ask(Some(&one), 1, QUESTION);
        spoil();
        let mut echo = Echo::new(&loaded(1), None);
        assert_eq!(one.take(echo.caches().unwrap(), 1, most), [NOTHING], "{what}");
        assert_eq!(files(root.path()), 0, "{what}");
    }
    ask(Some(&one), 1, QUESTION);
    let mut echo = Echo::new(&loaded(1), None);
    assert_eq!(shelf(root.path(), "two").take(echo.caches().unwrap(), 1, 300), [NOTHING]);
    assert_eq!(files(root.path()), 0);
}

/// A disk on which nothing has room.
struct Full;

impl Caches for Full {
    fn size(&self, _: usize) -> Bytes {
        Bytes(u64::MAX / 2)
    }

    fn write(&self, _: usize, _: &[Token], _: &Path) -> Result<(), String> {
        panic!("there is no room for it")
    }

    fn read(&mut self, _: usize, _: usize, _: &Path) -> Result<Vec<Token>, String> {
        panic!("nothing is there")
    }
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_cannot_be_written_or_has_no_time_leaves_nothing_that_looks_whole() {
    let root = tempfile::tempdir().unwrap();
    let one = shelf(root.path(), "one");
    let slots = vec![vec![7; FEWEST], vec![8; FEWEST - 1]];
    let mut echo = Echo::new(&loaded(2), None);
    // there is no folder for it
    shelf(&root.path().join("not there"), "one").keep(echo.caches().unwrap(), &slots, &|| false);
    one.keep(echo.caches().unwrap(), &slots, &|| true);
    assert_eq!(one.take(echo.caches().unwrap(), 2, 300), [NOTHING, NOTHING]);
    one.keep(&Full, &slots, &|| false);
    assert_eq!(files(root.path()), 0);
    // too short to be worth it: no file is written, and none is read
    one.keep(&Full, &[vec![8; FEWEST - 1]], &|| false);
    assert_eq!(one.take(&mut Full, 1, 300), [NOTHING]);
}
