//! What a crash may leave of a folder: its file operations, as strace recorded them, and the states that a disk may
//! be in when of those that were not synced some are lost, overtaken by later ones, or there in part.
//!
//! Nothing is taken for granted but what POSIX promises: a file's bytes are there after its fsync, and a name after
//! that of its folder. File systems with a journal keep more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// What strace is to record.
pub(crate) const CALLS: &str = "open,openat,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,rename,\
    renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync,sync,syncfs,\
    sendfile,copy_file_range,splice,lseek,chdir,fchdir";

/// The time that a sealed blob bears.
const SEALED: Duration = Duration::from_hours(262_968);

/// A file, folder or link by its number; the folder itself is 0.
type Inode = usize;

#[derive(Debug, Clone)]
enum Kind {
    File,
    Folder,
    Link(String),
}

#[derive(Debug, Clone)]
enum Operation {
    /// A name is given to what has none, or to a file that has one already.
    Enter {
        folder: Inode,
        name: String,
        inode: Inode,
    },
    Leave {
        folder: Inode,
        name: String,
        inode: Inode,
    },
    /// What has a name gets this one in its place, in one step.
    Move {
        from: Inode,
        folder: Inode,
        name: String,
        inode: Inode,
    },
    Write {
        inode: Inode,
        at: usize,
        bytes: Vec<u8>,
    },
    Resize {
        inode: Inode,
        length: usize,
    },
}

impl Operation {
    /// Returns whether a sync of `inode` makes sure of it.
    fn is_of(&self, synced: Inode) -> bool {
        match self {
            Self::Enter { folder, .. } | Self::Leave { folder, .. } => *folder == synced,
            Self::Move { from, folder, .. } => *from == synced || *folder == synced,
            Self::Write { inode, .. } | Self::Resize { inode, .. } => *inode == synced,
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    Did(Operation),
    /// Of one file or folder; none: of all.
    Synced(Option<Inode>),
    /// Something of the outside happened.
    Marked(String),
}

/// What was done to a folder that was empty.
pub(crate) struct Record {
    kinds: Vec<Kind>,
    events: Vec<Event>,
    /// When each event was certain to be on the disk.
    certain: Vec<usize>,
}

/// A folder and what is in it, by path.
pub(crate) type Tree = BTreeMap<PathBuf, Node>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Node {
    File(Vec<u8>),
    Folder,
    Link(String),
}

/// What a crash may have left.
pub(crate) struct State {
    /// After this event.
    pub(crate) at: usize,
    pub(crate) tree: Tree,
    /// Which of what was not certain is missing, or there in part.
    pub(crate) lost: String,
}

/// How much there is of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    None,
    /// Of what was written, the first half.
    Half,
    /// The file is as long as it should be, and zeros are where the bytes should be.
    Zeros,
    All,
}

impl Record {
    /// Reads what `strace -f -y -xx` wrote of [`CALLS`] about `root`, apart from what is in the folders and files of
    /// it that are `left_out`. Files that are made in `marks` are marks, by their names.
    pub(crate) fn parse(log: &str, root: &Path, left_out: &[&str], marks: &Path) -> Self {
        let mut reader = Reader::new(root, left_out, marks);
        let mut begun: HashMap<&str, &str> = HashMap::new();
        for line in log.lines() {
            let (process, call) = line.split_once(' ').unwrap();
            let call = call.trim_start();
            if let Some(call) = call.strip_suffix("<unfinished ...>") {
                begun.insert(process, call.trim_end());
            } else if let Some(resumed) = call.strip_prefix("<... ") {
                let (_, rest) = resumed.split_once(" resumed>").unwrap();
                reader.call(process, &format!("{}{rest}", begun.remove(process).unwrap()));
            } else {
                reader.call(process, call);
            }
        }
        let certain = (0..reader.events.len()).map(|at| reader.certain(at)).collect();
        Self { kinds: reader.kinds, events: reader.events, certain }
    }

    /// Returns after which event there is this mark.
    pub(crate) fn mark(&self, name: &str) -> usize {
        let is_it = |event: &Event| matches!(event, Event::Marked(mark) if mark == name);
        self.events.iter().position(is_it).unwrap_or_else(|| panic!("{name} is not in the record")) + 1
    }

    /// Calls `see` with each state, once, that a crash may leave: nothing is there of what was not certain, all of
    /// it, all but one, one alone, each write of those in part, and `chances` mixtures more for each moment up to the event
    /// `end`.
    pub(crate) fn states(&self, chances: usize, end: usize, mut see: impl FnMut(State)) {
        let mut seen = BTreeSet::new();
        let mut chance = 1_u64;
        for at in 0..=self.events.len().min(end) {
            let open: Vec<usize> = (0..at)
                .filter(|event| self.certain[*event] >= at && matches!(self.events[*event], Event::Did(_)))
                .collect();
            let mut mixtures = vec![vec![Share::None; open.len()], vec![Share::All; open.len()]];
            for place in 0..open.len() {
                let is_write = matches!(&self.events[open[place]], Event::Did(Operation::Write { .. }));
                let shares: &[Share] = if is_write { &[Share::Half, Share::Zeros] } else { &[] };
                for (others, own) in [(Share::All, Share::None), (Share::None, Share::All)] {
                    for share in std::iter::once(&own).chain(shares) {
                        let mut mixture = vec![others; open.len()];
                        mixture[place] = *share;
                        mixtures.push(mixture);
                    }
                }
            }
            for _ in 0..if open.len() > 1 { chances } else { 0 } {
                let mixture = open.iter().map(|event| {
                    chance = chance
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let is_write = matches!(&self.events[*event], Event::Did(Operation::Write { .. }));
                    match chance >> 61 {
                        0 if is_write => Share::Half,
                        1 if is_write => Share::Zeros,
                        2..=4 => Share::None,
                        _ => Share::All,
                    }
                });
                mixtures.push(mixture.collect());
            }
            for mixture in mixtures {
                let tree = self.tree(at, &open, &mixture);
                let mut hasher = DefaultHasher::new();
                (at, &tree).hash(&mut hasher);
                if seen.insert(hasher.finish()) {
                    see(State { at, tree, lost: self.lost(&open, &mixture) });
                }
            }
        }
    }

    fn lost(&self, open: &[usize], mixture: &[Share]) -> String {
        let lost = open.iter().zip(mixture).filter(|(_, share)| **share != Share::All);
        lost.map(|(event, share)| match &self.events[*event] {
            Event::Did(Operation::Write { inode, at, bytes }) => {
                format!("{event} {share:?} of {} bytes written to {inode} at {at}", bytes.len())
            }
            event_is => format!("{event} {share:?} of {event_is:?}"),
        })
        .collect::<Vec<_>>()
        .join("\n")
    }

    fn tree(&self, at: usize, open: &[usize], mixture: &[Share]) -> Tree {
        let mut names: BTreeMap<(Inode, &str), Inode> = BTreeMap::new();
        let mut files: HashMap<Inode, Vec<u8>> = HashMap::new();
        for (event, did) in self.events[..at].iter().enumerate() {
            let Event::Did(operation) = did else { continue };
            let share = open.binary_search(&event).map_or(Share::All, |place| mixture[place]);
            if share == Share::None {
                continue;
            }
            match operation {
                Operation::Enter { folder, name, inode } => drop(names.insert((*folder, name), *inode)),
                Operation::Leave { folder, name, inode } => {
                    if names.get(&(*folder, name.as_str())) == Some(inode) {
                        names.remove(&(*folder, name.as_str()));
                    }
                }
                Operation::Move { folder, name, inode, .. } => {
                    names.retain(|_, named| named != inode);
                    names.insert((*folder, name), *inode);
                }
                Operation::Write { inode, at, bytes } => {
                    let file = files.entry(*inode).or_default();
                    let end = if share == Share::Half { at + bytes.len() / 2 } else { at + bytes.len() };
                    if file.len() < end {
                        file.resize(end, 0);
                    }
                    if share != Share::Zeros {
                        file[*at..end].copy_from_slice(&bytes[..end - at]);
                    }
                }
                Operation::Resize { inode, length } => files.entry(*inode).or_default().resize(*length, 0),
            }
        }
        let mut tree = Tree::new();
        let mut left = vec![(0, PathBuf::new())];
        while let Some((folder, path)) = left.pop() {
            for ((_, name), inode) in names.range((folder, "")..(folder + 1, "")) {
                let path = path.join(name);
                let node = match &self.kinds[*inode] {
                    Kind::File => Node::File(files.get(inode).cloned().unwrap_or_default()),
                    Kind::Link(to) => Node::Link(to.clone()),
                    Kind::Folder => {
                        left.push((*inode, path.clone()));
                        Node::Folder
                    }
                };
                tree.insert(path, node);
            }
        }
        tree
    }
}

/// Puts a state on a disk, below `root`; links that led to `was` lead there.
pub(crate) fn lay_down(tree: &Tree, root: &Path, was: &Path) {
    fs::create_dir_all(root).unwrap();
    for (path, node) in tree {
        let path = root.join(path);
        match node {
            Node::Folder => fs::create_dir(&path).unwrap(),
            Node::Link(to) => {
                let to = Path::new(to);
                symlink(
                    to.strip_prefix(was).map_or_else(|_| to.to_owned(), |within| root.join(within)),
                    &path,
                )
                .unwrap();
            }
            Node::File(bytes) => {
                fs::write(&path, bytes).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
                if path.starts_with(root.join("blobs")) {
                    // which a blob has got, and was synced with, before its name
                    File::open(&path).unwrap().set_modified(UNIX_EPOCH + SEALED).unwrap();
                }
            }
        }
    }
}

/// What is open where, while a log is read.
struct Reader<'a> {
    root: &'a Path,
    left_out: Vec<PathBuf>,
    marks: &'a Path,
    /// Where processes are that went somewhere.
    folders: HashMap<String, PathBuf>,
    kinds: Vec<Kind>,
    names: BTreeMap<(Inode, String), Inode>,
    lengths: HashMap<Inode, usize>,
    /// Where the next write goes that does not say it; none: to the end.
    places: HashMap<Inode, Option<usize>>,
    events: Vec<Event>,
}

impl<'a> Reader<'a> {
    fn new(root: &'a Path, left_out: &[&str], marks: &'a Path) -> Self {
        Self {
            root,
            left_out: left_out.iter().map(PathBuf::from).collect(),
            marks,
            folders: HashMap::new(),
            kinds: vec![Kind::Folder],
            names: BTreeMap::new(),
            lengths: HashMap::new(),
            places: HashMap::new(),
            events: Vec::new(),
        }
    }

    /// Returns the number of the first event after which that at this place is certain.
    fn certain(&self, at: usize) -> usize {
        let Event::Did(operation) = &self.events[at] else { return at };
        let makes_sure = |event: &Event| match event {
            Event::Synced(None) => true,
            Event::Synced(Some(inode)) => operation.is_of(*inode),
            _ => false,
        };
        self.events[at..].iter().position(makes_sure).map_or(usize::MAX, |after| at + after)
    }

    fn did(&mut self, operation: Operation) {
        match &operation {
            Operation::Enter { folder, name, inode } => {
                self.names.insert((*folder, name.clone()), *inode);
            }
            Operation::Leave { folder, name, .. } => {
                self.names.remove(&(*folder, name.clone()));
            }
            Operation::Move { folder, name, inode, .. } => {
                self.names.retain(|_, named| named != inode);
                self.names.insert((*folder, name.clone()), *inode);
            }
            Operation::Write { inode, at, bytes } => {
                let length = self.lengths.entry(*inode).or_default();
                *length = (*length).max(at + bytes.len());
            }
            Operation::Resize { inode, length } => {
                self.lengths.insert(*inode, *length);
            }
        }
        self.events.push(Event::Did(operation));
    }

    /// Returns the path within the root; none: it is of no interest.
    fn within(&self, path: &Path) -> Option<PathBuf> {
        let within = path.strip_prefix(self.root).ok()?;
        let is_out = self.left_out.iter().any(|out| within.starts_with(out));
        (!is_out).then(|| within.to_owned())
    }

    fn find(&self, within: &Path) -> Option<Inode> {
        within.components().try_fold(0, |folder, part| {
            let Component::Normal(name) = part else { panic!("{}", within.display()) };
            self.names.get(&(folder, name.to_str().unwrap().to_owned())).copied()
        })
    }

    fn place(&self, within: &Path) -> (Inode, String) {
        let folder = self.find(within.parent().unwrap());
        let name = within.file_name().unwrap().to_str().unwrap().to_owned();
        (folder.unwrap_or_else(|| panic!("{} is in no folder", within.display())), name)
    }

    fn enter(&mut self, within: &Path, kind: Kind) -> Inode {
        let (folder, name) = self.place(within);
        self.kinds.push(kind);
        let inode = self.kinds.len() - 1;
        self.did(Operation::Enter { folder, name, inode });
        inode
    }

    fn call(&mut self, process: &str, line: &str) {
        // signals and ends of processes
        let Some((name, rest)) = line.split_once('(') else { return };
        let Some((arguments, result)) = rest.rsplit_once(" = ") else { return };
        if result.starts_with('-') || result.starts_with('?') {
            return;
        }
        let words = arguments.trim_end().strip_suffix(')').unwrap().split(", ").collect();
        let folder = self.folders.get(process).cloned().unwrap_or_else(|| PathBuf::from("/unknown"));
        let arguments = Arguments { words, folder };
        let number = || result.split('<').next().unwrap().trim().parse::<usize>().unwrap();
        match name {
            "chdir" => drop(self.folders.insert(process.to_owned(), arguments.path(0))),
            "fchdir" => {
                if let Some(folder) = arguments.file(0) {
                    self.folders.insert(process.to_owned(), folder);
                }
            }
            "sync" | "syncfs" => self.events.push(Event::Synced(None)),
            "open" | "creat" => {
                self.open(&arguments.path(0), arguments.words.get(1).unwrap_or(&"O_CREAT|O_TRUNC|O_WRONLY"));
            }
            "openat" => self.open(&arguments.path_at(0), arguments.words[2]),
            "mkdir" => self.make(&arguments.path(0), || Kind::Folder),
            "mkdirat" => self.make(&arguments.path_at(0), || Kind::Folder),
            "symlink" => self.make(&arguments.path(1), || Kind::Link(arguments.text(0))),
            "symlinkat" => self.make(&arguments.path_at(1), || Kind::Link(arguments.text(0))),
            "unlink" | "rmdir" => self.leave(&arguments.path(0)),
            "unlinkat" => self.leave(&arguments.path_at(0)),
            "rename" => self.rename(&arguments.path(0), &arguments.path(1)),
            "renameat" | "renameat2" => self.rename(&arguments.path_at(0), &arguments.path_at(2)),
            "fsync" | "fdatasync" => {
                if let Some(inode) = self.of(arguments.file(0)) {
                    self.events.push(Event::Synced(Some(inode)));
                }
            }
            "ftruncate" => {
                if let Some(inode) = self.of(arguments.file(0)) {
                    self.did(Operation::Resize { inode, length: arguments.number(1) });
                }
            }
            "write" => {
                let Some(inode) = self.of(arguments.file(0)) else { return };
                let length = self.lengths.get(&inode).copied().unwrap_or_default();
                let at = self.places.get(&inode).copied().flatten().unwrap_or(length);
                let bytes = arguments.bytes(1)[..number()].to_vec();
                if let Some(Some(place)) = self.places.get_mut(&inode) {
                    *place += bytes.len();
                }
                self.did(Operation::Write { inode, at, bytes });
            }
            "pwrite64" => {
                let Some(inode) = self.of(arguments.file(0)) else { return };
                let bytes = arguments.bytes(1)[..number()].to_vec();
                self.did(Operation::Write { inode, at: arguments.number(3), bytes });
            }
            "fallocate" => {
                if let Some(inode) = self.of(arguments.file(0))
                    && !arguments.words[1].contains("KEEP_SIZE")
                {
                    let length = self.lengths.get(&inode).copied().unwrap_or_default();
                    let wanted = arguments.number(2) + arguments.number(3);
                    self.did(Operation::Resize { inode, length: length.max(wanted) });
                }
            }
            "lseek" => {
                if let Some(inode) = self.of(arguments.file(0))
                    && arguments.words[2] != "SEEK_CUR"
                {
                    self.places.insert(inode, Some(number()));
                }
            }
            // what writes without saying what
            _ => {
                let touched = arguments
                    .words
                    .iter()
                    .filter_map(|word| file_of(word))
                    .find_map(|path| self.within(&path));
                let is_read = ["sendfile", "splice", "copy_file_range"].contains(&name) && {
                    let to = if name == "sendfile" { 0 } else { 2 };
                    file_of(arguments.words[to]).is_none_or(|path| self.within(&path).is_none())
                };
                assert!(touched.is_none() || is_read, "cannot tell what this does: {name} {touched:?}");
            }
        }
    }

    /// Returns which of ours an open file is, unless it has no name any longer.
    fn of(&self, path: Option<PathBuf>) -> Option<Inode> {
        self.find(&self.within(&path?)?)
    }

    fn open(&mut self, path: &Path, flags: &str) {
        if flags.contains("O_CREAT")
            && let Ok(name) = path.strip_prefix(self.marks)
        {
            self.events.push(Event::Marked(name.to_str().unwrap().to_owned()));
        }
        let Some(within) = self.within(path) else { return };
        assert!(!flags.contains("O_TMPFILE"), "files without a name are not followed");
        if !flags.contains("O_WRONLY") && !flags.contains("O_RDWR") {
            return;
        }
        // through a link, it is the file that is written
        let (inode, is_new) = match self.find(&within) {
            Some(inode) => (inode, false),
            None if flags.contains("O_CREAT") => (self.enter(&within, Kind::File), true),
            None => return,
        };
        if flags.contains("O_TRUNC") && !is_new && self.lengths.get(&inode).is_some_and(|length| *length > 0)
        {
            self.did(Operation::Resize { inode, length: 0 });
        }
        self.places.insert(inode, (!flags.contains("O_APPEND")).then_some(0));
    }

    fn make(&mut self, path: &Path, kind: impl FnOnce() -> Kind) {
        if let Some(within) = self.within(path)
            // the folder itself is taken to be there
            && within != Path::new("")
        {
            self.enter(&within, kind());
        }
    }

    fn leave(&mut self, path: &Path) {
        let Some(within) = self.within(path).filter(|within| within != Path::new("")) else { return };
        let inode = self.find(&within).unwrap_or_else(|| panic!("{} was not there", within.display()));
        let (folder, name) = self.place(&within);
        self.did(Operation::Leave { folder, name, inode });
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        let (from, to) = match (self.within(from), self.within(to)) {
            (None, None) => return,
            (Some(from), Some(to)) => (from, to),
            between => panic!("from one to the other: {between:?}"),
        };
        let inode = self.find(&from).unwrap_or_else(|| panic!("{} was not there", from.display()));
        let ((from, _), (folder, name)) = (self.place(&from), self.place(&to));
        self.did(Operation::Move { from, folder, name, inode });
    }
}

/// The words of a call.
struct Arguments<'a> {
    words: Vec<&'a str>,
    /// Where the process is, if it was seen to go there.
    folder: PathBuf,
}

impl Arguments<'_> {
    fn bytes(&self, at: usize) -> Vec<u8> {
        let text = self.words[at].strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        unhex(text.unwrap_or_else(|| panic!("no whole text: {}", self.words[at])))
    }

    fn text(&self, at: usize) -> String {
        String::from_utf8(self.bytes(at)).unwrap()
    }

    fn path(&self, at: usize) -> PathBuf {
        self.folder.join(PathBuf::from(std::ffi::OsString::from_vec(self.bytes(at))))
    }

    /// A folder, and a path that may begin there.
    fn path_at(&self, at: usize) -> PathBuf {
        let path = PathBuf::from(std::ffi::OsString::from_vec(self.bytes(at + 1)));
        if path.is_absolute() { path } else { file_of(self.words[at]).unwrap().join(path) }
    }

    fn file(&self, at: usize) -> Option<PathBuf> {
        file_of(self.words[at])
    }

    fn number(&self, at: usize) -> usize {
        self.words[at].parse().unwrap()
    }
}

/// Returns the path of an open file: `3<\x2f\x74>`.
fn file_of(word: &str) -> Option<PathBuf> {
    let (_, path) = word.split_once('<')?;
    let (path, _) = path.rsplit_once('>')?;
    path.starts_with("\\x").then(|| PathBuf::from(std::ffi::OsString::from_vec(unhex(path))))
}

fn unhex(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|digits| u8::from_str_radix(&digits[..2], 16).unwrap()).collect()
}
