//! What of an arriving blob is on the disk, in a text file beside it, one claim a line:
//!
//! ```text
//! bramble-partial 1 <size>
//! boot <id>              the run of the kernel that the lines below were written in
//! version <text>         what the sender calls this version
//! wrote <start> <end>    given to the kernel: true until it stops running
//! synced <start> <end>   on the disk: true for good
//! ```
//!
//! A process that is killed loses nothing that is claimed; a machine that loses its power
//! loses what was not synced. A line that was torn ends the reading. Claims only say what
//! need not be sent again: the blob's digest has the last word.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::spans::Spans;
use crate::clock;

const HEAD: &str = "bramble-partial 1";

/// The longest journal that is read. A line is written for a MiB or more.
const LENGTH_MAX: u64 = 64 << 20;

/// The longest version that is kept. An `ETag` has some 70 bytes.
const VERSION_MAX: usize = 512;

/// What a journal claims.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    pub spans: Spans,
    pub version: Option<String>,
}

/// A journal that is being written.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
}

impl Journal {
    /// Returns where the journal of a partial file is.
    pub(super) fn path(partial: &Path) -> PathBuf {
        partial.with_added_extension("journal")
    }

    /// Reads what is claimed of a blob, which has `size` bytes where the caller knows it. What
    /// cannot be read claims nothing.
    pub(super) fn read(path: &Path, size: Option<u64>) -> Claims {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(LENGTH_MAX).read_to_end(&mut bytes));
        match read {
            Ok(_) => parse(&String::from_utf8_lossy(&bytes), size, &clock::boot_id()),
            Err(_) => Claims::default(),
        }
    }

    /// Begins a journal that claims `synced`, in the place of the one before.
    pub(super) fn begin(path: &Path, size: u64, synced: &Claims) -> io::Result<Self> {
        let mut text = format!("{HEAD} {size}\nboot {}\n", clock::boot_id());
        text.extend(synced.version.as_deref().and_then(version_line));
        text.extend(synced.spans.iter().map(|span| line("synced", span)));
        // whole or not at all: under another name first
        let new = path.with_added_extension("new");
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        fs::rename(&new, path)?;
        Ok(Self { file })
    }

    /// Takes all claims back, after the disk did not take what was written: the kernel says so once, keeps in its memory
    /// what is not on the disk, and calls that written. What is claimed later does not count.
    pub(super) fn void(partial: &Path) {
        // on a disk that takes not even this, claims end with the run of the kernel
        drop(fs::remove_file(Self::path(partial)));
    }

    /// Does so where the folder may be somebody else's: a file that is open can be emptied.
    pub(super) fn void_open(&self) {
        // what is written behind its end later has no head, and claims nothing
        drop(self.file.set_len(0));
    }

    /// Claims parts that were given to the kernel.
    pub(super) fn wrote(&mut self, spans: &Spans) -> io::Result<()> {
        let text: String = spans.iter().map(|span| line("wrote", span)).collect();
        self.file.write_all(text.as_bytes())
    }

    /// Claims parts that are on the disk.
    pub(super) fn synced(&mut self, spans: &Spans) -> io::Result<()> {
        let text: String = spans.iter().map(|span| line("synced", span)).collect();
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()
    }

    /// Keeps what the sender calls this version; one that cannot be kept is dropped.
    pub(super) fn version(&mut self, version: &str) -> io::Result<()> {
        version_line(version).map_or(Ok(()), |line| self.file.write_all(line.as_bytes()))
    }
}

fn line(word: &str, span: &Range<u64>) -> String {
    format!("{word} {} {}\n", span.start, span.end)
}

fn version_line(version: &str) -> Option<String> {
    let is_plain = version.len() <= VERSION_MAX && !version.chars().any(char::is_control);
    is_plain.then(|| format!("version {version}\n"))
}

/// Reads the lines. `size` is that of the blob, where the caller knows it.
fn parse(text: &str, size: Option<u64>, boot: &str) -> Claims {
    let mut claims = Claims::default();
    // what follows the last line end is a line that was torn
    let Some((text, _)) = text.rsplit_once('\n') else { return claims };
    let mut lines = text.lines();
    let claimed = lines.next().and_then(|line| line.strip_prefix(HEAD)?.trim().parse::<u64>().ok());
    let Some(claimed) = claimed.filter(|claimed| size.is_none_or(|size| size == *claimed)) else {
        return claims;
    };
    let mut is_this_boot = false;
    for line in lines {
        let mut words = line.splitn(2, ' ');
        match (words.next(), words.next()) {
            (Some("boot"), Some(id)) => is_this_boot = !boot.is_empty() && id == boot,
            (Some("version"), Some(text)) => claims.version = Some(text.to_owned()),
            (Some(word @ ("wrote" | "synced")), Some(rest)) => match span(rest, claimed) {
                Some(span) if word == "synced" || is_this_boot => claims.spans.add(span),
                Some(_) => {}
                None => break,
            },
            _ => break,
        }
    }
    claims
}

fn span(text: &str, size: u64) -> Option<Range<u64>> {
    let (start, end) = text.split_once(' ')?;
    let (start, end) = (start.parse().ok()?, end.parse().ok()?);
    (start < end && end <= size).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(parts: &[(u64, u64)]) -> Spans {
        let mut spans = Spans::default();
        for &(start, end) in parts {
            spans.add(start..end);
        }
        spans
    }

    fn check(text: &str, boot: &str, expected: &[(u64, u64)]) {
        assert_eq!(parse(text, Some(100), boot).spans, spans(expected), "{text}");
    }

    #[test]
    fn what_was_only_written_counts_while_the_kernel_runs() {
        let text =
            "bramble-partial 1 100\nboot b1\nversion \"e\"\nsynced 0 10\nwrote 10 20\nwrote 50 60\nwrote 9";
        check(text, "b1", &[(0, 20), (50, 60)]);
        check(text, "b2", &[(0, 10)]);
        check(text, "", &[(0, 10)]);
        assert_eq!(parse(text, None, "b1").version.as_deref(), Some("\"e\""));
    }

    #[test]
    fn a_journal_of_another_blob_or_of_nonsense_claims_nothing() {
        for text in ["", "x", "bramble-partial 1 100", "bramble-partial 1 99\nsynced 0 10\n", "synced 0 10\n"]
        {
            check(text, "b", &[]);
        }
        let head = "bramble-partial 1 100\nboot b\nsynced 0 10\n";
        for line in ["synced 20 101", "synced 5 5", "synced -1 5", "wrote 20", "what 1 2", "synced 20 30 40"]
        {
            check(&format!("{head}{line}\nsynced 30 40\n"), "b", &[(0, 10)]);
        }
    }

    #[test]
    fn claims_survive_being_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.journal");
        let before = Claims { spans: spans(&[(0, 5)]), version: Some("\"v\"".to_owned()) };
        let mut journal = Journal::begin(&path, 100, &before).unwrap();
        assert_eq!(Journal::read(&path, Some(100)), before);
        journal.wrote(&spans(&[(7, 8)])).unwrap();
        journal.synced(&spans(&[(7, 8), (20, 30)])).unwrap();
        journal.version("\"w\"").unwrap();
        journal.version("two\nlines").unwrap();
        let after = Claims { spans: spans(&[(0, 5), (7, 8), (20, 30)]), version: Some("\"w\"".to_owned()) };
        assert_eq!(Journal::read(&path, Some(100)), after);
        assert_eq!(Journal::read(&path, Some(101)), Claims::default());
        assert_eq!(Journal::read(&path, None), after);
    }
}
