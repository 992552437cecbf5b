use std::env;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::view::{Showing, Style};

/// What the process was started with, read once.
#[derive(Debug)]
pub(crate) struct Environment {
    /// The user's own folder.
    pub(crate) home: PathBuf,
    /// What this machine calls itself.
    pub(crate) machine: String,
    /// Keys; not safe to delete.
    pub(crate) state: PathBuf,
    /// Folders that bundles are looked for in.
    pub(crate) bundles: Vec<PathBuf>,
    /// The program for hosts, where it stands beside this one.
    pub(crate) brambled: Option<PathBuf>,
    /// A known-hosts file instead of the user's own.
    pub(crate) known_hosts: Option<PathBuf>,
    /// Where ssh's control sockets may go.
    pub(crate) runtime: PathBuf,
    /// `user@machine`, for receipts.
    pub(crate) operator: String,
    /// Whether a person reads standard output.
    pub(crate) style: Style,
    /// Whether standard output is a terminal whose lines can be written over.
    pub(crate) is_screen: bool,
    /// Columns of what standard output is read on: 100 where that is no terminal.
    pub(crate) width: usize,
    /// How what goes on is told on standard error.
    pub(crate) showing: Showing,
    /// Whether a person can answer.
    pub(crate) can_ask: bool,
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place of the operator's command that reads the environment"
)]
fn var(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns the columns of what a person reads, as they are now; none where it is no terminal, or one that does not say.
pub(crate) fn columns(of: impl AsFd + IsTerminal) -> Option<usize> {
    if !of.is_terminal() {
        return None;
    }
    let of_terminal = terminal_size::terminal_size_of(of).map(|(width, _)| usize::from(width.0));
    of_terminal.or_else(told_columns)
}

/// Returns what `COLUMNS` says.
fn told_columns() -> Option<usize> {
    var("COLUMNS").and_then(|text| text.parse().ok()).filter(|width| *width > 0)
}

/// Returns the columns to write in: those of the terminal, those that `COLUMNS` says, or 100.
fn width() -> usize {
    columns(std::io::stdout()).or_else(told_columns).unwrap_or(100).min(120)
}

/// Returns the value of an environment variable that a manifest names (`key: env:NAME`).
pub(crate) fn named(name: &str) -> Option<String> {
    var(name)
}

impl Environment {
    /// Returns whether a person looks at standard error.
    pub(crate) fn is_watched(&self) -> bool {
        self.showing == Showing::Bars
    }

    pub(crate) fn read(tells_json: bool) -> Self {
        let home = PathBuf::from(var("HOME").unwrap_or_else(|| "/".to_owned()));
        let folder =
            |name: &str, fallback: &str| var(name).map_or_else(|| home.join(fallback), PathBuf::from);
        let is_screen = std::io::stdout().is_terminal() && var("TERM").is_none_or(|term| term != "dumb");
        let user = var("USER").or_else(|| var("LOGNAME")).unwrap_or_else(|| "unknown".to_owned());
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let mut bundles: Vec<PathBuf> = var("BRAMBLE_BUNDLES").map(PathBuf::from).into_iter().collect();
        let mut brambled = None;
        if let Ok(program) = env::current_exe()
            && let Some(folder) = program.parent()
        {
            brambled = Some(folder.join("brambled")).filter(|path| path.is_file());
            bundles.push(folder.join("bundles"));
            bundles.push(folder.with_file_name("share").join("bramble/bundles"));
        }
        bundles.push(folder("XDG_DATA_HOME", ".local/share").join("bramble/bundles"));
        Self {
            home: home.clone(),
            state: folder("XDG_STATE_HOME", ".local/state").join("bramble"),
            bundles,
            brambled,
            known_hosts: var("BRAMBLE_KNOWN_HOSTS").map(PathBuf::from),
            runtime: var("XDG_RUNTIME_DIR").map_or_else(env::temp_dir, PathBuf::from),
            operator: format!("{user}@{machine}"),
            machine,
            style: Style {
                is_coloured: is_screen && var("NO_COLOR").is_none(),
                width: columns(std::io::stdout()),
            },
            is_screen,
            width: width(),
            showing: match (tells_json, std::io::stderr().is_terminal()) {
                (true, _) => Showing::Json,
                (false, true) => Showing::Bars,
                (false, false) => Showing::Lines,
            },
            can_ask: std::io::stdin().is_terminal() && std::io::stderr().is_terminal(),
        }
    }

    /// Sends the log to standard error: warnings, or what `RUST_LOG` says.
    pub(crate) fn start_log(&self) {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(self.is_watched())
            .without_time()
            // its own words about a standard error that nobody reads would be a panic
            .log_internal_errors(false)
            .try_init();
    }

    /// Returns the lock file that belongs to a manifest: `bramble.lock` beside it.
    pub(crate) fn lock_path(manifest: &Path) -> PathBuf {
        manifest.with_file_name("bramble.lock")
    }
}
