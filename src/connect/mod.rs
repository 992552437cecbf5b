//! The door to a host: run a shell script there, with bytes on its standard input.
//!
//! One operation carries everything: reading, writing and appending are scripts. It
//! keeps the trait small enough to fake in one screen, and a host needs only `sh`. Its second
//! form is for programs that say what they want next while they run.
//!
//! A script that was sent is never sent again: when a link breaks while one runs, the
//! caller learns it ([`Error::Lost`]) and decides. Nothing here knows what scripts do.

mod config;
mod diagnosis;
pub mod fake;
mod host_key;
mod local;
mod login;
mod master;
mod password;
mod process;
mod shell;
mod socket_dir;
mod ssh;

pub use host_key::{KnownHosts, NewHostKey, make_host_key};
pub use local::Local;
pub use login::PublicKey;
pub use password::{Password, SudoPassword};
pub use ssh::{Settings, Ssh, Target, fast_cipher, has_aes};

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

/// A way to one host.
#[async_trait]
pub trait Connection: Send + Sync {
    /// Runs `script` under `sh` on the host, feeds it `stdin`, and waits for its end.
    ///
    /// A script that ends with a status other than 0 is an [`Output`], not an error.
    async fn run(&self, script: &Script, stdin: Stdin) -> Result<Output, Error>;

    /// Runs `script` like [`Self::run`], and feeds it and hears it while it runs. What it writes to
    /// standard output goes to `talk`, so that the [`Output`] has none of it.
    async fn talk(&self, script: &Script, talk: Talk) -> Result<Output, Error>;

    /// Returns the host for messages: `pi@192.168.1.21:2222`, `this machine`.
    fn describe(&self) -> String;

    /// Ends what is kept open between scripts. Dropping a connection does it too.
    async fn close(&self) {}
}

/// A shell script to run on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// The text for `sh -c`. Everything in it that comes from data went through [`quote`].
    pub text: String,
    /// Run it as root: through sudo where the login is not root, with its password where that is known.
    pub is_root: bool,
    /// Give up after this long.
    pub timeout: Duration,
}

/// What a script reads.
#[derive(Clone)]
pub enum Stdin {
    /// Nothing.
    Empty,
    /// These bytes, of which nothing stays: what goes to a host may be its secrets.
    Bytes(Zeroizing<Vec<u8>>),
}

impl Stdin {
    /// Has a script read `bytes`.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Bytes(Zeroizing::new(bytes.into()))
    }
}

/// What goes to and comes from a script while it runs.
#[derive(Debug)]
pub struct Talk {
    /// What it reads, piece by piece; its standard input ends when the sender is dropped.
    pub input: mpsc::Receiver<Piece>,
    /// Gets what it writes to standard output, as it comes; bounds on it are the receiver's.
    pub output: mpsc::Sender<Vec<u8>>,
}

/// Some of what a script reads.
#[derive(Debug, Clone)]
pub enum Piece {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A part of a file, which must be within it.
    Part(Arc<File>, Range<u64>),
}

/// How a script ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; 128 + n after signal n.
    pub status: i32,
    /// What it wrote to standard output, at most 16 MiB.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, the last 64 KiB, control characters removed.
    pub stderr: String,
}

/// Why a host could not be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is unknown, nothing answers, or the network is gone.
    #[error("{host} cannot be reached: {said}")]
    Unreachable {
        /// The host.
        host: String,
        /// What ssh said.
        said: String,
    },
    /// Something answers and wants no SSH.
    #[error("{host} refuses the connection: {said}")]
    Refused {
        /// The host.
        host: String,
        /// What ssh said.
        said: String,
    },
    /// The host's key is not the one that is known.
    #[error("{host} shows a host key that is not the one known for it: {said}")]
    HostKeyChanged {
        /// The host.
        host: String,
        /// What ssh said.
        said: String,
    },
    /// The host's key is not known at all.
    #[error(
        "{host} shows an unknown host key{}: check it, then run again with --accept-new-host-keys",
        fingerprint.as_deref().map(|f| format!(" ({f})")).unwrap_or_default()
    )]
    HostKeyUnknown {
        /// The host.
        host: String,
        /// The key's fingerprint, where it could be had.
        fingerprint: Option<String>,
    },
    /// The host does not take our key.
    #[error("{host} does not accept the login: {said}")]
    Authentication {
        /// The host.
        host: String,
        /// What ssh said.
        said: String,
    },
    /// The script wants root and sudo wants a password, or there is no sudo.
    #[error("{host} does not let the login become root: {said}")]
    Sudo {
        /// The host.
        host: String,
        /// What sudo said.
        said: String,
    },
    /// The script did not end in time.
    #[error("{host} did not finish within {} s", after.as_secs())]
    TimedOut {
        /// The host.
        host: String,
        /// The limit.
        after: Duration,
    },
    /// The script wrote more to standard output than any script of ours does.
    #[error("{host} wrote far more than the answer that was expected: check what its shell prints at login")]
    TooMuch {
        /// The host.
        host: String,
    },
    /// The link broke while a script ran.
    #[error("the connection to {host} broke: {said}")]
    Lost {
        /// The host.
        host: String,
        /// What ssh said.
        said: String,
    },
    /// The only key that may be offered is not there.
    #[error(
        "there is no key at {path}: make one with `ssh-keygen -t ed25519 -f {path}`, or name another in `identity`"
    )]
    NoKey {
        /// Where it should be.
        path: String,
    },
    /// The public half of a key is not there, and its private half does not give it.
    #[error(
        "there is no {path}.pub: write it with `ssh-keygen -y -f {path} >{path}.pub`, which asks for the key's passphrase"
    )]
    NoPublicKey {
        /// The private half.
        path: String,
        /// What `ssh-keygen` says.
        source: std::io::Error,
    },
    /// Something failed on this machine: no `ssh` program, an unreadable file.
    #[error("{doing}")]
    Here {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Error {
    /// Returns whether the host takes no key of ours, and would take a password.
    pub fn takes_password(&self) -> bool {
        let Self::Authentication { said, .. } = self else { return false };
        let ways = said.rsplit_once('(').map_or("", |(_, ways)| ways);
        ways.contains("password") || ways.contains("keyboard-interactive")
    }

    /// Returns whether trying again later may help.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Refused { .. } | Self::TimedOut { .. } | Self::Lost { .. }
        )
    }
}

/// Quotes `text` so that `sh` reads it as one word, whatever is in it.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod texts_tests;
