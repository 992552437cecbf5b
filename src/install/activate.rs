use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout_at};

use super::lock::Lock;
use super::record::Pending;
use super::stand::{self, Stand};
use super::{
    Arming, Changes, Error, Service, Supervisor, ask, files, guard, lay_out, process, record, trust,
};
use crate::causes::with_causes;
use crate::clock;
use crate::facts::{Measured, Receipt, ServiceState};
use crate::generation::Layout;
use crate::ids::{Generation, ModelName};
use crate::unit::{BOOT_GUARD, ROUTE, engine_service};
use crate::units::{Bytes, TokensPerSec};

/// The activation itself gives up after this part of the deadline, in percent: the rest
/// is for going back, or for the operator to confirm, before the guard acts.
const OWN_SHARE_PERCENT: u32 = 80;

/// How often services are looked at.
const TICK: Duration = Duration::from_millis(250);

/// A service that ended by itself this often will not come up.
const MAX_RESTARTS: u32 = 3;

/// Nor will one that lies there failed for this long: both supervisors start it again
/// sooner than that, until they give up.
const FAILED_LIMIT: Duration = Duration::from_secs(10);

/// What `activate` needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActivateRequest {
    /// The generation, laid out.
    pub generation: Generation,
    /// Seconds until the host goes back by itself unless it was confirmed. The plan's:
    /// three times the planned load and probe, at least 120.
    pub deadline_seconds: u64,
    /// What proves that an engine works.
    pub probe: ProbeSpec,
}

/// The fixed prompt that every new engine must answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeSpec {
    /// The prompt.
    pub prompt: String,
    /// The answer may have this many tokens.
    pub max_tokens: u32,
    /// The least answer speed that is plausible, for each model that has one.
    #[serde(default)]
    pub least: BTreeMap<ModelName, TokensPerSec>,
}

/// What `rollback` needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RollbackRequest {
    /// Where to; none means the generation confirmed before the one in force.
    #[serde(default)]
    pub to: Option<Generation>,
    /// As for an activation.
    pub deadline_seconds: u64,
    /// As for an activation.
    pub probe: ProbeSpec,
}

/// What `restart` needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestartRequest {
    /// The models whose engines to start anew; none: every engine, and the door.
    #[serde(default)]
    pub models: BTreeSet<ModelName>,
    /// Seconds until they must be well.
    pub deadline_seconds: u64,
    /// As for an activation.
    pub probe: ProbeSpec,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restarted {
    /// The generation in force.
    pub generation: Generation,
    /// What was measured, for each engine that was started.
    pub measured: Vec<Measured>,
}

/// How an activation ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Activated {
    /// The generation that was asked for.
    pub generation: Generation,
    /// Whether it is in force now and waits to be confirmed.
    pub activated: bool,
    /// What was measured, for each engine that was started.
    pub measured: Vec<Measured>,
    /// Why the host went back, where it did.
    pub rolled_back: Option<String>,
}

/// A moment of an activation after which a test pulls the plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    Armed,
    Recorded,
    Linked,
    Switched,
    Well,
}

/// A hook at each [`Moment`]; an error there breaks the work off as a power cut does.
pub(super) type Hook<'a> = &'a (dyn Fn(Moment) -> Result<(), Error> + Sync);

/// Brings a generation into force and proves that it works; goes back by itself when it
/// does not. It stays pending until confirmed.
///
/// # Errors
/// A generation that does not work is an [`Activated`] with `rolled_back`, no error. An
/// error while things were changed leaves the rest to the guard.
pub async fn activate(
    layout: &Layout,
    lease: u64,
    supervisor: &dyn Supervisor,
    request: &ActivateRequest,
) -> Result<Activated, Error> {
    let _lock = Lock::take(layout, lease, "activate")?;
    activate_with(layout, supervisor, request, &|_| Ok(())).await
}

/// Brings an earlier generation into force, as an activation does. Of its secrets, those of today are kept: a key or a host that
/// was revoked meanwhile does not come in again.
pub async fn rollback(
    layout: &Layout,
    lease: u64,
    supervisor: &dyn Supervisor,
    request: &RollbackRequest,
) -> Result<Activated, Error> {
    let _lock = Lock::take(layout, lease, "rollback")?;
    let generation = match request.to {
        Some(to) => to,
        None => rollback_target(layout)?,
    };
    let RollbackRequest { deadline_seconds, probe, .. } = request.clone();
    let request = ActivateRequest { generation, deadline_seconds, probe };
    if let Some(now) = Stand::current(layout).ok().flatten() {
        trust::bring_up_to_date(layout, &Stand::read(layout, generation)?, &now)?;
    }
    activate_with(layout, supervisor, &request, &|_| Ok(())).await
}

/// Starts services of the generation in force anew, and proves that they work.
///
/// # Errors
/// [`Error::Unhealthy`] when they do not: there is nothing to go back to, and they are left as they are.
pub async fn restart(
    layout: &Layout,
    lease: u64,
    supervisor: &dyn Supervisor,
    request: &RestartRequest,
) -> Result<Restarted, Error> {
    let _lock = Lock::take(layout, lease, "restart")?;
    if let Some(pending) = Pending::read(layout)? {
        return Err(Error::StillPending(pending.generation));
    }
    let target = Stand::current(layout)?.ok_or(Error::NothingInForce)?;
    let known = |model: &ModelName| target.definition.engines.iter().any(|spec| spec.model == *model);
    if let Some(model) = request.models.iter().find(|model| !known(model)) {
        return Err(Error::NoModel { model: model.to_string() });
    }
    let services = if request.models.is_empty() {
        target.services()
    } else {
        request.models.iter().map(engine_service).collect()
    };
    let RestartRequest { deadline_seconds, probe, .. } = request.clone();
    let generation = target.number;
    let request = ActivateRequest { generation, deadline_seconds, probe };
    let hook: Hook<'_> = &|_| Ok(());
    let proof = Activation { layout, supervisor, request: &request, hook, target, previous: None, now: None };
    let measured = proof.start_anew(services).await?;
    if let Err(error) = record::renew(layout, generation, &measured) {
        // they run, and that is what was asked for
        tracing::warn!(error = with_causes(&error), "the diary keeps what was measured before");
    }
    Ok(Restarted { generation, measured })
}

/// Returns where a rollback goes when nobody says.
pub(super) fn rollback_target(layout: &Layout) -> Result<Generation, Error> {
    let pending = Pending::read(layout)?.and_then(|pending| pending.previous);
    let earlier = Receipt::previous(layout, stand::current(layout))?;
    pending.or(earlier).ok_or(Error::NothingEarlier)
}

pub(super) async fn activate_with(
    layout: &Layout,
    supervisor: &dyn Supervisor,
    request: &ActivateRequest,
    hook: Hook<'_>,
) -> Result<Activated, Error> {
    let target = Stand::read(layout, request.generation)?;
    // `current` that leads to nothing readable counts as none
    let now = Stand::current(layout).ok().flatten();
    // what was never confirmed is nothing to go back to: what it came from is
    let previous = match Pending::read(layout)? {
        Some(pending) => pending.previous,
        None => now.as_ref().map(|now| now.number),
    };
    let previous = previous.map(|number| Stand::read(layout, number)).transpose()?;
    for other in [&previous, &now].into_iter().flatten() {
        if other.is_of_user() != target.is_of_user() {
            return Err(Error::SupervisionChanged(target.number));
        }
    }
    let activation = Activation { layout, supervisor, request, hook, target, previous, now };
    activation.run().await
}

struct Activation<'a> {
    layout: &'a Layout,
    supervisor: &'a dyn Supervisor,
    request: &'a ActivateRequest,
    hook: Hook<'a>,
    target: Stand,
    /// What to go back to.
    previous: Option<Stand>,
    /// What runs.
    now: Option<Stand>,
}

impl Activation<'_> {
    async fn run(self) -> Result<Activated, Error> {
        let generation = self.target.number;
        let end = Instant::now() + self.own_share();
        match self.bring_in(end).await {
            Ok(measured) => Ok(Activated { generation, activated: true, measured, rolled_back: None }),
            Err(Error::BrokenOff) => Err(Error::BrokenOff),
            Err(error) => {
                let reason = match (with_causes(&error), self.go_back().await?) {
                    (reason, Ok(())) => reason,
                    (reason, Err(still)) => {
                        format!(
                            "{reason}; what was in force before is started and does not answer yet: {still}"
                        )
                    }
                };
                let (measured, rolled_back) = (Vec::new(), Some(reason));
                Ok(Activated { generation, activated: false, measured, rolled_back })
            }
        }
    }

    fn own_share(&self) -> Duration {
        Duration::from_secs(self.request.deadline_seconds) * OWN_SHARE_PERCENT / 100
    }

    async fn bring_in(&self, end: Instant) -> Result<Vec<Measured>, Error> {
        let layout = self.layout;
        let token = token()?;
        guard::lay_down(layout)?;
        // the guard first, then the record: a timer with nothing pending does nothing
        let boot_unit = self.target.units.iter().find(|unit| unit.name == BOOT_GUARD).cloned();
        let after = Duration::from_secs(self.request.deadline_seconds);
        self.supervisor.arm(&Arming { token: token.clone(), after, boot_unit }).await?;
        (self.hook)(Moment::Armed)?;
        let previous = self.previous.as_ref().map(|stand| stand.number);
        Pending { generation: self.target.number, previous, token, boot: clock::boot_id() }.write(layout)?;
        files::remove(&layout.root().join("taken-back"))?;
        (self.hook)(Moment::Recorded)?;

        point_current_to(layout, Some(&self.target))?;
        (self.hook)(Moment::Linked)?;
        let owner = match self.supervisor.user() {
            Some(user) => lay_out::owner(user).await,
            None => None,
        };
        lay_out::make_run_dir(layout, owner)?;
        let changes = self.changes(self.now.as_ref(), Some(&self.target)).await?;
        let started = Instant::now();
        self.supervisor.switch(&self.target.units, &changes).await?;
        // what runs on has them loaded, too
        self.target.have_loaded(layout, &self.target.services());
        (self.hook)(Moment::Switched)?;
        // not before: what a door was given as it started is not what is written there, and it would not be started anew
        if let Some(previous) = &self.previous {
            trust::admit_as(layout, previous, &self.target)?;
        }

        let ready = self.wait_until_well(&self.target, started, end).await?;
        let measured = self.probe(&changes, &ready, end).await?;
        (self.hook)(Moment::Well)?;
        Ok(measured)
    }

    async fn start_anew(&self, services: Vec<String>) -> Result<Vec<Measured>, Error> {
        let started = Instant::now();
        let end = started + Duration::from_secs(self.request.deadline_seconds);
        self.supervisor.restart(&services).await?;
        self.target.have_loaded(self.layout, &services);
        let ready = self.wait_until_well(&self.target, started, end).await?;
        let changes = Changes { restart: services, ..Changes::default() };
        self.probe(&changes, &ready, end).await
    }

    async fn changes(&self, old: Option<&Stand>, new: Option<&Stand>) -> Result<Changes, Error> {
        let names: BTreeSet<String> = [old, new].into_iter().flatten().flat_map(Stand::services).collect();
        let names: Vec<String> = names.into_iter().collect();
        let services = self.supervisor.services(&names).await?;
        let states = services.into_iter().map(|(name, service)| (name, service.state)).collect();
        let replaced = old.map(|old| old.replaced(self.layout)).unwrap_or_default();
        Ok(Changes::between(old, new, &states, &replaced))
    }

    /// Waits until every engine and the door say that they are well. Returns the seconds
    /// that each engine took.
    async fn wait_until_well(
        &self,
        stand: &Stand,
        started: Instant,
        end: Instant,
    ) -> Result<BTreeMap<String, f64>, Error> {
        let definition = &stand.definition;
        let mut waiting: BTreeMap<String, String> =
            stand.services().into_iter().map(|name| (name, "not asked yet".to_owned())).collect();
        let (mut ready, mut failed_since) = (BTreeMap::new(), BTreeMap::<String, Instant>::new());
        loop {
            for spec in &definition.engines {
                let name = engine_service(&spec.model);
                let Some(said) = waiting.get_mut(&name) else { continue };
                match ask::engine_health(&self.layout.engine_socket(&spec.model)).await {
                    Ok(()) => {
                        waiting.remove(&name);
                        ready.insert(name, started.elapsed().as_secs_f64());
                    }
                    Err(now) => *said = now,
                }
            }
            if let Some(said) = waiting.get_mut(ROUTE) {
                match ask::door_health(definition, stand.secrets.as_ref()).await {
                    Ok(()) => {
                        waiting.remove(ROUTE);
                    }
                    Err(now) => *said = now,
                }
            }
            // asked after their health: something else may answer in the place of a dead service
            let services = self.supervisor.services(&stand.services()).await?;
            let now = Instant::now();
            failed_since
                .retain(|name, _| services.get(name).is_some_and(|s| s.state == ServiceState::Failed));
            for (name, service) in &services {
                let has_failed = service.state == ServiceState::Failed;
                let since = has_failed.then(|| *failed_since.entry(name.clone()).or_insert(now));
                let is_given_up = since.is_some_and(|since| now > since + FAILED_LIMIT);
                if service.restarts >= MAX_RESTARTS || is_given_up {
                    let said = waiting.get(name).map_or("it ended", String::as_str).to_owned();
                    return Err(self.unhealthy(name, &format!("does not stay up ({said})")).await);
                }
            }
            let behind = services.iter().find_map(|(name, service)| {
                let said = self.is_behind(stand, *service)?;
                Some((name.clone(), said.to_owned()))
            });
            if waiting.is_empty() && behind.is_none() {
                return Ok(ready);
            }
            if Instant::now() >= end {
                let first = waiting.into_iter().next().or(behind);
                let (name, said) = first.unwrap_or_else(|| (ROUTE.to_owned(), "is not up".to_owned()));
                let seconds = end.duration_since(started).as_secs();
                return Err(self.unhealthy(&name, &format!("is not ready after {seconds} s: {said}")).await);
            }
            sleep(TICK).await;
        }
    }

    /// Says what a service is not yet, whatever answers in its place.
    fn is_behind(&self, stand: &Stand, service: Service) -> Option<&'static str> {
        if service.state != ServiceState::Running {
            return Some("is not up");
        }
        let program = Layout::brambled(&self.layout.generation(stand.number));
        // the door hands over to another program while it serves
        let is_other = service.pid.is_some_and(|pid| process::runs(pid, &program) == Some(false));
        is_other.then_some("still runs another program")
    }

    /// Lets every engine that was started answer the fixed prompt.
    async fn probe(
        &self,
        changes: &Changes,
        ready: &BTreeMap<String, f64>,
        end: Instant,
    ) -> Result<Vec<Measured>, Error> {
        let ProbeSpec { prompt, max_tokens, least } = &self.request.probe;
        let mut measured = Vec::new();
        for spec in &self.target.definition.engines {
            let (model, name) = (&spec.model, engine_service(&spec.model));
            // one that was not touched may be at work for somebody
            if !changes.starts(&name) {
                continue;
            }
            let socket = self.layout.engine_socket(model);
            let asked = ask::answer(&socket, model.as_str(), prompt, *max_tokens);
            let asked = timeout_at(end, asked).await;
            let answer = match asked.unwrap_or_else(|_| Err("does not answer the prompt in time".to_owned()))
            {
                Ok(answer) => answer,
                Err(said) => return Err(self.unhealthy(&name, &said).await),
            };
            if let (Some(speed), Some(least)) = (answer.speed, least.get(model))
                && speed < *least
            {
                let said = format!("answers at {speed}, expected {least} or more");
                return Err(self.unhealthy(&name, &said).await);
            }
            measured.push(Measured {
                model: model.clone(),
                tokens_per_second: answer.speed,
                first_token_ms: answer.first_token_ms,
                load_seconds: ready.get(&name).copied().unwrap_or_default(),
                memory: self.memory(&name).await,
            });
        }
        Ok(measured)
    }

    /// Returns the most memory that a service has held, where the system tells.
    async fn memory(&self, name: &str) -> Option<Bytes> {
        let found = self.supervisor.services(&[name.to_owned()]).await.ok()?;
        process::peak_memory(found.get(name)?.pid?)
    }

    async fn unhealthy(&self, service: &str, said: &str) -> Error {
        let log = self.supervisor.log(service).await;
        let last = if log.is_empty() { String::new() } else { format!("; its last lines:\n{log}") };
        Error::Unhealthy(format!("{service} {said}{last}"))
    }

    /// Brings back what was in force before, and waits until that serves. What was pending stays so until all is
    /// switched. The inner error says that it does not serve, as long as an activation may take.
    async fn go_back(&self) -> Result<Result<(), Error>, Error> {
        let previous = self.previous.as_ref();
        point_current_to(self.layout, previous)?;
        let changes = self.changes(Some(&self.target), previous).await?;
        let units = previous.map(|stand| stand.units.as_slice()).unwrap_or_default();
        self.supervisor.switch(units, &changes).await?;
        files::remove(&Pending::path(self.layout))?;
        self.supervisor.disarm().await?;
        let Some(previous) = previous else { return Ok(Ok(())) };
        previous.have_loaded(self.layout, &previous.services());
        let started = Instant::now();
        Ok(self.wait_until_well(previous, started, started + self.own_share()).await.map(drop))
    }
}

fn point_current_to(layout: &Layout, stand: Option<&Stand>) -> Result<(), Error> {
    match stand {
        // relative, so that the folder can be mounted elsewhere
        Some(stand) => {
            let target = std::path::Path::new("generations").join(stand.number.to_string());
            files::switch_link(&layout.current(), &target)
        }
        None => files::remove(&layout.current()),
    }
}

fn token() -> Result<String, Error> {
    let mut bytes = [0; 8];
    let cannot = |error: getrandom::Error| Error::Start {
        program: "getrandom".to_owned(),
        source: std::io::Error::other(error.to_string()),
    };
    getrandom::fill(&mut bytes).map_err(cannot)?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}
