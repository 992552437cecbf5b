//! The right to change a host: one operator at a time has it, and keeps it by touching it.
//!
//! Each lease has a number, and numbers rise. Whoever changes the host shows the number of its lease at the
//! moment of writing ([`check`]): an operator that was asleep while somebody else took the
//! host over shows one that is too low, and is refused (a fencing token). The lease lies in
//! the host's own folder, and what is told of it here runs there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::generation::Layout;
use crate::system;

/// How often a holder touches its lease.
pub const TOUCHED_EVERY: Duration = Duration::from_secs(10);
/// A lease that was not touched for so long is anybody's: two touches may be lost, or late.
pub const STALE_AFTER: Duration = Duration::from_secs(30);

/// The longest lease that is read.
const LONGEST: u64 = 4 << 10;
/// The longest name of an operator.
const LONGEST_NAME: usize = 200;

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// `user@machine`.
    pub operator: String,
    /// What tells this boot of its machine from others; empty where there is no such thing.
    pub boot: String,
    /// The process there.
    pub process: u32,
}

/// What an operator asks about the lease of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// To have it from now on.
    Take {
        /// For this one.
        holder: Holder,
        /// The number of a lease whose holder is known to have ended: it need not be stale.
        in_place_of: Option<u64>,
    },
    /// To keep it for another [`STALE_AFTER`].
    Touch {
        /// The lease's number.
        number: u64,
    },
    /// To be done with it.
    Release {
        /// The lease's number.
        number: u64,
    },
}

/// What the host answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// It is as was asked.
    Granted {
        /// The lease's number.
        number: u64,
    },
    /// Somebody else has it, or had it since.
    Denied {
        /// The number of that lease.
        number: u64,
        /// Whose it is or was.
        holder: Holder,
        /// Seconds since it was touched last.
        idle_seconds: u64,
    },
}

/// Why a host's lease could not be looked at, or does not allow what was to be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another lease is in force, or was last.
    #[error(
        "{holder} has taken this host over since (lease {number}, yours was {shown}): run `bramble plan` again, which says what is there now"
    )]
    Over {
        /// The number that was shown.
        shown: u64,
        /// The number of the last lease.
        number: u64,
        /// Who has or had it.
        holder: String,
    },
    /// Its file cannot be read.
    #[error("cannot read {}, which says who may change this host: remove it there if it stays so", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its file cannot be written.
    #[error("cannot write {}, which says who may change this host", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A lease as it lies on the host. The last one stays after its end, for its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    number: u64,
    holder: Holder,
    is_over: bool,
    touched: Moment,
}

/// A time by a clock that nobody sets: hosts may have none that is right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Moment {
    /// Which boot of the host.
    boot: String,
    /// Seconds since then, those asleep included.
    seconds: u64,
}

impl Moment {
    fn now() -> Self {
        Self { boot: clock::boot_id(), seconds: clock::seconds_since_boot() }
    }

    /// Returns the seconds from `self` to `now`. A host that has booted since had been up for as long as
    /// it is now, at least: its holder had that long to come back.
    fn until(&self, now: &Self) -> u64 {
        if self.boot == now.boot { now.seconds.saturating_sub(self.seconds) } else { now.seconds }
    }
}

impl Lease {
    fn denied(&self, now: &Moment) -> Answer {
        Answer::Denied {
            number: self.number,
            holder: self.holder.clone(),
            idle_seconds: self.touched.until(now),
        }
    }

    fn is_free(&self, now: &Moment) -> bool {
        self.is_over || self.touched.until(now) >= STALE_AFTER.as_secs()
    }
}

/// Returns the lease that is to be written, if any, and the answer. A lease that is not there is nobody's.
fn decide(before: Option<Lease>, ask: Ask, now: Moment) -> (Option<Lease>, Option<Answer>) {
    let granted = |lease: Lease| {
        let number = lease.number;
        (Some(lease), Some(Answer::Granted { number }))
    };
    match (ask, before) {
        (Ask::Take { holder, in_place_of }, before) => match before {
            Some(lease) if !lease.is_free(&now) && in_place_of != Some(lease.number) => {
                let answer = lease.denied(&now);
                (None, Some(answer))
            }
            before => {
                let number = before.map_or(0, |lease| lease.number) + 1;
                granted(Lease { number, holder: tame(holder), is_over: false, touched: now })
            }
        },
        (Ask::Touch { number }, Some(lease)) if lease.number == number && !lease.is_over => {
            granted(Lease { touched: now, ..lease })
        }
        (Ask::Release { number }, Some(lease)) if lease.number == number => {
            granted(Lease { is_over: true, touched: now, ..lease })
        }
        (Ask::Touch { .. } | Ask::Release { .. }, Some(lease)) => (None, Some(lease.denied(&now))),
        (Ask::Touch { .. } | Ask::Release { .. }, None) => (None, None),
    }
}

/// Takes out of a holder's name what could drive a terminal, and cuts it.
fn tame(mut holder: Holder) -> Holder {
    let tame = |text: &str| text.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect();
    (holder.operator, holder.boot) = (tame(&holder.operator), tame(&holder.boot));
    holder
}

/// Does what is asked about the lease of this host. None: there is no lease to touch or to release, since
/// everything was removed from the host.
///
/// # Errors
/// The lease cannot be read or written.
pub fn answer(layout: &Layout, ask: Ask) -> Result<Option<Answer>, Error> {
    let path = layout.lease();
    let gate = gate(&path, matches!(ask, Ask::Take { .. }));
    let Some(_gate) = gate.map_err(|source| Error::Read { path: layout.root().to_owned(), source })? else {
        return Ok(None);
    };
    let (lease, answer) = decide(read(&path)?, ask, Moment::now());
    if let Some(lease) = lease {
        write(&path, &lease)?;
    }
    Ok(answer)
}

/// Says who would deny [`Ask::Take`], from the `text` of a lease that was read on a host that cannot be asked, since it
/// has no program: its boot is `boot`, it has been up for `up` seconds, and the text has been the same for `watched`
/// seconds. None: nobody. A host that does not say how long it is up (in a container it may be wrong) is believed
/// what was watched alone.
///
/// # Errors
/// The text is no lease.
pub fn denial(text: &str, boot: &str, up: u64, watched: u64) -> Result<Option<Answer>, serde_json::Error> {
    let Lease { number, holder, is_over, touched } = serde_json::from_str(text)?;
    let idle_seconds = touched.until(&Moment { boot: boot.to_owned(), seconds: up }).max(watched);
    let is_free = is_over || idle_seconds >= STALE_AFTER.as_secs();
    Ok((!is_free).then(|| Answer::Denied { number, holder: tame(holder), idle_seconds }))
}

/// Checks that nobody has taken this host over since the lease `number` was given out.
///
/// # Errors
/// [`Error::Over`] when somebody has; [`Error::Read`] when that cannot be known.
pub fn check(layout: &Layout, number: u64) -> Result<(), Error> {
    match read(&layout.lease())? {
        // a lower one, too: after `remove` they begin anew, and an operator who slept through that has a higher one
        Some(lease) if lease.number != number => {
            Err(Error::Over { shown: number, number: lease.number, holder: lease.holder.operator })
        }
        _ => Ok(()),
    }
}

/// Takes the lease away with everything else. A touch that comes later finds none and makes none.
///
/// # Errors
/// It is there and stays.
pub fn end(layout: &Layout) -> Result<(), Error> {
    let path = layout.lease();
    let failed = |source| Error::Write { path: path.clone(), source };
    let Some(_gate) = gate(&path, false).map_err(failed)? else { return Ok(()) };
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Waits until nobody else looks at the lease at `path` to write it, for as long as the file that is returned is held. Others on
/// the host cannot open that: whoever can read a file, or a folder, can lock it. None: there is no lease, and none `is_made`.
fn gate(path: &Path, is_made: bool) -> io::Result<Option<File>> {
    let lock = path.with_added_extension("lock");
    loop {
        // a program from before this file may have written the lease
        let is_made = is_made || path.exists();
        let mut options = OpenOptions::new();
        options.write(true).create(is_made).truncate(false).mode(0o600).custom_flags(system::NOFOLLOW);
        let file = match options.open(&lock) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound && !is_made => return Ok(None),
            Err(error) => return Err(error),
        };
        file.lock()?;
        // everything may have been removed meanwhile, and begun anew
        if system::is_named(&file, &lock)? {
            return Ok(Some(file));
        }
    }
}

fn read(path: &Path) -> Result<Option<Lease>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let lease = serde_json::from_reader(io::Read::take(file, LONGEST));
    lease.map(Some).map_err(|error| failed(error.into()))
}

fn write(path: &Path, lease: &Lease) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let text = serde_json::to_vec(lease).map_err(|error| failed(error.into()))?;
    // whole or not at all, and on the disk before it is shown: a number is never given out twice
    let new = path.with_added_extension("new");
    let mut file = File::create(&new).map_err(failed)?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&new, path).map_err(failed)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()).map_err(failed)
}

#[cfg(test)]
mod texts_tests;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn holder(operator: &str) -> Holder {
        Holder { operator: operator.to_owned(), boot: "desk".to_owned(), process: 7 }
    }

    fn take(operator: &str) -> Ask {
        Ask::Take { holder: holder(operator), in_place_of: None }
    }

    fn at(seconds: u64) -> Moment {
        Moment { boot: "first".to_owned(), seconds }
    }

    /// A host's lease over time.
    #[derive(Default)]
    struct Host(Option<Lease>);

    impl Host {
        fn ask(&mut self, ask: Ask, now: Moment) -> Answer {
            let (lease, answer) = decide(self.0.clone(), ask, now);
            self.0 = lease.or(self.0.take());
            answer.expect("an answer")
        }
    }

    fn granted(number: u64) -> Answer {
        Answer::Granted { number }
    }

    fn denied(number: u64, operator: &str, idle_seconds: u64) -> Answer {
        Answer::Denied { number, holder: holder(operator), idle_seconds }
    }

    #[test]
    fn numbers_rise_with_every_lease_whatever_became_of_the_one_before() {
        let mut host = Host::default();
        assert_eq!(host.ask(take("ada"), at(100)), granted(1));
        assert_eq!(host.ask(take("bob"), at(101)), denied(1, "ada", 1));
        assert_eq!(host.ask(Ask::Touch { number: 1 }, at(110)), granted(1));
        assert_eq!(host.ask(take("bob"), at(139)), denied(1, "ada", 29), "by the last touch");
        assert_eq!(host.ask(Ask::Release { number: 1 }, at(139)), granted(1));
        assert_eq!(host.ask(take("bob"), at(139)), granted(2));
        assert_eq!(host.ask(take("cyd"), at(169)), granted(3), "bob's was not touched for 30 s");
        assert_eq!(host.ask(Ask::Touch { number: 2 }, at(170)), denied(3, "cyd", 1));
        assert_eq!(host.ask(Ask::Release { number: 2 }, at(170)), denied(3, "cyd", 1));
        assert_eq!(host.ask(take("ada"), at(171)), denied(3, "cyd", 2), "and cyd's goes on");
    }

    #[test]
    fn a_holder_that_is_known_to_have_ended_is_followed_at_once_and_nobody_else_is() {
        let mut host = Host::default();
        assert_eq!(host.ask(take("ada"), at(100)), granted(1));
        let after = |number| Ask::Take { holder: holder("bob"), in_place_of: Some(number) };
        assert_eq!(host.ask(after(1), at(101)), granted(2));
        assert_eq!(host.ask(after(1), at(102)), denied(2, "bob", 1));
    }

    #[test]
    fn an_operator_that_was_asleep_and_that_nobody_followed_goes_on() {
        let mut host = Host::default();
        assert_eq!(host.ask(take("ada"), at(100)), granted(1));
        assert_eq!(host.ask(Ask::Touch { number: 1 }, at(1000)), granted(1));
        assert_eq!(host.ask(take("bob"), at(1001)), denied(1, "ada", 1));
    }

    #[test]
    fn a_host_that_has_booted_gives_the_holder_time_to_come_back() {
        let mut host = Host::default();
        assert_eq!(host.ask(take("ada"), at(5000)), granted(1));
        let again = |seconds| Moment { boot: "second".to_owned(), seconds };
        assert_eq!(host.ask(take("bob"), again(20)), denied(1, "ada", 20));
        assert_eq!(host.ask(take("bob"), again(30)), granted(2));
    }

    #[test]
    fn a_lease_that_is_only_read_is_told_as_the_host_would() {
        let lease = Lease { number: 3, holder: holder("ada"), is_over: false, touched: at(100) };
        let text = serde_json::to_string(&lease).expect("plain values");
        let denial = |boot, up, watched| denial(&text, boot, up, watched).expect("a lease");
        assert_eq!(denial("first", 107, 0), Some(denied(3, "ada", 7)));
        assert_eq!(denial("first", 130, 0), None, "stale");
        assert_eq!(denial("second", 20, 0), Some(denied(3, "ada", 20)), "it has booted");
        // a container that has been up for less than its kernel
        assert_eq!(denial("first", 5, 29), Some(denied(3, "ada", 29)));
        assert_eq!(denial("first", 5, 30), None);
        let over = serde_json::to_string(&Lease { is_over: true, ..lease }).expect("plain values");
        assert_eq!(super::denial(&over, "first", 101, 0).expect("a lease"), None);
        super::denial("{", "first", 101, 0).expect_err("no lease");
    }

    #[test]
    fn an_older_number_is_refused_by_name_and_what_was_removed_is_not_made_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = Layout::new(dir.path());
        assert_eq!(answer(&layout, Ask::Touch { number: 1 }).expect("looked at"), None);
        assert!(!layout.lease().exists() && check(&layout, 0).is_ok());
        assert_eq!(answer(&layout, take("ada\u{1b}[2J")).expect("taken"), Some(granted(1)));
        let next = Ask::Take { holder: holder("bob"), in_place_of: Some(1) };
        assert_eq!(answer(&layout, next).expect("taken"), Some(granted(2)));
        assert!(check(&layout, 2).is_ok());
        let refused = check(&layout, 1).expect_err("too low").to_string();
        assert!(
            refused.starts_with("bob has taken this host over since (lease 2, yours was 1)"),
            "{refused}"
        );
        // nobody else can open what is locked meanwhile
        let gate = fs::metadata(layout.root().join("lease.lock")).expect("there");
        assert_eq!(gate.permissions().mode() & 0o777, 0o600);
        end(&layout).expect("removed");
        assert_eq!(answer(&layout, Ask::Release { number: 2 }).expect("looked at"), None);
        assert!(!layout.lease().exists());
        // numbers begin anew: who slept through all of it has a higher one, and is refused
        assert_eq!(answer(&layout, take("cyd")).expect("taken"), Some(granted(1)));
        assert!(check(&layout, 1).is_ok() && matches!(check(&layout, 2), Err(Error::Over { .. })));
        fs::write(layout.lease(), "{").expect("written");
        assert!(matches!(check(&layout, 9), Err(Error::Read { .. })), "what cannot be read allows nothing");
    }
}
