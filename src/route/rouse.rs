//! Wakes machines that sleep, and has requests wait for them that nobody else can answer.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::door::Shared;
use super::magic::Rouse;
use super::policy::{Attempt, Presence, Reason};
use super::state::{Route, Seat, State};
use super::wake::{Sleeper, Standing, Step};
use crate::generation::WakeSpec;
use crate::ids::Mac;

/// How often a machine that is being woken is looked for, and an answer asked for of one that has just come.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a look may take: one lost SYN, which is repeated after a second.
const LOOK_PATIENCE: Duration = Duration::from_secs(3);

/// Requests that may wait for machines at the same time. Each has its place among the connections meanwhile.
const MOST_WAITING: usize = 64;

/// The machines that may be asleep. It outlives a reload: so do the machines.
pub(super) struct Dormitory {
    rouse: Box<dyn Rouse>,
    machines: Mutex<BTreeMap<Mac, Machine>>,
    places: Arc<Semaphore>,
}

/// One of them, which several upstreams may be on.
type Machine = Arc<watch::Sender<Sleeper>>;

impl Dormitory {
    /// Knows of no machine. They are woken through `rouse`.
    pub(super) fn new(rouse: Box<dyn Rouse>) -> Self {
        Self { rouse, machines: Mutex::default(), places: Arc::new(Semaphore::new(MOST_WAITING)) }
    }

    fn machine(&self, mac: Mac) -> Machine {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(machines.entry(mac).or_insert_with(|| Arc::new(watch::Sender::new(Sleeper::new()))))
    }

    /// Returns what is known of the machine with this card.
    pub(super) fn sleeper(&self, wake: WakeSpec) -> Sleeper {
        *self.machine(wake.mac).borrow()
    }
}

/// Takes note of what an attempt said of whether the machine of `seat` is there. One that is not is woken in the
/// background.
pub(super) fn notice(
    shared: &Arc<Shared>,
    state: &Arc<State>,
    seat: &Arc<Seat>,
    presence: Presence,
) -> Notice {
    let Some(wake) = seat.wake else { return Notice::Nothing };
    let machine = shared.dormitory.machine(wake.mac);
    match presence {
        Presence::Unknown => Notice::Nothing,
        Presence::There => {
            heard(shared, state, seat, wake, &machine);
            Notice::Nothing
        }
        Presence::Missing => {
            let mut begins = false;
            machine.send_modify(|sleeper| begins = sleeper.missed(shared.now()));
            if begins {
                tracing::info!(upstream = seat.name, mac = %wake.mac, "waking");
                let (shared, state, seat) = (Arc::clone(shared), Arc::clone(state), Arc::clone(seat));
                tokio::spawn(async move {
                    tokio::select! {
                        () = wake_up(&shared, &state, &seat, wake) => {}
                        () = shared.stop.cancelled() => {}
                    }
                });
            }
            let sleeper = *machine.borrow();
            match sleeper.rest(shared.now()) {
                Some(rest) => Notice::LeftAlone(rest),
                None => Notice::Waking,
            }
        }
    }
}

/// What is done about a machine that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// Nothing need be, or can.
    Nothing,
    /// It is being woken.
    Waking,
    /// It was woken in vain, and is left alone for so long.
    LeftAlone(Duration),
}

/// Sends packets and looks for the machine until it is there or given up.
async fn wake_up(shared: &Shared, state: &State, seat: &Seat, wake: WakeSpec) {
    let machine = shared.dormitory.machine(wake.mac);
    let patience = Duration::from_secs(wake.wait_seconds.into());
    loop {
        let looked = Instant::now();
        let mut step = Step::Nothing;
        machine.send_modify(|sleeper| step = sleeper.step(shared.now(), patience));
        match step {
            Step::Nothing => break,
            Step::Look => {}
            Step::Send => {
                if let Err(error) = shared.dormitory.rouse.rouse(wake.mac).await {
                    tracing::warn!(upstream = seat.name, %error, "cannot send what wakes it");
                }
            }
        }
        let answer = timeout(LOOK_PATIENCE, shared.dial.dial(&seat.target.address)).await;
        if answer.is_ok_and(|answer| answer.map_or_else(|error| is_there(&error), |_| true)) {
            heard(shared, state, seat, wake, &machine);
            return;
        }
        tokio::time::sleep_until(looked + LOOK_EVERY).await;
    }
    if matches!(machine.borrow().standing(), Standing::Asleep { .. }) {
        tracing::warn!(upstream = seat.name, seconds = wake.wait_seconds, "was woken and did not come");
    }
}

/// Whether somebody has to be there to fail like this.
fn is_there(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::InvalidData)
}

/// Takes note that a machine is there. Where it was not, what is served on it may be asked at once.
fn heard(shared: &Shared, state: &State, seat: &Seat, wake: WakeSpec, machine: &Machine) {
    let mut is_news = false;
    machine.send_if_modified(|sleeper| {
        let was = sleeper.standing();
        is_news = sleeper.heard();
        was != Standing::Awake
    });
    if !is_news {
        return;
    }
    tracing::info!(upstream = seat.name, "is awake");
    let now = shared.now();
    let until = now.saturating_add(Duration::from_secs(wake.wait_seconds.into()));
    let seats = state.routes.values().flat_map(|route| &route.seats);
    for seat in seats.filter(|seat| seat.wake.is_some_and(|other| other.mac == wake.mac)) {
        seat.breaker(|breaker| breaker.expect(now, until));
    }
}

/// One request's waiting for machines that are being woken.
pub(super) struct Vigil {
    awaited: Vec<Awaited>,
    began: Instant,
    until: Instant,
    _place: OwnedSemaphorePermit,
}

struct Awaited {
    attempt: Attempt,
    machine: Machine,
    wake: WakeSpec,
}

/// How a vigil goes on.
pub(super) enum Turn {
    /// This one is there and may be asked.
    Ask(Attempt),
    /// This one, by its place in the order, did not come.
    GiveUp(usize, Reason),
    /// There is nobody left to wait for.
    Over,
}

impl Vigil {
    /// Begins to wait for the machines of these attempts; none where too many requests do.
    pub(super) fn begin(shared: &Shared, route: &Route, mut attempts: Vec<Attempt>) -> Option<Self> {
        let place = Arc::clone(&shared.dormitory.places).try_acquire_owned().ok()?;
        attempts.sort_by_key(|attempt| attempt.choice);
        let awaited = attempts.into_iter().filter_map(|attempt| {
            let wake = route.seats[attempt.choice].wake?;
            Some(Awaited { attempt, machine: shared.dormitory.machine(wake.mac), wake })
        });
        let awaited: Vec<Awaited> = awaited.collect();
        let longest = awaited.iter().map(|awaited| awaited.wake.wait_seconds).max().unwrap_or(0);
        let began = Instant::now();
        // whoever wakes it gives it up first, and knows when it may be tried again
        let until = began + Duration::from_secs(longest.into()) + LOOK_PATIENCE;
        Some(Self { awaited, began, until, _place: place })
    }

    /// Returns for how long it has waited.
    pub(super) fn waited(&self) -> Duration {
        self.began.elapsed()
    }

    /// Returns whether there is time for another try.
    pub(super) fn has_time(&self) -> bool {
        Instant::now() + LOOK_EVERY < self.until
    }

    /// Waits for whichever comes, or is given up, first.
    pub(super) async fn turn(&mut self, shared: &Shared) -> Turn {
        let mut watched: FuturesUnordered<_> =
            self.awaited.iter().enumerate().map(|(index, awaited)| watch_one(index, awaited)).collect();
        let outcome = timeout_at(self.until, watched.next()).await;
        drop(watched);
        let (index, came) = match outcome {
            Ok(None) => return Turn::Over,
            Ok(Some(outcome)) => outcome,
            // those that are left have had their time as well
            Err(_) if self.awaited.is_empty() => return Turn::Over,
            Err(_) => (0, false),
        };
        let Awaited { attempt, machine, .. } = self.awaited.remove(index);
        if came {
            return Turn::Ask(attempt);
        }
        let rest = machine.borrow().rest(shared.now());
        let seconds = self.waited().as_secs();
        Turn::GiveUp(
            attempt.choice,
            Reason::NotWoken { seconds: Some(seconds), retry_after: rest.map(|rest| rest.as_secs() + 1) },
        )
    }

    /// Waits a little before `attempt`, which somebody that is still starting did not answer, is made again.
    pub(super) async fn again(&mut self, shared: &Shared, route: &Route, attempt: Attempt) {
        let Some(wake) = route.seats[attempt.choice].wake else { return };
        sleep(LOOK_EVERY).await;
        self.awaited.push(Awaited { attempt, machine: shared.dormitory.machine(wake.mac), wake });
    }
}

/// Waits until a machine is not being woken any more, and returns whether it came.
async fn watch_one(index: usize, awaited: &Awaited) -> (usize, bool) {
    let mut changes = awaited.machine.subscribe();
    let settled = changes.wait_for(|sleeper| !matches!(sleeper.standing(), Standing::Waking { .. })).await;
    // whoever sends is kept as long as this
    (index, settled.is_ok_and(|sleeper| !matches!(sleeper.standing(), Standing::Asleep { .. })))
}
