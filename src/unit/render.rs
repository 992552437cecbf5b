use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, context};
use serde::{Deserialize, Serialize};

use super::{BOOT_GUARD, ROUTE};
use crate::facts::Supervision;
use crate::generation::{Definition, EngineSpec, Layout};
use crate::ids::ModelName;
use crate::units::Bytes;

/// The system user that engines run as under systemd, and the group by which the door reaches their sockets.
pub const SERVICE_USER: &str = "bramble";

/// What a boot of the system reaches.
pub const SYSTEM_TARGET: &str = "multi-user.target";
/// What a login's own systemd reaches.
pub const USER_TARGET: &str = "default.target";

/// No engine is given less time to start: a cold SD card may be slower than any plan.
const MIN_START_SECONDS: f64 = 120.0;

/// A start may take this many times what was planned, as the activation's deadline does.
const START_SLACK: f64 = 3.0;

/// A limit leaves this much over what the plan counted, in percent, for what the
/// allocator and the page cache of a running service need.
const MEMORY_SLACK_PERCENT: u64 = 15;

/// Folders that the hardened services do not see. A root below one of them is shown
/// to them by a bind mount.
const HIDDEN: [&str; 5] = ["/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/"];

/// One systemd unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Its file name: `bramble-route.service`.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl Unit {
    /// Returns whether it is for a login's own systemd.
    pub fn is_of_user(&self) -> bool {
        self.wanted_by() == Some(USER_TARGET)
    }

    /// Returns the target that starts it at boot.
    pub fn wanted_by(&self) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix("WantedBy="))
    }
}

/// What units depend on besides the definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// What supervises services on the host; without systemd there are no units.
    pub supervision: Supervision,
    /// Whether the services of a login can be kept from seeing files
    /// ([`crate::facts::UserManager::has_namespaces`]); those of root always can.
    pub has_namespaces: bool,
    /// Whether the host has the group `render`; a unit that names a group which is not there does not start.
    pub has_render_group: bool,
    /// Whether limits on memory work there ([`crate::facts::HostFacts::memory_cgroup`]).
    pub has_memory_limits: bool,
    /// What each engine will use: weights, caches and buffers. An engine that is not
    /// named gets no limit.
    pub memory: BTreeMap<ModelName, Bytes>,
}

/// Why units could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder's name means something else to systemd.
    #[error("{0:?} cannot stand in a unit: choose an absolute `dir` of letters, digits and -_./ only")]
    Root(String),
    /// A template is wrong: a bug.
    #[error("cannot render {name}")]
    Template {
        /// The unit.
        name: String,
        /// What is wrong.
        source: minijinja::Error,
    },
}

/// Returns the service name of a model's engine: `engine-chat`.
pub fn engine_service(model: &ModelName) -> String {
    format!("engine-{model}")
}

/// Renders the units of one generation: the router, one engine for each model, and the
/// guard that runs at boot. Sorted by name; empty on a host without systemd.
pub fn render(definition: &Definition, layout: &Layout, setting: &Setting) -> Result<Vec<Unit>, Error> {
    if setting.supervision == Supervision::Process {
        return Ok(Vec::new());
    }
    let root = root_text(layout)?;
    let is_hidden = HIDDEN.iter().any(|folder| format!("{root}/").starts_with(folder));
    let is_user = matches!(setting.supervision, Supervision::SystemdUser { .. });
    let common = context! {
        root, is_hidden, is_user,
        has_namespaces => setting.has_namespaces,
        manager => if is_user { "user" } else { "systemd" },
        wanted_by => if is_user { USER_TARGET } else { SYSTEM_TARGET },
        user => SERVICE_USER,
        host => definition.host.as_str(),
        is_door => false,
        has_gpu => false,
        has_render_group => setting.has_render_group,
    };
    let templates = templates()?;
    let unit = |template: &str, name: String, own: minijinja::Value| {
        let data = context! { ..own, ..common.clone() };
        let text = templates.get_template(template).and_then(|template| template.render(data));
        text.map(|text| Unit { name: name.clone(), text }).map_err(|source| Error::Template { name, source })
    };

    let engine_units: Vec<String> =
        definition.engines.iter().map(|spec| unit_name(&engine_service(&spec.model))).collect();
    let mut units = vec![
        unit("guard", BOOT_GUARD.to_owned(), context! { engines => engine_units })?,
        unit("route", unit_name(ROUTE), context! { is_door => true })?,
    ];
    for spec in &definition.engines {
        let own = context! {
            model => spec.model.as_str(),
            start_seconds => start_seconds(spec),
            memory_max => memory_max(spec, setting),
            has_gpu => definition.program.gpu.is_some(),
        };
        units.push(unit("engine", unit_name(&engine_service(&spec.model)), own)?);
    }
    units.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(units)
}

fn unit_name(service: &str) -> String {
    format!("bramble-{service}.service")
}

fn root_text(layout: &Layout) -> Result<String, Error> {
    let text = layout.root().to_string_lossy().into_owned();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let climbs = text.split('/').any(|part| part == ".." || part == ".");
    let is_good = text.starts_with('/') && text.len() > 1 && !text.ends_with('/') && !text.contains("//");
    if is_good && !climbs && text.chars().all(is_plain) { Ok(text) } else { Err(Error::Root(text)) }
}

/// Returns how long systemd waits for an engine to be ready, in whole seconds.
fn start_seconds(spec: &EngineSpec) -> u64 {
    let planned = (spec.pace.load_seconds * START_SLACK).ceil();
    // a day bounds a plan that is out of its mind, and what is not a number becomes the least
    let bounded =
        if planned.is_nan() { MIN_START_SECONDS } else { planned.clamp(MIN_START_SECONDS, 86_400.0) };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 120 and 86400")]
    let seconds = bounded as u64;
    seconds
}

fn memory_max(spec: &EngineSpec, setting: &Setting) -> Option<u64> {
    let bytes = setting.memory.get(&spec.model).filter(|_| setting.has_memory_limits)?;
    Some(bytes.0.saturating_add(bytes.0 / 100 * MEMORY_SLACK_PERCENT))
}

fn templates() -> Result<Environment<'static>, Error> {
    let texts = [
        ("route", include_str!("../../templates/bramble-route.service.j2")),
        ("engine", include_str!("../../templates/bramble-engine.service.j2")),
        ("guard", include_str!("../../templates/bramble-guard-boot.service.j2")),
        ("hardening", include_str!("../../templates/hardening.j2")),
    ];
    let bad = |name: &str, source| Error::Template { name: name.to_owned(), source };
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true);
    let syntax = syntax.build().map_err(|source| bad("templates", source))?;
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(syntax);
    for (name, text) in texts {
        environment.add_template(name, text).map_err(|source| bad(name, source))?;
    }
    Ok(environment)
}

#[cfg(test)]
#[path = "render_texts_tests.rs"]
mod texts_tests;
