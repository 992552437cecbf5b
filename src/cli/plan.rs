use std::fs;

use anyhow::Context as _;
use serde::Serialize;

use super::arguments::{Global, Plan as Verb};
use super::environment::Environment;
use super::exit::Exit;
use super::fleet::Fleet;
use super::output;
use crate::events::Events;
use crate::execute;
use crate::fetch::Fetcher;
use crate::plan::{Plan, Problem};
use crate::view;

/// What `plan --json` prints.
#[derive(Serialize)]
struct Printed<'a> {
    plan: &'a Plan,
    problems: &'a [Problem],
}

/// Shows what apply would do.
pub(crate) async fn run(verb: &Verb, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let mut fleet = Fleet::open(global, verb.login, environment)?;
    fleet.adopts = verb.latitude.adopt;
    let fetcher = fleet.fetcher(Events::none())?;
    let connections = fleet.connections()?;
    let (inventory, models) = fleet.look(&connections, &fetcher).await;
    let safe = fleet.safe()?;
    let (plan, problems) = fleet.plan(&inventory, &models, &fetcher, &safe);
    let is_part = verb.latitude.partial && !problems.iter().any(Problem::is_of_all);
    if global.json {
        output::json(&Printed { plan: &plan, problems: &problems })?;
    } else {
        show(&plan, &problems, is_part, &fetcher, environment)?;
    }
    fleet.warn_of_other_keys(&plan, &safe);
    if let Some(path) = &verb.html {
        let page = view::html(&plan, &problems, is_part, execute::left(&plan, &fetcher).ok())?;
        fs::write(path, page).with_context(|| format!("cannot write the page {}", path.display()))?;
        output::say(&format!("The page is in {}.", path.display()));
    }
    if !problems.is_empty() && !is_part {
        return Ok(Exit::Refused);
    }
    if let Some(path) = &verb.out {
        fs::write(path, serde_json::to_vec_pretty(&plan)?)
            .with_context(|| format!("cannot keep the plan in {}", path.display()))?;
        output::say(&format!("Kept in {}; `bramble apply {}` does it.", path.display(), path.display()));
    }
    Ok(if verb.exit_code && !plan.is_empty() { Exit::Partly } else { Exit::Done })
}

/// Prints a plan, with what is left to fetch and to make; where `is_part`, as one that is carried out without what is
/// wrong with it.
pub(crate) fn show(
    plan: &Plan,
    problems: &[Problem],
    is_part: bool,
    fetcher: &Fetcher,
    environment: &Environment,
) -> anyhow::Result<()> {
    let view = if is_part { view::part } else { view::plan };
    output::result(&view(plan, problems, execute::left(plan, fetcher).ok(), environment.style))
}
