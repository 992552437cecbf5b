//! Whether a host can carry Bramble at all, before any model is considered.

use std::path::PathBuf;

use super::gpu;
use crate::facts::{HostFacts, Lingering, Privilege, Supervision, UserManager};
use crate::generation::{Bundle, Layout};
use crate::ids::{FleetName, HostName};
use crate::manifest::HostSpec;

/// The machines that `scripts/bundle` builds for.
const MACHINES: [&str; 2] = ["aarch64", "x86_64"];

/// Returns the bundle for a host, or every reason why it cannot be one of the fleet. Where no fleet is given, it may belong to
/// any.
pub fn suit<'a>(
    fleet: Option<&FleetName>,
    host: &HostName,
    spec: &HostSpec,
    facts: &HostFacts,
    bundles: &'a [Bundle],
    bundle_folders: &[PathBuf],
) -> Result<&'a Bundle, Vec<String>> {
    let mut faults = Vec::new();
    match facts.privilege {
        Privilege::None if is_root(spec, facts) => faults.push(format!(
            "{host} does not let the login become root: let it use sudo, or log in as root"
        )),
        Privilege::SudoWithPassword if is_root(spec, facts) => faults.push(format!(
            "{host} wants a password for sudo: run this on a terminal, where it is asked for, or let the login use sudo without one"
        )),
        _ => {}
    }
    if let (Supervision::SystemdUser { .. }, Some(manager)) = (supervision(spec, facts), &facts.user_manager)
    {
        faults.extend(unkept(host, manager));
    }
    faults.extend(fleet.and_then(|fleet| stranger(fleet, host, facts)));
    let bundle = gpu::bundle(spec, facts, bundles);
    faults.extend(misfit(host, facts, bundle, bundles, bundle_folders));
    match bundle {
        Some(bundle) if faults.is_empty() => Ok(bundle),
        _ => Err(faults),
    }
}

/// Returns why a host that belongs to another fleet is not touched.
pub fn stranger(fleet: &FleetName, host: &HostName, facts: &HostFacts) -> Option<String> {
    let (_, definition) = facts.installed.as_ref()?.current.as_ref()?;
    (definition.fleet != *fleet).then(|| {
        format!(
            "{host} belongs to the fleet {}: take it off there first (`bramble remove {host}` with that fleet's manifest), or take it over with `bramble apply --adopt`",
            definition.fleet
        )
    })
}

/// Returns why services of the login would not run, or not for long.
fn unkept(host: &HostName, manager: &UserManager) -> Option<String> {
    let login = &manager.login;
    match (manager.lingering, manager.is_up) {
        (Lingering::Off, _) => Some(format!(
            "{host} does not let {login} become root, and ends what {login} runs when it logs out: let an administrator run `sudo loginctl enable-linger {login}` there, or let the login use sudo"
        )),
        (Lingering::Allowed, false) => Some(format!(
            "{host} does not let {login} become root, and no systemd of {login} runs: start it with `loginctl enable-linger {login}` there"
        )),
        (Lingering::On, false) => Some(format!(
            "{host} does not let {login} become root, and the systemd of {login} does not answer: see why with `systemctl status user@$(id -u {login})` there"
        )),
        (Lingering::On | Lingering::Allowed, true) => None,
    }
}

/// Returns why no bundle runs on a host, or `bundle`, which is for machines like it, does not.
fn misfit(
    host: &HostName,
    facts: &HostFacts,
    bundle: Option<&Bundle>,
    bundles: &[Bundle],
    bundle_folders: &[PathBuf],
) -> Option<String> {
    let machine = &facts.machine;
    if facts.userland_bits == Some(32) {
        return Some(format!(
            "{host} runs a 32-bit userland, for which llama.cpp is not built: install the 64-bit Raspberry Pi OS"
        ));
    }
    if !MACHINES.contains(&machine.as_str()) {
        return Some(format!(
            "{host} is of the kind {machine}, and Bramble runs on {}: take it out of the manifest",
            MACHINES.join(" and ")
        ));
    }
    if facts.is_musl {
        return Some(format!(
            "{host} has the C library musl, and bundles need glibc: install a system that has it, such as Raspberry Pi OS or Debian"
        ));
    }
    let Some(bundle) = bundle else {
        let (what, next) = no_bundle(machine, bundles, bundle_folders);
        return Some(format!("{host} {what}: {next}"));
    };
    let (glibc, wanted) = (facts.glibc?, bundle.glibc_version()?);
    (wanted > glibc).then(|| {
        format!(
            "{host} has glibc {}.{}, and the bundle for {} needs {}: make it anew with `{}`, which needs no more than Debian 12 has, or update the host",
            glibc.0,
            glibc.1,
            bundle.target,
            bundle.glibc,
            gpu::command(&bundle.target, bundle.gpu)
        )
    })
}

/// Returns what is said of a host where there is no bundle for machines like it, and the next move.
pub fn no_bundle(machine: &str, bundles: &[Bundle], folders: &[PathBuf]) -> (String, String) {
    let name = |bundle: &Bundle| match bundle.gpu {
        Some(gpu) => format!("{} with {}", bundle.machine, gpu.name()),
        None => bundle.machine.clone(),
    };
    let there: Vec<String> = bundles.iter().map(name).collect();
    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
    let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    let what = format!(
        "is an {machine} machine, and there is no bundle for that (there is {there} in {})",
        folders.join(", ")
    );
    let next = format!(
        "make one with `scripts/bundle {machine}-unknown-linux-gnu` in Bramble's sources, or bring it into one of these folders"
    );
    (what, next)
}

/// Returns whether our programs on a host run as root: always under the system's systemd, whose
/// units lie outside our folder; without systemd only in a folder that no login owns.
pub fn is_root(spec: &HostSpec, facts: &HostFacts) -> bool {
    match supervision(spec, facts) {
        Supervision::Systemd { .. } => true,
        Supervision::SystemdUser { .. } => false,
        Supervision::Process => spec.dir.is_none(),
    }
}

/// Returns the folder where Bramble lives on a host.
pub fn root(spec: &HostSpec, facts: &HostFacts) -> String {
    let found = spec.dir.as_ref().or(facts.root.as_ref());
    found.map_or_else(|| Layout::DEFAULT_ROOT.to_owned(), Clone::clone)
}

/// Returns what supervises services on a host: what the manifest says, else what is there.
pub(crate) fn supervision(spec: &HostSpec, facts: &HostFacts) -> Supervision {
    match spec.supervisor {
        crate::manifest::Supervisor::Auto | crate::manifest::Supervisor::Systemd => facts.supervision,
        crate::manifest::Supervisor::Process => Supervision::Process,
    }
}
