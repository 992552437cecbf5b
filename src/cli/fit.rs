use anyhow::Context as _;

use super::arguments::{Fit, Global};
use super::environment::Environment;
use super::exit::Exit;
use super::{fleet, output};
use crate::catalog::{self, ModelFacts};
use crate::events::Events;
use crate::facts::{self, HostFacts};
use crate::fetch::{Fetcher, Settings};
use crate::fit::{self, Question};
use crate::quant::Quant;
use crate::source::{Pinned, SourceRef};
use crate::view;

/// The boards that are shown where none is asked for.
const BOARDS: [&str; 2] = ["pi4-8gb", "pi5-8gb"];

/// Shows how a model would do on boards. A model of the catalog needs no network: what is known
/// of it is enough for a forecast.
pub(crate) async fn run(verb: &Fit, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let (model, is_forecast) = facts(&verb.model.0).await?;
    let is_only = !verb.quants.is_empty();
    let question = Question { context: verb.context, quants: quants(verb), is_only };
    let fit = fit::fit(&verb.model.0.to_string(), &model, is_forecast, &question, &boards(&verb.boards)?);
    if global.json {
        output::json(&fit)?;
    } else {
        output::result(&view::fit(&fit, environment.style))?;
    }
    Ok(Exit::Done)
}

async fn facts(source: &SourceRef) -> anyhow::Result<(ModelFacts, bool)> {
    if let SourceRef::Catalog(name) = source {
        let known = catalog::find(name)?;
        let source = Pinned { uri: source.to_string(), files: Vec::new(), license: None };
        return Ok((known.figures.facts(source), true));
    }
    let fetcher = Fetcher::new(Settings::from_env(), Events::none())?;
    let pinned = fetcher.pin(&fleet::resolve(source)?).await?;
    Ok((fleet::read_facts(&pinned, &fetcher).await?, false))
}

fn quants(verb: &Fit) -> Vec<Quant> {
    match (verb.all, verb.quants.is_empty()) {
        (true, _) => crate::placement::auto_quants().collect(),
        (false, true) => fit::LADDER.to_vec(),
        (false, false) => verb.quants.clone(),
    }
}

fn boards(names: &[String]) -> anyhow::Result<Vec<(String, HostFacts)>> {
    let names: Vec<&str> =
        if names.is_empty() { BOARDS.to_vec() } else { names.iter().map(String::as_str).collect() };
    let one = |name: &str| {
        let host = facts::planned(name).with_context(|| {
            let known: Vec<&str> = facts::planned_names().collect();
            format!("no board {name:?} is known; there are {}", known.join(", "))
        })?;
        Ok((name.to_owned(), host))
    };
    names.into_iter().map(one).collect()
}
