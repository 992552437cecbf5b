//! The part of a receiver that stays root, for what a receiver that has given its rights up cannot do.
//!
//! It is a process of its own, of the same program. It has the file of the blob, whose lock it shares, and one
//! way to the receiver, on which it hears single bytes and answers; it has no socket to other hosts, no threads, and
//! reads nothing that came over a network. It does two things, of one blob that was named when it was started:
//! it looks at the lease, and it seals, if the journal says that all is here. What a receiver that was taken over could
//! have sealed too early with it is found before its first use, where the whole is hashed.
//!
//! It ends when it has sealed or refused to, and when the receiver has ended.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};

use super::{Order, Place, Reason, Refusal, Rights, disk, refused};
use crate::generation::Layout;
use crate::ids::Digest;
use crate::store::{Arrival, Claimed};
use crate::system;
use crate::transfer::frame;
use crate::units::Bytes;

/// This very program, also where its file has been replaced since.
const SELF: &str = "/proc/self/exe";
/// Is the lease still the last one?
const LOOK: u8 = b'l';
/// Seal the blob.
const SEAL: u8 = b's';
/// The longest answer: a few sentences, with paths.
const MOST_ANSWER: u64 = 64 << 10;

/// The arguments of `brambled keeper`.
#[derive(Debug, Clone, clap::Args)]
pub struct KeeperArgs {
    /// Where Bramble lives on this host
    #[arg(long)]
    root: PathBuf,
    /// The blob's SHA-256
    #[arg(long)]
    digest: Digest,
    /// The blob's size
    #[arg(long)]
    bytes: u64,
    /// The number of the sender's lease
    #[arg(long)]
    lease: u64,
}

/// Runs `brambled keeper`: standard input is the file, and standard output the way to the receiver.
pub fn run_keeper(args: KeeperArgs) -> ExitCode {
    // a name for people who look: the kernel took "exe" from the link
    system::name_thread(c"brambled");
    let order = Order { layout: Layout::new(args.root), digest: args.digest };
    match serve(&Place::new(&order), args.lease, Bytes(args.bytes)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(place: &Place, lease: u64, bytes: Bytes) -> io::Result<()> {
    let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut receiver = UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut word = [0];
    loop {
        match receiver.read(&mut word) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            came => came?,
        };
        match word[0] {
            LOOK => frame::say(&mut receiver, &place.allows(lease))?,
            SEAL => return frame::say(&mut receiver, &seal(place, lease, file, bytes)),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn seal(place: &Place, lease: u64, file: File, bytes: Bytes) -> Result<(), Refusal> {
    place.allows(lease)?;
    let whole = Claimed::check(file, place.partial.clone(), bytes).map_err(refused)?;
    place.seal(|| whole.seal(Place::folder(&place.blob), place.digest))
}

/// The way to a keeper. It ends with this.
#[derive(Debug)]
pub(super) struct Keeper {
    way: Option<UnixStream>,
    process: Child,
}

impl Keeper {
    /// Starts one for a blob that arrives.
    fn start(place: &Place, lease: u64, arrival: &Arrival) -> io::Result<Self> {
        let (way, its) = UnixStream::pair()?;
        #[expect(clippy::disallowed_methods, reason = "what stays root is a program of its own")]
        let mut command = Command::new(SELF);
        command.arg0("brambled").arg("keeper").arg("--root").arg(place.layout.root());
        command.args(["--digest", &place.digest.to_string(), "--bytes", &arrival.size().0.to_string()]);
        command.args(["--lease", &lease.to_string()]);
        command.stdin(arrival.share()?).stdout(Stdio::from(OwnedFd::from(its)));
        let process = command.spawn()?;
        Ok(Self { way: Some(way), process })
    }

    /// Has the lease looked at.
    pub(super) fn allows(&self) -> Result<(), Refusal> {
        self.ask(LOOK)
    }

    /// Has the blob sealed. Whoever wrote it is done with it.
    pub(super) fn seal(self) -> Result<(), Refusal> {
        self.ask(SEAL)
    }

    fn ask(&self, word: u8) -> Result<(), Refusal> {
        let asked = || {
            let mut way = self.way.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            way.write_all(&[word])?;
            frame::hear(&mut way, MOST_ANSWER)?.ok_or(io::ErrorKind::UnexpectedEof.into())
        };
        asked().unwrap_or_else(|error: io::Error| {
            let message = format!(
                "the part of the receiver that seals has ended ({error}): push again, it goes on from there"
            );
            Err((Reason::Disk, message))
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // it hears the end, and then nobody has the file any longer
        drop(self.way.take());
        drop(self.process.wait());
    }
}

impl Place {
    /// Gives up the rights of root. What needs them later is left to a keeper, where something arrives.
    pub(super) fn give_up(
        &self,
        rights: Rights,
        lease: u64,
        arrival: Option<&mut Arrival>,
    ) -> Result<Option<Keeper>, Refusal> {
        let cannot = |error: io::Error| {
            let message = format!(
                "cannot give up the rights of root, without which other hosts are spoken to: {error}"
            );
            (Reason::Disk, message)
        };
        let Some(arrival) = arrival else {
            return rights.give_up().map(|()| None).map_err(cannot);
        };
        let keeper =
            Keeper::start(self, lease, arrival).map_err(|error| disk("run", SELF.as_ref())(error))?;
        arrival.without_threads(|| rights.give_up()).map_err(refused)?.map_err(cannot)?;
        // one that cannot even be run is known now, not when all has come
        keeper.allows()?;
        Ok(Some(keeper))
    }
}
