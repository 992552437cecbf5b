use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::arguments::{Apply, Global};
use super::environment::Environment;
use super::exit::{Exit, Expected};
use super::fleet::Fleet;
use super::plan::show;
use super::{files, interrupt, output};
use crate::clock;
use crate::connect::Connection;
use crate::events::Events;
use crate::execute::{self, Doors, Outcome, Report, State};
use crate::facts::Inventory;
use crate::fetch::Fetcher;
use crate::ids::HostName;
use crate::keys::{NewKey, Safe};
use crate::lock::Made;
use crate::manifest::{Manifest, Tls};
use crate::plan::{self, Plan, Problem};
use crate::view::{self, Deed};

/// Makes the hosts run what the manifest says.
pub(crate) async fn run(verb: &Apply, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let mut fleet = Fleet::open(global, verb.login, environment)?;
    fleet.adopts = verb.latitude.adopt;
    let (events, live) = output::recorded_events(environment);
    let fetcher = fleet.fetcher(events.clone())?;
    let connections = fleet.connections()?;
    let mut safe = fleet.safe()?;
    if verb.new_ca {
        found_anew(&mut safe, &fleet.manifest)?;
    }
    let (plan, inventory) = if let Some(path) = &verb.plan {
        let inventory = fleet.inventory(&connections).await;
        let plan = saved(path, &fleet.manifest, &inventory)?;
        fleet.pin(&plan);
        if plan.manifest.is_some_and(|digest| digest != plan::manifest_digest(&fleet.manifest)) {
            output::say(
                "The manifest has changed since this plan was made: the plan is carried out as it is.",
            );
        }
        // it may have been made elsewhere
        let authority = fleet.lacks_authority(&inventory, &safe).map_or(Ok(()), Err);
        authority.and_then(|()| execute::check_room(&plan, &fetcher)).map_err(Expected::Refused)?;
        if plan.is_empty() && !global.json {
            output::result(&view::plan(&plan, &[], None, environment.style))?;
        }
        (plan, inventory)
    } else {
        let (inventory, models) = fleet.look(&connections, &fetcher).await;
        let (plan, problems) = fleet.plan(&inventory, &models, &fetcher, &safe);
        let is_part = verb.latitude.partial && !problems.iter().any(Problem::is_of_all);
        if !global.json {
            show(&plan, &problems, is_part, &fetcher, environment)?;
        }
        if !problems.is_empty() && !is_part {
            if global.json {
                output::json(&serde_json::json!({ "problems": problems }))?;
            }
            return Ok(Exit::Refused);
        }
        (plan, inventory)
    };
    fleet.warn_of_other_keys(&plan, &safe);
    let notes = plan::check(&plan);
    if !notes.is_empty() {
        return Err(Expected::Refused(format!("the plan contradicts itself: {}", notes.join("; "))).into());
    }
    if plan.is_empty() {
        fleet.save_lock()?;
        if global.json {
            let left = plan.skipped.iter().map(|skipped| (skipped.host.clone(), skipped.why.clone()));
            output::json(&with_failures(Report::default(), left.collect()))?;
        }
        return Ok(if plan.skipped.is_empty() { Exit::Done } else { Exit::Partly });
    }
    if !verb.yes && verb.plan.is_none() && !may_apply(&plan, environment)? {
        return Ok(Exit::Refused);
    }

    let cancel = CancellationToken::new();
    live.begin(&safe.folder(), "apply", &environment.operator, clock::unix_seconds()).await;
    let carrying =
        carry_out(&fleet, &plan, (connections, &inventory), fetcher, &mut safe, (&events, &cancel));
    let Some(carried) = interrupt::or_end(Box::pin(carrying), &cancel).await else {
        live.end(false, clock::unix_seconds());
        return Ok(Exit::Interrupted);
    };
    let is_well = carried.as_ref().is_ok_and(|(report, _)| report.is_complete());
    live.end(is_well, clock::unix_seconds());
    let (report, new_key) = carried?;

    remember(&mut fleet, &plan, &report);
    fleet.save_lock()?;
    let printed = if global.json || verb.plan.is_some() {
        output::report(&report, Deed::Apply, global, environment)
    } else {
        output::report(&after_plan(report.clone(), &plan), Deed::Apply, global, environment)
    };
    if let Some(key) = new_key {
        output::say(&format!(
            "The key for clients of the fleet {}, shown this once:\n  {}",
            fleet.manifest.fleet, *key.0
        ));
    }
    if verb.plan.is_some() && !report.is_complete() {
        output::say(
            "The kept plan no longer fits hosts that have changed: make another one, or run `bramble apply` without it.",
        );
    }
    // only after the key, which is shown once
    printed?;
    Ok(exit_of(&report))
}

/// Returns a report that stands below its plan: why hosts were left out is told there.
fn after_plan(mut report: Report, plan: &Plan) -> Report {
    for skipped in &plan.skipped {
        if let Some(Outcome { state: State::NotStarted { why }, .. }) = report.hosts.get_mut(&skipped.host)
            && *why == skipped.why
        {
            "left out, as the plan says".clone_into(why);
        }
    }
    report
}

/// Carries a plan out on the hosts that were looked at. Returns what became of them, and the key for clients where one
/// was made.
pub(super) async fn carry_out(
    fleet: &Fleet<'_>,
    plan: &Plan,
    (connections, inventory): (BTreeMap<HostName, Arc<dyn Connection>>, &Inventory),
    fetcher: Fetcher,
    safe: &mut Safe,
    (events, cancel): (&Events, &CancellationToken),
) -> anyhow::Result<(Report, Option<NewKey>)> {
    let connections =
        if plan.has_pushes() { fleet.for_weights(connections, inventory)? } else { connections };
    let foreign = fleet.foreign_keys()?;
    let tls = plan::door_tls(&fleet.manifest);
    let hosts = || plan.hosts.iter().map(|host| &host.host);
    let new_key = safe.complete(hosts(), tls, clock::unix_seconds())?;
    let secrets = |host: &HostName| Some((host.clone(), safe.secrets(host, tls, foreign.clone())?));
    let doors = Doors {
        secrets: hosts().filter_map(secrets).collect(),
        reconnect: fleet.reconnect(),
        connections,
        links: Fleet::links(inventory),
        here: fleet.here(),
        limits: fleet.limits(),
        brambled: fleet.brambled(fetcher.store())?,
        fetcher,
        bundles: fleet.bundles.clone(),
        operator: fleet.environment.operator.clone(),
        now: clock::now_utc(),
    };
    Ok((execute::apply(plan, &doors, events, cancel).await, new_key))
}

/// Has all certificates made anew, by another authority.
fn found_anew(safe: &mut Safe, manifest: &Manifest) -> anyhow::Result<()> {
    if manifest.serve.tls == Tls::Off {
        let why = "the doors of this fleet have no certificates: the manifest says `tls: off`";
        return Err(Expected::Refused(why.to_owned()).into());
    }
    output::say(
        "Trust is founded anew: what trusts the fleet's authority now has to be given the new one (`bramble keys ca`).",
    );
    safe.found_anew();
    Ok(())
}

/// Returns the exit code that tells the truth about a report.
pub(crate) fn exit_of(report: &Report) -> Exit {
    if report.is_interrupted {
        Exit::Interrupted
    } else if report.is_complete() {
        Exit::Done
    } else if report.has_success() {
        Exit::Partly
    } else if report.has_locked() {
        Exit::Locked
    } else {
        Exit::Failed
    }
}

/// Reads a plan that was kept, and refuses one whose hosts have changed since, or into which somebody has written.
fn saved(path: &Path, manifest: &Manifest, inventory: &Inventory) -> anyhow::Result<Plan> {
    anyhow::ensure!(
        path.extension().is_none_or(|extension| extension != "yaml"),
        "{} is a manifest, not a plan: a manifest is named with -f",
        path.display()
    );
    let text = files::read(path, files::LONGEST_PLAN)
        .with_context(|| format!("cannot read the plan {}", path.display()))?;
    let plan: Plan = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not a plan of this version", path.display()))?;
    if plan.inventory != plan::fingerprint(inventory) {
        let why = "the hosts have changed since this plan was made: make a new one with `bramble plan --out`";
        return Err(Expected::Refused(why.to_owned()).into());
    }
    if let Some(host) = plan::written_by_others(&plan, manifest, inventory).first() {
        let why = format!(
            "what this plan says of {host} does not follow from the manifest: that has changed, another version has made the plan, or somebody has written into it; make a new one with `bramble plan --out`"
        );
        return Err(Expected::Refused(why).into());
    }
    Ok(plan)
}

/// Asks the person, where there is one; without one nothing is changed.
pub(crate) fn may_change(question: &str, environment: &Environment) -> anyhow::Result<bool> {
    if !environment.can_ask {
        output::say("Nobody can be asked here, and --yes was not given: nothing was changed.");
        return Ok(false);
    }
    let may = output::ask(question)?;
    if !may {
        output::say("Nothing was changed.");
    }
    Ok(may)
}

/// Adds hosts that could not be reached to a report.
pub(crate) fn with_failures(mut report: Report, failures: BTreeMap<HostName, String>) -> Report {
    for (host, why) in failures {
        report.hosts.insert(host, Outcome::without_generation(State::NotStarted { why }));
    }
    report
}

fn may_apply(plan: &Plan, environment: &Environment) -> anyhow::Result<bool> {
    let changing: Vec<_> = plan.hosts.iter().filter(|host| host.generation.is_some()).collect();
    let removed: usize = changing
        .iter()
        .filter_map(|host| Some((host, host.before.as_ref()?)))
        .map(|(host, before)| {
            let stays = |model| host.definition.engines.iter().any(|engine| &engine.model == model);
            before.engines.iter().filter(|engine| !stays(&engine.model)).count()
        })
        .sum();
    let removals = if removed == 0 {
        String::new()
    } else {
        format!(", taking away {}", view::count(removed, "engine"))
    };
    may_change(&format!("Change {}{removals}?", view::count(changing.len(), "host")), environment)
}

/// Puts what was decided once into the lock.
pub(super) fn remember(fleet: &mut Fleet<'_>, plan: &Plan, report: &Report) {
    for (recipe, made) in &report.made {
        let quant = plan.artifact(recipe).and_then(|artifact| artifact.recipe.quant);
        fleet.lock.made.insert(*recipe, Made { digest: made.digest, bytes: made.bytes, quant });
    }
    for host in &plan.hosts {
        let is_ours = report.hosts.get(&host.host).is_some_and(|outcome| outcome.generation.is_some());
        let locked = fleet.manifest.hosts.get(&host.host).and_then(super::fleet::to_lock);
        if let (true, Some(locked)) = (is_ours, locked) {
            fleet.lock.hosts.insert(host.host.clone(), locked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{Fleet, name};

    #[test]
    fn why_hosts_were_left_out_is_not_said_twice() {
        let mut fleet = Fleet::new();
        fleet.lose("shed");
        let plan = fleet.plan();
        let failures = [("shed", plan.skipped[0].why.as_str()), ("attic", "stopped")];
        let failures = failures.map(|(host, why)| (name(host), why.to_owned()));
        let report = after_plan(with_failures(Report::default(), BTreeMap::from(failures)), &plan);
        let why = |host: &str| match &report.hosts[&name(host)].state {
            State::NotStarted { why } => why.clone(),
            state => panic!("{state:?}"),
        };
        assert_eq!((why("shed").as_str(), why("attic").as_str()), ("left out, as the plan says", "stopped"));
    }
}
