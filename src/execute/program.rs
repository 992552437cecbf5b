//! The program onto a host that cannot give a lease before it has one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::lease::{Leases, Seat};
use super::verbs::VerbError;
use crate::bundle::Found;
use crate::connect::{self, Connection, Output, Script, Stdin, Talk, quote};
use crate::events::Events;
use crate::generation::Layout;
use crate::lease::{self, Answer, Ask};
use crate::transfer::{self, Cargo, Limits, Pushed, Reason, Way};

/// One small file is read.
const PATIENCE: Duration = Duration::from_secs(30);

/// A host that is to get a program.
pub(super) struct Program<'a> {
    pub(super) seat: Seat,
    pub(super) found: &'a Found,
    /// Whether it is this machine.
    pub(super) is_here: bool,
    /// Whether a generation was in force there when it was looked at: if nothing is there now, somebody has removed it.
    pub(super) is_installed: bool,
}

impl Program<'_> {
    /// Brings it there, unless somebody else is at work on the host: that is an error that is over
    /// ([`transfer::Error::is_over`]).
    pub(super) async fn push(
        self,
        operator: &str,
        limits: &Limits,
        events: &Events,
    ) -> Result<Pushed, transfer::Error> {
        let Self { seat, found, is_here, is_installed } = &self;
        let way = Way {
            host: &seat.host,
            connection: seat.connection.as_ref(),
            layout: &seat.layout,
            is_root: seat.is_root,
        };
        // what this machine copies for itself is on no wire
        let limits = if *is_here { &Limits::default() } else { limits };
        let bundle = &found.bundle;
        let what = format!("brambled {} for {}", bundle.version, bundle.target);
        let cargo = Cargo { what: &what, digest: &bundle.digest, bytes: bundle.bytes, path: &found.archive };
        let seen = async {
            let view = Arc::new(View {
                connection: Arc::clone(&seat.connection),
                layout: seat.layout.clone(),
                is_installed: *is_installed,
                last: Mutex::default(),
            });
            let seat = Seat { connection: Arc::clone(&view) as Arc<dyn Connection>, ..seat.clone() };
            // it waits as it does for a lease, and what it is granted is only that nobody else has one
            Leases::new(operator, events).of(seat).await.map_err(|error| not_allowed(way, cargo, error))?;
            Ok(view.last().as_ref().map(|(text, _)| text.clone()).unwrap_or_default())
        };
        transfer::push_bundle(way, cargo, seen, limits, events).await
    }
}

fn not_allowed(way: Way<'_>, cargo: Cargo<'_>, error: VerbError) -> transfer::Error {
    let (what, host) = (cargo.what.to_owned(), way.connection.describe());
    match error {
        VerbError::Connect { source, .. } => transfer::Error::Connect { what, host, source },
        VerbError::Locked { said: message } => {
            transfer::Error::Refused { what, host, reason: Reason::Over, message }
        }
        // it is not known whether somebody else has it: nothing is done
        error => transfer::Error::Answer { what, host, said: error.to_string() },
    }
}

/// A host whose lease can only be looked at: it answers for `brambled lease`, of which it has none yet, and grants
/// whatever nobody else holds, under no number.
struct View {
    connection: Arc<dyn Connection>,
    layout: Layout,
    is_installed: bool,
    /// The lease file as it was last, and since when it was seen so.
    last: Mutex<Option<(String, Instant)>>,
}

impl View {
    fn last(&self) -> std::sync::MutexGuard<'_, Option<(String, Instant)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints whether there is anything, the host's boot, its seconds since then, and its lease.
    fn look(&self) -> String {
        let word = |path: &std::path::Path| quote(&path.display().to_string());
        let (root, lease) = (word(self.layout.root()), word(&self.layout.lease()));
        format!(
            r#"if [ -d {root} ]; then echo there; else echo bare; fi
printf '%s\n' "$(cat /proc/sys/kernel/random/boot_id)" "$(cut -d. -f1 /proc/uptime)"
if [ -e {lease} ]; then cat {lease}; fi"#
        )
    }

    /// Returns who denies the lease, after the host has said `said`; a sentence: that cannot be known, with the
    /// exit status that a `brambled` would have.
    fn judge(&self, said: &str, in_place_of: Option<u64>) -> Result<Option<Answer>, (i32, String)> {
        let mut lines = said.splitn(4, '\n');
        let (is, boot, up) = (lines.next(), lines.next(), lines.next());
        let text = lines.next().unwrap_or_default().trim_end_matches('\n');
        if self.is_installed && is == Some("bare") {
            let why =
                "everything of ours was removed from it since it was looked at: run `bramble plan` again";
            return Err((VerbError::LOCKED, why.to_owned()));
        }
        let now = Instant::now();
        let since = match self.last().take() {
            Some((before, since)) if before == text => since,
            _ => now,
        };
        *self.last() = Some((text.to_owned(), since));
        if text.is_empty() {
            return Ok(None);
        }
        let up = up.and_then(|up| up.trim().parse().ok()).unwrap_or_default();
        let watched = now.duration_since(since).as_secs();
        let denial = lease::denial(text, boot.unwrap_or_default(), up, watched).map_err(|error| {
            let path = self.layout.lease();
            let why = format!(
                "cannot read {}, which says who may change this host: remove it there if it stays so: {error}",
                path.display()
            );
            (1, why)
        })?;
        Ok(denial.filter(
            |denial| !matches!(denial, Answer::Denied { number, .. } if Some(*number) == in_place_of),
        ))
    }
}

#[async_trait]
impl Connection for View {
    async fn run(&self, script: &Script, stdin: Stdin) -> Result<Output, connect::Error> {
        let asked = match &stdin {
            Stdin::Empty => None,
            Stdin::Bytes(bytes) => serde_json::from_slice::<Ask>(bytes).ok(),
        };
        let said = |status, stdout: Vec<u8>, stderr: String| Output { status, stdout, stderr };
        // the lease is not held: there is none to touch or to give back
        let Some(Ask::Take { in_place_of, .. }) = asked else {
            return Ok(said(0, b"null".to_vec(), String::new()));
        };
        let script = Script { text: self.look(), is_root: script.is_root, timeout: PATIENCE };
        let seen = self.connection.run(&script, Stdin::Empty).await?;
        if seen.status != 0 {
            return Ok(seen);
        }
        Ok(match self.judge(&String::from_utf8_lossy(&seen.stdout), in_place_of) {
            Ok(denial) => {
                let answer = denial.unwrap_or(Answer::Granted { number: 0 });
                let stdout = serde_json::to_vec(&answer);
                stdout.map_or_else(
                    |error| said(1, Vec::new(), error.to_string()),
                    |stdout| said(0, stdout, String::new()),
                )
            }
            Err((status, why)) => said(status, Vec::new(), why),
        })
    }

    /// Nobody talks with it.
    async fn talk(&self, script: &Script, talk: Talk) -> Result<Output, connect::Error> {
        self.connection.talk(script, talk).await
    }

    fn describe(&self) -> String {
        self.connection.describe()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use serde_json::json;

    use super::*;
    use crate::connect::fake::{Fake, ended};

    /// Who looked, and waited until `answer` was one that decides.
    async fn look(
        is_installed: bool,
        answer: impl Fn(u64) -> String + Send + Sync + 'static,
    ) -> (Result<u64, VerbError>, Duration, Vec<String>) {
        let (begun, asked) = (Instant::now(), AtomicU64::new(0));
        let fake = Fake::new("attic").on("/boot_id", move |_| {
            asked.fetch_add(1, Ordering::Relaxed);
            Ok(ended(0, answer(begun.elapsed().as_secs()), ""))
        });
        let fake = Arc::new(fake);
        let layout = Layout::new("/srv/bramble");
        let connection = Arc::clone(&fake) as Arc<dyn Connection>;
        let view = View { connection, layout: layout.clone(), is_installed, last: Mutex::default() };
        let host = "attic".parse().expect("a name");
        let seat = Seat { host, connection: Arc::new(view), layout, program: None, is_root: true };
        let given = Leases::new("ada@desk", &Events::none()).of(seat).await;
        (given, begun.elapsed(), fake.scripts())
    }

    /// What a host says that is up for `up` seconds, whose lease bob touched at `touched`.
    fn bobs(up: u64, touched: u64) -> String {
        let lease = json!({
            "number": 3, "holder": { "operator": "bob@desk", "boot": "elsewhere", "process": 1 },
            "is_over": false, "touched": { "boot": "first", "seconds": touched },
        });
        format!("there\nfirst\n{up}\n{lease}")
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_only_seen_counts_as_one_that_was_asked_for() {
        let (bare, took, scripts) = look(false, |_| "bare\nfirst\n100\n".to_owned()).await;
        assert_eq!((bare.expect("nobody's"), took, scripts.len()), (0, Duration::ZERO, 1));
        let (stale, took, _) = look(true, |_| bobs(5000, 100)).await;
        assert_eq!((stale.expect("nobody's"), took), (0, Duration::ZERO));
        let (at_work, took, _) = look(true, |now| bobs(100 + now, 95 + now / 4 * 4)).await;
        let error = at_work.expect_err("locked").to_string();
        assert!(error.contains("bob@desk (process 1) holds its lease and is at work"), "{error}");
        assert!(took <= Duration::from_secs(10), "{took:?}");
        let (gone, took, _) = look(true, |now| bobs(100 + now, 95)).await;
        assert_eq!((gone.expect("stale by then"), took.as_secs()), (0, 26));
        // where the clock that the lease was written by cannot be seen
        let (watched, took, _) = look(true, |_| bobs(5, 95)).await;
        assert_eq!((watched.expect("stale by then"), took.as_secs()), (0, 30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_written_anew_each_time_and_grows_no_older_is_not_watched_without_end() {
        let (kept, took, _) = look(true, |now| {
            assert!(now < 300, "it is looked at without end");
            bobs(100 + now, 95 + now)
        })
        .await;
        let error = kept.expect_err("given up").to_string();
        assert!(error.contains("it says that bob@desk (process 1) holds its lease"), "{error}");
        assert!(took <= Duration::from_secs(62), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_removed_since_it_was_looked_at_is_not_made_again_and_what_makes_no_sense_allows_nothing()
     {
        let (removed, ..) = look(true, |_| "bare\nfirst\n100\n".to_owned()).await;
        assert!(matches!(removed, Err(VerbError::Locked { .. })), "{removed:?}");
        let (damaged, ..) = look(false, |_| "there\nfirst\n100\n{".to_owned()).await;
        let error = damaged.expect_err("no lease").to_string();
        assert!(error.starts_with("cannot read /srv/bramble/lease, which says who may"), "{error}");
    }
}
