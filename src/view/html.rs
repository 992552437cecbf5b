//! The plan as one page that needs nothing else: a host each with its memory as a bar, what it
//! would run and how fast, and what changes.

use minijinja::Environment;
use serde::Serialize;

use super::Style;
use super::changes::{changes, describe_route};
use super::plan::{totals, totals_of_part};
use crate::execute::Left;
use crate::plan::{Chosen, Plan, Problem};
use crate::units::Bytes;

const TEMPLATE: &str = include_str!("../../templates/plan.html.j2");
/// What it has in common with the page of a fleet.
const LOOK: &str = include_str!("../../templates/look.css");

/// Colours that the page has for models; more of them begin again.
const COLOURS: usize = 6;

#[derive(Serialize)]
struct Page {
    fleet: String,
    version: String,
    total: String,
    problems: Vec<String>,
    is_part: bool,
    hosts: Vec<Host>,
}

#[derive(Serialize)]
struct Host {
    name: String,
    state: String,
    class: &'static str,
    total: String,
    bar: Vec<Part>,
    models: Vec<Model>,
    changes: Vec<String>,
}

#[derive(Serialize)]
struct Part {
    label: String,
    bytes: String,
    percent: String,
    class: String,
}

#[derive(Serialize)]
struct Model {
    name: String,
    quant: String,
    file: String,
    memory: String,
    speed: String,
    prompt: String,
    load: String,
    loss: String,
    why: Vec<String>,
}

/// Returns the plan as a page of HTML, to be kept in a file and opened in a browser. `is_part` says that it would be carried
/// out without what is wrong with it.
///
/// # Errors
/// The template is wrong, which is a bug.
pub fn html(
    plan: &Plan,
    problems: &[Problem],
    is_part: bool,
    left: Option<Left>,
) -> Result<String, minijinja::Error> {
    let totals = if is_part { totals_of_part } else { totals };
    let page = Page {
        fleet: plan.fleet.to_string(),
        version: plan.bramble.clone(),
        total: totals(plan, problems, left).trim_end().to_owned(),
        problems: problems.iter().map(|problem| problem.message.clone()).collect(),
        is_part,
        hosts: hosts(plan),
    };
    let mut environment = Environment::new();
    // names that end so are escaped: nothing of a manifest or a host becomes markup
    environment.add_template("plan.html", TEMPLATE)?;
    environment.add_template("look", LOOK)?;
    environment.get_template("plan.html")?.render(minijinja::value::Serde(page))
}

fn hosts(plan: &Plan) -> Vec<Host> {
    let ours = plan.hosts.iter().map(|host| {
        let (state, class) = match (host.generation, host.previous) {
            (None, Some(now)) => (format!("generation {now}, nothing to do"), ""),
            (None, None) => ("nothing to run".to_owned(), ""),
            (Some(new), None) => (format!("generation {new} (first)"), "new"),
            (Some(new), Some(old)) => (format!("generation {old} to {new}"), "change"),
        };
        let mut lines: Vec<String> = host.reasons.iter().chain(&host.notes).cloned().collect();
        if host.generation.is_some() {
            lines.extend(changes(host.before.as_ref(), &host.definition, Style::default()));
        }
        Host {
            name: host.host.to_string(),
            state,
            class,
            total: host.memory.to_string(),
            bar: bar(host.memory, host.room, &host.choices),
            models: host.choices.iter().map(model).collect(),
            changes: lines,
        }
    });
    let planned = plan.planned.iter().map(|host| Host {
        name: host.host.to_string(),
        state: format!("{}, not bought yet", host.board),
        class: "",
        total: host.memory.to_string(),
        bar: bar(host.memory, host.room, &host.choices),
        models: host.choices.iter().map(model).collect(),
        changes: host.routes.iter().map(|route| format!("route {}", describe_route(route))).collect(),
    });
    let skipped = plan.skipped.iter().map(|host| Host {
        name: host.host.to_string(),
        state: format!("left out: {}", host.why),
        class: "change",
        total: String::new(),
        bar: Vec::new(),
        models: Vec::new(),
        changes: Vec::new(),
    });
    ours.chain(planned).chain(skipped).collect()
}

/// Returns the memory of a host from left to right: what others have and what is kept free, the
/// models, and what is left for more.
fn bar(total: Bytes, room: Bytes, chosen: &[Chosen]) -> Vec<Part> {
    if total == Bytes::ZERO {
        return Vec::new();
    }
    let part = |label: String, bytes: Bytes, class: String| Part {
        label,
        bytes: bytes.to_string(),
        percent: format!("{:.2}", 100.0 * bytes.as_mib() / total.as_mib()),
        class,
    };
    let taken: Bytes = chosen.iter().map(|chosen| chosen.memory).sum();
    let rest = part("system and margin".to_owned(), total - room, "rest".to_owned());
    let models = chosen
        .iter()
        .enumerate()
        .map(|(at, chosen)| part(chosen.model.to_string(), chosen.memory, format!("m{}", at % COLOURS)));
    let free = part("free".to_owned(), room - taken, "free".to_owned());
    std::iter::once(rest).chain(models).chain([free]).collect()
}

fn model(chosen: &Chosen) -> Model {
    Model {
        name: chosen.model.to_string(),
        quant: chosen.quant.clone(),
        file: chosen.file.to_string(),
        memory: chosen.memory.to_string(),
        speed: chosen.speed.clone(),
        prompt: chosen.prompt.clone(),
        load: format!("{:.0} s", chosen.pace.load_seconds.ceil()),
        loss: chosen.loss.map_or_else(|| "unknown".to_owned(), |loss| loss.to_string()),
        why: chosen.why.split("; ").map(str::to_owned).collect(),
    }
}
