//! What the host remembers: the generation that waits to be confirmed, and the diary.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::lock::Lock;
use super::{Error, Supervisor, files, stand};
use crate::facts::{Foretold, Measured, Receipt, ReceiptEntry};
use crate::generation::{EngineSpec, Layout};
use crate::ids::Generation;

/// The diary keeps this many entries: years of weekly applies.
const MAX_ENTRIES: usize = 100;

/// Free texts of the diary are cut to this many characters.
const MAX_TEXT: usize = 200;

/// A generation that was activated and is not confirmed: `<root>/pending`, lines of
/// `key=value`, since the guard reads it with `sed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) generation: Generation,
    /// What to go back to; none on a first install.
    pub(super) previous: Option<Generation>,
    /// Ties a timer to the activation that armed it.
    pub(super) token: String,
    /// The boot that it happened in: on a host without systemd, our own supervisor
    /// takes back what it finds pending from an earlier boot.
    pub(super) boot: String,
}

impl Pending {
    pub(super) fn path(layout: &Layout) -> PathBuf {
        layout.root().join("pending")
    }

    pub(super) fn read(layout: &Layout) -> Result<Option<Self>, Error> {
        let Some(bytes) = files::read(&Self::path(layout))? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        let field = |key: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            found.unwrap_or_default()
        };
        let Ok(generation) = field("generation").parse() else { return Ok(None) };
        Ok(Some(Self {
            generation,
            previous: field("previous").parse().ok(),
            token: field("token").to_owned(),
            boot: field("boot").to_owned(),
        }))
    }

    pub(super) fn write(&self, layout: &Layout) -> Result<(), Error> {
        let previous = self.previous.map(|number| number.to_string()).unwrap_or_default();
        let text = format!(
            "generation={}\nprevious={previous}\ntoken={}\nboot={}\n",
            self.generation, self.token, self.boot
        );
        files::write(&Self::path(layout), text.as_bytes(), 0o644)
    }
}

impl Receipt {
    /// Reads the diary; an empty one where there is none, or none that can be read: it
    /// is never worth failing for.
    pub fn read(layout: &Layout) -> Self {
        files::read_json(&layout.receipt()).ok().flatten().unwrap_or_default()
    }

    /// Returns what is gone back to from `current`: [`earlier`].
    pub(super) fn previous(
        layout: &Layout,
        current: Option<Generation>,
    ) -> Result<Option<Generation>, Error> {
        Ok(earlier(&Self::read(layout), &stand::numbers(layout)?, current))
    }
}

/// Returns the last generation that a diary has as confirmed, is among `laid_out` (oldest first) and is not `current`; the
/// one before `current` where the diary knows of none.
pub fn earlier(
    receipt: &Receipt,
    laid_out: &[Generation],
    current: Option<Generation>,
) -> Option<Generation> {
    let is_earlier = |number: &Generation| Some(*number) != current && laid_out.contains(number);
    let confirmed = receipt.entries.iter().rev().map(|entry| entry.generation).find(is_earlier);
    let below = || laid_out.iter().rev().copied().find(|number| current.is_some_and(|now| *number < now));
    confirmed.or_else(below)
}

/// What `confirm` needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfirmRequest {
    /// The generation that works.
    pub generation: Generation,
    /// The fingerprint of the plan.
    pub plan: String,
    /// The operator's time.
    pub at: String,
    /// The operator.
    pub by: String,
    /// What the activation measured.
    pub measured: Vec<Measured>,
}

/// Makes the activated generation stay: removes `pending`, disarms the guard, and
/// writes the diary. Confirming once more changes nothing.
pub async fn confirm(
    layout: &Layout,
    lease: u64,
    supervisor: &dyn Supervisor,
    request: ConfirmRequest,
) -> Result<(), Error> {
    let _lock = Lock::take(layout, lease, "confirm")?;
    let generation = request.generation;
    let is_current = stand::current(layout) == Some(generation);
    match Pending::read(layout)? {
        Some(pending) if pending.generation == generation && is_current => {}
        None if is_current => {
            let last = Receipt::read(layout).entries.last().map(|entry| entry.generation);
            if last == Some(generation) {
                return Ok(());
            }
        }
        _ => return Err(Error::NotPending(generation)),
    }
    // from here on it stays, whatever happens
    files::remove(&Pending::path(layout))?;
    files::remove(&layout.root().join("taken-back"))?;
    supervisor.disarm().await?;
    enter(layout, request)
}

fn enter(layout: &Layout, request: ConfirmRequest) -> Result<(), Error> {
    let definition = stand::Stand::read(layout, request.generation)?.definition;
    let cut = |text: String| text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect();
    let mut receipt = Receipt::read(layout);
    receipt.entries.push(ReceiptEntry {
        generation: request.generation,
        plan: cut(request.plan),
        at: cut(request.at),
        by: cut(request.by),
        predicted: definition.engines.iter().map(Foretold::from).collect(),
        measured: with_those_that_run_on(layout, &receipt, &definition.engines, request.measured),
    });
    let surplus = receipt.entries.len().saturating_sub(MAX_ENTRIES);
    receipt.entries.drain(..surplus);
    write(layout, &receipt)
}

/// Puts what was measured of engines that were started anew in the place of what was known of them.
pub(super) fn renew(layout: &Layout, generation: Generation, measured: &[Measured]) -> Result<(), Error> {
    let mut receipt = Receipt::read(layout);
    let mut entries = receipt.entries.iter_mut().rev();
    let Some(entry) = entries.find(|entry| entry.generation == generation) else { return Ok(()) };
    entry.measured.retain(|known| measured.iter().all(|now| now.model != known.model));
    entry.measured.extend(measured.iter().cloned());
    entry.measured.sort_by(|one, other| one.model.cmp(&other.model));
    write(layout, &receipt)
}

fn write(layout: &Layout, receipt: &Receipt) -> Result<(), Error> {
    files::write(&layout.receipt(), &files::json("the diary", receipt)?, 0o644)
}

/// Adds to what was measured now what is known of engines that were not started anew, since nothing about them changed.
fn with_those_that_run_on(
    layout: &Layout,
    receipt: &Receipt,
    engines: &[EngineSpec],
    mut measured: Vec<Measured>,
) -> Vec<Measured> {
    let Some(last) = receipt.entries.last() else { return measured };
    // one that was pruned meanwhile tells nothing any more
    let Ok(before) = stand::Stand::read(layout, last.generation) else { return measured };
    // as expected or not, it is the same process
    let runs: Vec<EngineSpec> = before.definition.engines.iter().map(EngineSpec::without_pace).collect();
    for spec in engines.iter().filter(|spec| runs.contains(&spec.without_pace())) {
        if measured.iter().all(|known| known.model != spec.model) {
            measured.extend(last.measured.iter().find(|known| known.model == spec.model).cloned());
        }
    }
    measured
}
