//! The pages for people: the README and docs/, with their fences.

use std::fs;
use std::path::{Path, PathBuf};

/// A page.
pub(crate) struct Page {
    /// Relative to the repository.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Why the commands of a fence are not run as they stand.
#[derive(Debug, Clone)]
pub(crate) enum Note {
    /// `<!-- run by FILE FILE -->`: these tests, relative to the repository, run such commands.
    RunBy(Vec<String>),
    /// `<!-- not run: WHY -->`: no test can.
    NotRun(String),
}

impl Note {
    fn of(line: &str) -> Option<Self> {
        let said = line.strip_prefix("<!-- ")?.strip_suffix(" -->")?;
        if let Some(files) = said.strip_prefix("run by ") {
            return Some(Self::RunBy(files.split_whitespace().map(str::to_owned).collect()));
        }
        Some(Self::NotRun(said.strip_prefix("not run: ")?.to_owned()))
    }
}

/// What stands between two lines of backticks.
pub(crate) struct Fence {
    /// `sh`, `yaml`, …
    pub(crate) kind: String,
    /// The line that it begins on; 1 is the first.
    pub(crate) line: usize,
    pub(crate) text: String,
    /// What the line before it says of its commands.
    pub(crate) note: Option<Note>,
}

pub(crate) fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the README and every page of docs/, by path.
pub(crate) fn pages() -> Vec<Page> {
    let root = repository();
    let names = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = names.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    paths.push(root.join("README.md"));
    paths.sort();
    let page = |path: PathBuf| Page {
        text: fs::read_to_string(&path).unwrap(),
        path: path.strip_prefix(&root).unwrap().display().to_string(),
    };
    paths.into_iter().map(page).collect()
}

impl Page {
    /// Returns its fences, also those inside lists.
    pub(crate) fn fences(&self) -> Vec<Fence> {
        let mut fences: Vec<Fence> = Vec::new();
        let (mut open, mut indent, mut note) = (false, 0, None);
        for (at, line) in self.text.lines().enumerate() {
            let bare = line.trim_start();
            match (open, bare.strip_prefix("```")) {
                (true, Some(_)) => open = false,
                (true, None) => {
                    let fence = fences.last_mut().unwrap();
                    fence.text.push_str(line.get(indent..).unwrap_or(bare));
                    fence.text.push('\n');
                }
                (false, Some(kind)) => {
                    (open, indent) = (true, line.len() - bare.len());
                    let (kind, text, note) = (kind.trim().to_owned(), String::new(), note.take());
                    fences.push(Fence { kind, line: at + 1, text, note });
                }
                (false, None) => note = Note::of(bare),
            }
        }
        assert!(!open, "{}: a fence does not end", self.path);
        fences
    }

    /// Returns the page without its fences, line by line, with their numbers.
    pub(crate) fn prose(&self) -> Vec<(usize, &str)> {
        let mut is_fence = false;
        let mut lines = Vec::new();
        for (at, line) in self.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                is_fence = !is_fence;
            } else if !is_fence {
                lines.push((at + 1, line));
            }
        }
        lines
    }

    /// Returns the folder that its links are relative to.
    pub(crate) fn folder(&self) -> PathBuf {
        repository().join(Path::new(&self.path).parent().unwrap())
    }
}

impl Fence {
    /// Returns the command lines of an `sh` or `console` fence, each with what is continued on the next lines.
    pub(crate) fn commands(&self) -> Vec<String> {
        let typed: Vec<&str> = match self.kind.as_str() {
            "sh" => self.text.lines().collect(),
            // in what was recorded, a command follows a `$`
            "console" | "text" => self.text.lines().filter_map(|line| line.strip_prefix("$ ")).collect(),
            _ => Vec::new(),
        };
        let mut commands: Vec<String> = Vec::new();
        let mut goes_on = false;
        for line in typed {
            let (line, more) = match line.strip_suffix('\\') {
                Some(line) => (line, true),
                None => (line, false),
            };
            match commands.last_mut().filter(|_| goes_on) {
                Some(command) => command.push_str(line.trim_start()),
                None => commands.push(line.to_owned()),
            }
            goes_on = more;
        }
        commands.retain(|command| !command.trim().is_empty() && !command.trim_start().starts_with('#'));
        commands
    }
}
