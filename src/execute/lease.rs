//! The leases of the hosts that one run changes: taken before the first change, touched until the run ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::verbs::{VerbError, Verbs};
use crate::causes::with_causes;
use crate::clock;
use crate::connect::Connection;
use crate::events::{Event, Events};
use crate::generation::Layout;
use crate::ids::{Digest, HostName};
use crate::lease::{Answer, Ask, Holder, STALE_AFTER, TOUCHED_EVERY};

/// One small file is written.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often somebody else's lease is looked at while it is not known whether its holder lives: one that does
/// touches it meanwhile, and that of one that does not becomes stale.
const LOOKED_EVERY: Duration = Duration::from_secs(2);
/// What nobody touches is stale long before: a host that goes on to deny its lease makes that up.
const WAITED_AT_MOST: Duration = STALE_AFTER.saturating_mul(2);
/// How many runs of this machine that have ended are followed on one host: one may have come between.
const FOLLOWED_AT_MOST: u32 = 2;

/// A host that is to be changed.
#[derive(Clone)]
pub(super) struct Seat {
    pub(super) host: HostName,
    pub(super) connection: Arc<dyn Connection>,
    pub(super) layout: Layout,
    /// The bundle there whose `brambled` is asked; none: that of the generation in force.
    pub(super) program: Option<Digest>,
    pub(super) is_root: bool,
}

impl Seat {
    pub(super) fn verbs(&self) -> Verbs<'_> {
        let connection = self.connection.as_ref();
        match &self.program {
            Some(program) => Verbs::of_program(connection, &self.layout, program, self.is_root),
            None => Verbs::of_current(connection, &self.layout, self.is_root),
        }
    }

    async fn ask(&self, ask: &Ask) -> Result<Option<Answer>, VerbError> {
        self.verbs().run("lease", ask, PATIENCE).await
    }
}

/// The leases that one run holds.
pub(super) struct Leases {
    holder: Holder,
    events: Events,
    held: Mutex<BTreeMap<HostName, Held>>,
}

struct Held {
    seat: Seat,
    number: u64,
    touching: AbortHandle,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.touching.abort();
    }
}

impl Leases {
    /// Holds none yet. `operator` is `user@machine`.
    pub(super) fn new(operator: &str, events: &Events) -> Self {
        let holder =
            Holder { operator: operator.to_owned(), boot: clock::boot_id(), process: std::process::id() };
        Self { holder, events: events.clone(), held: Mutex::default() }
    }

    /// Returns the number of our lease of a host, which is taken if it is not held.
    ///
    /// # Errors
    /// [`VerbError::Locked`] when somebody else holds it who is at work, or the host does not give it in time.
    pub(super) async fn of(&self, seat: Seat) -> Result<u64, VerbError> {
        if let Some(held) = self.held().get(&seat.host) {
            return Ok(held.number);
        }
        let number = self.take(&seat).await?;
        let touching = tokio::spawn(touch(seat.clone(), number, self.events.clone())).abort_handle();
        self.held().insert(seat.host.clone(), Held { seat, number, touching });
        Ok(number)
    }

    async fn take(&self, seat: &Seat) -> Result<u64, VerbError> {
        let begun = Instant::now();
        let (mut in_place_of, mut followed, mut seen) = (None, 0, None);
        loop {
            let answer = seat.ask(&Ask::Take { holder: self.holder.clone(), in_place_of }).await?;
            let (number, holder, idle_seconds) = match answer {
                Some(Answer::Granted { number }) => return Ok(number),
                Some(Answer::Denied { number, holder, idle_seconds }) => (number, holder, idle_seconds),
                None => {
                    let said = "the host gives no lease".to_owned();
                    return Err(VerbError::Failed { verb: "lease", status: 0, said });
                }
            };
            if self.has_ended(&holder) && in_place_of != Some(number) {
                if followed == FOLLOWED_AT_MOST {
                    return Err(VerbError::Locked { said: not_given(&holder) });
                }
                (in_place_of, followed) = (Some(number), followed + 1);
                continue;
            }
            let is_touched = seen.is_some_and(|(before, idle)| before != number || idle_seconds < idle);
            if is_touched || self.is_ours(&holder) {
                return Err(VerbError::Locked { said: locked(&holder) });
            }
            if begun.elapsed() >= WAITED_AT_MOST {
                return Err(VerbError::Locked { said: not_given(&holder) });
            }
            if seen.is_none() {
                let text = format!(
                    "{} held this host {idle_seconds} s ago: waiting to see whether it is still at work",
                    holder.operator
                );
                self.events.send(Event::Note { host: Some(seat.host.clone()), text });
            }
            seen = Some((number, idle_seconds));
            sleep(LOOKED_EVERY).await;
        }
    }

    /// Returns whether a holder is a process of this boot of this machine.
    fn is_of_here(&self, holder: &Holder) -> bool {
        !holder.boot.is_empty() && holder.boot == self.holder.boot && holder.operator == self.holder.operator
    }

    /// Returns whether a holder is at work on this machine.
    fn is_ours(&self, holder: &Holder) -> bool {
        self.is_of_here(holder) && is_running(holder.process)
    }

    /// Returns whether a holder is known to have ended.
    fn has_ended(&self, holder: &Holder) -> bool {
        self.is_of_here(holder) && !is_running(holder.process)
    }

    /// Gives all leases back. One that cannot be given back becomes stale.
    pub(super) async fn release(&self) {
        let held = std::mem::take(&mut *self.held());
        let releases = held.into_values().map(|held| async move {
            held.touching.abort();
            if let Err(error) = held.seat.ask(&Ask::Release { number: held.number }).await {
                tracing::debug!("the lease of {} is left to itself: {}", held.seat.host, with_causes(&error));
            }
        });
        futures_util::future::join_all(releases).await;
    }

    /// Forgets the lease of a host that everything was removed from.
    pub(super) fn forget(&self, host: &HostName) {
        self.held().remove(host);
    }

    fn held(&self) -> std::sync::MutexGuard<'_, BTreeMap<HostName, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn locked(holder: &Holder) -> String {
    format!("{} (process {}) holds its lease and is at work", holder.operator, holder.process)
}

/// The host cannot be believed: it names a holder who does nothing, and keeps the lease all the same.
fn not_given(holder: &Holder) -> String {
    format!(
        "it says that {} (process {}) holds its lease, who does not touch it, and gives it to nobody else: look at what runs there, and run again",
        holder.operator, holder.process
    )
}

fn is_running(process: u32) -> bool {
    let pid = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw);
    // one of another user may not be signalled, and runs
    let is_none = |pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH);
    pid.is_some_and(|pid| !is_none(pid))
}

/// Touches a lease until somebody else has it.
async fn touch(seat: Seat, number: u64, events: Events) {
    loop {
        sleep(TOUCHED_EVERY).await;
        match seat.ask(&Ask::Touch { number }).await {
            Ok(Some(Answer::Denied { holder, .. })) => {
                let text = format!("{} has taken this host over", holder.operator);
                events.send(Event::Note { host: Some(seat.host), text });
                return;
            }
            Ok(None) => return,
            Ok(Some(Answer::Granted { .. })) => {}
            // the next touch may come through; until then, what is done shows the number
            Err(error) => tracing::debug!("the lease of {}: {}", seat.host, with_causes(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::connect::Output;
    use crate::connect::fake::{Call, Fake, ended};

    type Asked = Arc<Mutex<Vec<Ask>>>;

    /// A host that answers as `answer` says.
    fn seat(answer: impl Fn(&Ask) -> Answer + Send + Sync + 'static) -> (Seat, Asked) {
        let asked = Asked::default();
        let log = Arc::clone(&asked);
        let told = move |call: &Call| -> Output {
            let ask: Ask = serde_json::from_slice(&call.stdin).expect("a question");
            let answer = answer(&ask);
            log.lock().expect("nobody panicked").push(ask);
            ended(0, serde_json::to_string(&answer).expect("plain values"), "")
        };
        let connection = Arc::new(Fake::new("attic").on(" lease --root ", move |call| Ok(told(call))));
        let host = "attic".parse().expect("a name");
        let layout = Layout::new("/srv/bramble");
        (Seat { host, connection, layout, program: None, is_root: true }, asked)
    }

    fn denied(holder: Holder, idle_seconds: u64) -> Answer {
        Answer::Denied { number: 3, holder, idle_seconds }
    }

    fn elsewhere() -> Holder {
        Holder { operator: "bob@desk".to_owned(), boot: "another machine".to_owned(), process: 1 }
    }

    fn leases() -> Leases {
        Leases::new("ada@desk", &Events::none())
    }

    /// No process has the highest number that there can be.
    const NO_PROCESS: u32 = i32::MAX.cast_unsigned();

    fn mine(process: u32) -> Holder {
        Holder { process, ..leases().holder }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_taken_once_touched_while_it_is_held_and_given_back() {
        let (seat, asked) = seat(|_| Answer::Granted { number: 4 });
        let leases = leases();
        assert_eq!(leases.of(seat.clone()).await.expect("given"), 4);
        assert_eq!(leases.of(seat).await.expect("held"), 4);
        sleep(Duration::from_secs(25)).await;
        leases.release().await;
        sleep(Duration::from_mins(1)).await;
        let asked = asked.lock().expect("nobody panicked");
        let touch = Ask::Touch { number: 4 };
        assert_eq!(asked[1..], [touch.clone(), touch, Ask::Release { number: 4 }]);
        assert!(matches!(&asked[0], Ask::Take { in_place_of: None, .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn somebody_who_is_at_work_is_not_waited_for_and_somebody_who_is_gone_is() {
        let idle = Arc::new(AtomicU64::new(5));
        let seconds = Arc::clone(&idle);
        let (at_work, _) = seat(move |_| denied(elsewhere(), seconds.fetch_add(2, Ordering::Relaxed) % 10));
        let begun = Instant::now();
        let locked = leases().of(at_work).await.expect_err("locked").to_string();
        assert!(locked.contains("bob@desk (process 1) holds its lease and is at work"), "{locked}");
        assert!(begun.elapsed() <= TOUCHED_EVERY, "{:?}", begun.elapsed());

        let begun = Instant::now();
        let (gone, asked) = seat(move |_| match begun.elapsed().as_secs() {
            30.. => Answer::Granted { number: 4 },
            idle => denied(elsewhere(), idle),
        });
        assert_eq!(leases().of(gone).await.expect("given"), 4);
        assert!(
            asked
                .lock()
                .expect("nobody panicked")
                .iter()
                .all(|ask| matches!(ask, Ask::Take { in_place_of: None, .. }))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_denies_its_lease_without_end_is_given_up() {
        let begun = Instant::now();
        let (stuck, _) = seat(move |_| {
            assert!(begun.elapsed() < 2 * WAITED_AT_MOST, "it is asked without end");
            denied(elsewhere(), 5)
        });
        let error = leases().of(stuck).await.expect_err("given up").to_string();
        assert!(error.contains("it says that bob@desk (process 1) holds its lease"), "{error}");
        assert!(begun.elapsed() <= WAITED_AT_MOST + LOOKED_EVERY, "{:?}", begun.elapsed());

        // it knows from the question who we are, and names a run of ours that has ended, each time another
        let ended = mine(NO_PROCESS);
        let numbers = AtomicU64::new(1);
        let (echo, asked) = seat(move |_| {
            let number = numbers.fetch_add(1, Ordering::Relaxed);
            assert!(number < 100, "it is asked without end");
            Answer::Denied { number, holder: ended.clone(), idle_seconds: 0 }
        });
        let begun = Instant::now();
        let error = leases().of(echo).await.expect_err("given up");
        assert!(matches!(error, VerbError::Locked { .. }), "{error}");
        assert_eq!((begun.elapsed(), asked.lock().expect("nobody panicked").len()), (Duration::ZERO, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_of_this_machine_that_has_ended_is_followed_at_once() {
        let ended = mine(NO_PROCESS);
        let (killed, asked) = seat(move |ask| match ask {
            Ask::Take { in_place_of: Some(3), .. } => Answer::Granted { number: 4 },
            _ => denied(ended.clone(), 1),
        });
        let begun = Instant::now();
        assert_eq!(leases().of(killed).await.expect("given"), 4);
        assert_eq!((begun.elapsed(), asked.lock().expect("nobody panicked").len()), (Duration::ZERO, 2));

        let running = mine(std::process::id());
        let (other_terminal, _) = seat(move |_| denied(running.clone(), 1));
        leases().of(other_terminal).await.expect_err("locked, at once");
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
