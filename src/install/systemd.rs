use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::error::tame;
use super::logs::{LONGEST_LINE, Reading};
use super::program::{self, must, run};
use super::{Arming, Changes, Error, LogLine, Service, Supervisor, files, guard};
use crate::causes::with_causes;
use crate::clock;
use crate::facts::ServiceState;
use crate::generation::Layout;
use crate::store;
use crate::unit::{BOOT_GUARD, ROUTE, SERVICE_USER, SYSTEM_TARGET, USER_TARGET, Unit};

/// Where the administrator's units live.
const UNIT_DIR: &str = "/etc/systemd/system";

/// Where a login's own units live, below its home.
const USER_UNIT_DIR: &str = ".config/systemd/user";

/// The transient unit of the guard's timer.
const GUARD: &str = "bramble-guard";

/// Most answers of systemd come at once; stopping waits for the service (`TimeoutStopSec`).
const LIMIT: Duration = Duration::from_secs(100);

/// The longest entry of the journal that is read, as JSON; it keeps lines of 48 KiB.
const LONGEST_ENTRY: usize = 1 << 20;

/// systemd: the system's where we are root, else the login's own (`systemctl --user`).
#[derive(Debug, Clone)]
pub struct Systemd {
    layout: Layout,
    unit_dir: PathBuf,
    is_user: bool,
}

impl Systemd {
    /// The systemd of this host.
    pub fn new(layout: &Layout) -> Self {
        let is_user = !rustix::process::geteuid().is_root();
        let home = || std::env::home_dir().unwrap_or_default();
        let unit_dir = if is_user { home().join(USER_UNIT_DIR) } else { PathBuf::from(UNIT_DIR) };
        Self { layout: layout.clone(), unit_dir, is_user }
    }

    /// Returns `args` as the programs of systemd take them for this one.
    fn args<'a>(&self, args: &[&'a str]) -> Vec<&'a str> {
        let scope = self.is_user.then_some("--user");
        scope.into_iter().chain(args.iter().copied()).collect()
    }

    async fn systemctl(&self, args: &[&str]) -> Result<(), Error> {
        must("systemctl", &self.args(args), LIMIT).await.map(drop)
    }

    /// Runs systemctl where it may fail.
    async fn try_systemctl(&self, args: &[&str]) -> Result<(), Error> {
        run("systemctl", &self.args(args), LIMIT).await.map(drop)
    }

    /// Runs one verb of systemctl over services; nothing when there are none.
    async fn each(&self, verb: &[&str], services: &[String]) -> Result<(), Error> {
        if services.is_empty() {
            return Ok(());
        }
        let units: Vec<String> = services.iter().map(|service| unit_name(service)).collect();
        self.systemctl(&verb.iter().copied().chain(units.iter().map(String::as_str)).collect::<Vec<_>>())
            .await
    }

    /// Returns the door where it is among `services`, and those without it.
    fn without_door(services: &[String]) -> (Option<&String>, Vec<String>) {
        let (doors, others): (Vec<_>, Vec<_>) = services.iter().partition(|service| *service == ROUTE);
        (doors.first().copied(), others.into_iter().cloned().collect())
    }

    /// Starts the door anew and waits until it is there. It is not stopped first: what is stopped loses the socket that
    /// systemd keeps for the next one, and clients would be refused. Whether it is well is asked later.
    async fn restart_door(&self, door: Option<&String>) -> Result<(), Error> {
        let Some(door) = door else { return Ok(()) };
        self.forget_failures(std::slice::from_ref(door)).await?;
        self.try_systemctl(&["restart", &unit_name(door)]).await
    }

    /// Has their count of failed starts begin anew, so that also one that systemd has given up is started again.
    async fn forget_failures(&self, services: &[String]) -> Result<(), Error> {
        // fails for a unit that was never loaded, after all others
        let units: Vec<String> = services.iter().map(|service| unit_name(service)).collect();
        let args: Vec<&str> = ["reset-failed"].into_iter().chain(units.iter().map(String::as_str)).collect();
        if units.is_empty() { Ok(()) } else { self.try_systemctl(&args).await }
    }
}

/// Returns whether the services of `login` start at boot and outlive its logins.
async fn is_lingering(login: &str) -> Result<bool, Error> {
    let args = ["show-user", login, "--property=Linger", "--value"];
    // of a login that is nowhere logged in, it knows only when it lingers
    Ok(run("loginctl", &args, LIMIT).await?.stdout.trim() == "yes")
}

fn unit_name(service: &str) -> String {
    format!("bramble-{service}.service")
}

/// Returns the names of our units in `dir`.
pub(super) fn installed(dir: &Path) -> Result<Vec<String>, Error> {
    let ours = |name: &String| {
        let is_engine = name.starts_with("bramble-engine-") && name.ends_with(".service");
        is_engine || *name == unit_name(ROUTE) || name == BOOT_GUARD
    };
    Ok(files::names(dir)?.into_iter().filter(ours).collect())
}

/// Writes a unit into `dir` where it is not there just so, and has its target start it at boot: as `systemctl enable`
/// does, but synced, and systemd does not read all its units again for it. Returns whether anything was written.
fn put_one(dir: &Path, unit: &Unit) -> Result<bool, Error> {
    let path = dir.join(&unit.name);
    let is_there = files::read(&path)?.as_deref() == Some(unit.text.as_bytes());
    if !is_there {
        files::write(&path, unit.text.as_bytes(), 0o644)?;
    }
    if is_wanted(dir, unit) {
        return Ok(!is_there);
    }
    let wants = wants(dir, unit);
    store::make_folder(&wants).map_err(Error::io("make the folder", &wants))?;
    files::switch_link(&wants.join(&unit.name), &path)?;
    Ok(true)
}

/// Removes a unit from `dir`, and has nothing start it any more.
pub(super) fn take_away(dir: &Path, name: &str) -> Result<(), Error> {
    for target in [SYSTEM_TARGET, USER_TARGET] {
        files::remove(&dir.join(format!("{target}.wants")).join(name))?;
    }
    files::remove(&dir.join(name))
}

/// Returns the folder of what is started at boot with this unit.
fn wants(dir: &Path, unit: &Unit) -> PathBuf {
    dir.join(format!("{}.wants", unit.wanted_by().unwrap_or(SYSTEM_TARGET)))
}

/// Returns whether a unit of `dir` is started at boot.
fn is_wanted(dir: &Path, unit: &Unit) -> bool {
    let leads_to = fs::read_link(wants(dir, unit).join(&unit.name));
    leads_to.is_ok_and(|leads_to| leads_to == dir.join(&unit.name))
}

/// Makes the units of `dir` those given: writes those that differ. Returns the names of
/// those that are there and not wanted, which the caller stops and takes away, and
/// whether anything was written.
pub(super) fn put(dir: &Path, units: &[Unit]) -> Result<(Vec<String>, bool), Error> {
    let mut is_changed = false;
    for unit in units {
        is_changed |= put_one(dir, unit)?;
    }
    let surplus = installed(dir)?.into_iter().filter(|name| units.iter().all(|unit| unit.name != *name));
    Ok((surplus.collect(), is_changed))
}

#[async_trait]
impl Supervisor for Systemd {
    fn user(&self) -> Option<&'static str> {
        (!self.is_user).then_some(SERVICE_USER)
    }

    async fn linger(&self) -> Result<bool, Error> {
        if !self.is_user {
            return Ok(false);
        }
        let login = program::login().await?;
        if is_lingering(&login).await? {
            return Ok(false);
        }
        let ran = run("loginctl", &["enable-linger", &login], LIMIT).await?;
        if ran.is_success { Ok(true) } else { Err(Error::Lingering { login, said: ran.stderr }) }
    }

    async fn end_lingering(&self) -> Result<(), Error> {
        if !self.is_user {
            return Ok(());
        }
        must("loginctl", &["disable-linger", &program::login().await?], LIMIT).await.map(drop)
    }

    async fn verify(&self, units: &[Unit], at: &Path) -> Result<(), Error> {
        // `current` leads elsewhere until the activation, so the copies name the folder itself
        let current = self.layout.current().display().to_string();
        let here = at.display().to_string();
        let dir = tempfile::tempdir_in(self.layout.root()).map_err(Error::io("make", self.layout.root()))?;
        let mut paths = Vec::new();
        for unit in units {
            let path = dir.path().join(&unit.name);
            let text = unit.text.replace(&current, &here);
            files::write(&path, text.as_bytes(), 0o644)?;
            paths.push(path.display().to_string());
        }
        let paths = paths.iter().map(String::as_str);
        let args: Vec<&str> = ["verify", "--man=no"].into_iter().chain(paths).collect();
        match run("systemd-analyze", &self.args(&args), LIMIT).await {
            // it also speaks of other units of the host: only what concerns ours counts
            Ok(ran) if !ran.is_success && ran.stderr.contains("bramble-") => {
                Err(Error::Units { said: tame(&ran.stderr, 600) })
            }
            // minimal images have systemd without this program
            Ok(_) | Err(Error::Start { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn switch(&self, units: &[Unit], changes: &Changes) -> Result<(), Error> {
        // stopped first, also what is restarted: two models may not fit into memory at once,
        // and a health check must never meet the process that is on its way out
        let (door, restart) = Self::without_door(&changes.restart);
        let down: Vec<String> = changes.stop.iter().chain(&restart).cloned().collect();
        let loaded = installed(&self.unit_dir)?;
        let known = |service: &&String| loaded.contains(&unit_name(service));
        self.each(&["stop"], &down.iter().filter(known).cloned().collect::<Vec<_>>()).await?;

        let (surplus, mut is_changed) = put(&self.unit_dir, units)?;
        for name in &surplus {
            self.try_systemctl(&["stop", name]).await?;
            take_away(&self.unit_dir, name)?;
            is_changed = true;
        }
        if is_changed {
            self.systemctl(&["daemon-reload"]).await?;
        }
        let up: Vec<String> = changes.start.iter().chain(&restart).cloned().collect();
        self.forget_failures(&up).await?;
        self.each(&["start", "--no-block"], &up).await?;
        self.restart_door(door).await?;
        self.each(&["reload"], &changes.reload).await
    }

    async fn restart(&self, services: &[String]) -> Result<(), Error> {
        let (door, services) = Self::without_door(services);
        self.forget_failures(&services).await?;
        // all of them down first: two models may not fit into memory at once
        self.each(&["stop"], &services).await?;
        self.each(&["start", "--no-block"], &services).await?;
        self.restart_door(door).await
    }

    async fn services(&self, services: &[String]) -> Result<BTreeMap<String, Service>, Error> {
        if services.is_empty() {
            return Ok(BTreeMap::new());
        }
        let units: Vec<String> = services.iter().map(|service| unit_name(service)).collect();
        let args = ["show", "--property=Id,ActiveState,SubState,MainPID,NRestarts"];
        let args: Vec<&str> = args.into_iter().chain(units.iter().map(String::as_str)).collect();
        let shown = must("systemctl", &self.args(&args), LIMIT).await?.stdout;
        let mut found = parse_show(&shown);
        let one = |name: &String| (name.clone(), found.remove(&unit_name(name)).unwrap_or(Service::STOPPED));
        Ok(services.iter().map(one).collect())
    }

    async fn log(&self, service: &str) -> String {
        let unit = unit_name(service);
        let which = if self.is_user { "--user-unit" } else { "--unit" };
        let args = ["--quiet", "--no-pager", "--output=cat", "--lines=12", which, &unit];
        match run("journalctl", &args, Duration::from_secs(20)).await {
            Ok(ran) => tame(&ran.stdout, 1500),
            Err(error) => with_causes(&error),
        }
    }

    async fn read_log(
        &self,
        service: &str,
        reading: Reading,
        say: mpsc::Sender<LogLine>,
    ) -> Result<(), Error> {
        let (unit, lines) = (unit_name(service), format!("--lines={}", reading.lines));
        let which = if self.is_user { "--user-unit" } else { "--unit" };
        let mut args =
            vec!["--quiet", "--no-pager", "--output=json", "--output-fields=MESSAGE", &lines, which, &unit];
        args.extend(reading.follow.then_some("--follow"));
        let read = |entry: &[u8]| parse_entry(service, entry);
        program::lines("journalctl", &args, LONGEST_ENTRY, &say, read).await
    }

    async fn drift(&self, units: &[Unit]) -> Vec<String> {
        let mut found = Vec::new();
        for unit in units {
            match files::read(&self.unit_dir.join(&unit.name)) {
                Ok(Some(text)) if text == unit.text.as_bytes() => {
                    if !is_wanted(&self.unit_dir, unit) {
                        found.push(format!("the unit {} is not started at boot", unit.name));
                    }
                }
                Ok(Some(_)) => found.push(format!("the unit {} was changed", unit.name)),
                Ok(None) => found.push(format!("the unit {} is missing", unit.name)),
                Err(error) => found.push(with_causes(&error)),
            }
        }
        for name in installed(&self.unit_dir).unwrap_or_default() {
            if units.iter().all(|unit| unit.name != name) {
                found.push(format!("the unit {name} belongs to no generation in force"));
            }
        }
        if self.is_user
            && let Ok(login) = program::login().await
            && is_lingering(&login).await.is_ok_and(|is_on| !is_on)
        {
            found.push(format!("the services of {login} end when it logs out: its lingering is off"));
        }
        found
    }

    async fn arm(&self, arming: &Arming) -> Result<(), Error> {
        // a login that never had units has no folder for them
        store::make_folder(&self.unit_dir).map_err(Error::io("make the folder", &self.unit_dir))?;
        if let Some(unit) = &arming.boot_unit
            && put_one(&self.unit_dir, unit)?
        {
            self.systemctl(&["daemon-reload"]).await?;
        }
        self.disarm().await?;
        let after = format!("--on-active={}s", arming.after.as_secs());
        let unit = format!("--unit={GUARD}");
        let (script, root) = (guard::script_path(&self.layout), self.layout.root());
        let (script, root) = (script.display().to_string(), root.display().to_string());
        let unit_dir = self.unit_dir.display().to_string();
        let args = [
            after.as_str(),
            &unit,
            "--quiet",
            "--collect",
            "--timer-property=AccuracySec=1s",
            "--description=Bramble: takes an unconfirmed generation back",
            "/bin/sh",
            &script,
            &root,
            if self.is_user { "user" } else { "systemd" },
            &unit_dir,
            &arming.token,
        ];
        must("systemd-run", &self.args(&args), LIMIT).await.map(drop)
    }

    async fn disarm(&self) -> Result<(), Error> {
        // the timer alone: its service may be the guard at work, waiting for our lock
        self.try_systemctl(&["stop", &format!("{GUARD}.timer")]).await?;
        self.try_systemctl(&["reset-failed", &format!("{GUARD}.service")]).await
    }

    async fn clear(&self) -> Result<(), Error> {
        self.disarm().await?;
        let running = installed(&self.unit_dir)?;
        let stop = running.iter().filter_map(|name| name.strip_prefix("bramble-")?.strip_suffix(".service"));
        let stop = stop.map(str::to_owned).collect();
        self.switch(&[], &Changes { stop, ..Changes::default() }).await?;
        self.try_systemctl(&["reset-failed", "bramble-*"]).await?;
        if self.is_user {
            // up to `.config`: the login may have had none of these
            files::remove_empty(&self.unit_dir.join("default.target.wants"), 4);
        }
        Ok(())
    }
}

/// Reads an entry of the journal. Text that is not UTF-8 comes as numbers.
fn parse_entry(service: &str, entry: &[u8]) -> Option<LogLine> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Message {
        Text(String),
        Bytes(Vec<u8>),
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(rename = "__REALTIME_TIMESTAMP")]
        micros: Option<String>,
        #[serde(rename = "MESSAGE")]
        message: Option<Message>,
    }
    let entry: Entry = serde_json::from_slice(entry).ok()?;
    let mut text = match entry.message? {
        Message::Text(text) => text,
        Message::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
    };
    text.truncate(text.floor_char_boundary(LONGEST_LINE));
    let at = entry.micros.and_then(|micros| clock::utc_of_micros(micros.parse().ok()?));
    Some(LogLine { service: service.to_owned(), at, text })
}

/// Reads what `systemctl show` prints: `Key=value` lines, units apart by empty lines.
fn parse_show(text: &str) -> BTreeMap<String, Service> {
    let one = |block: &str| {
        let field = |key: &str| {
            let value = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            value.unwrap_or_default().trim().to_owned()
        };
        let state = match (field("ActiveState").as_str(), field("SubState").as_str()) {
            ("active" | "reloading", _) => ServiceState::Running,
            ("failed", _) | ("activating", "auto-restart") => ServiceState::Failed,
            ("activating", _) => ServiceState::Starting,
            _ => ServiceState::Stopped,
        };
        let pid = field("MainPID").parse().ok().filter(|pid| *pid != 0);
        (field("Id"), Service { state, pid, restarts: field("NRestarts").parse().unwrap_or(0) })
    };
    text.split("\n\n").filter(|block| !block.trim().is_empty()).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_the_journal_are_read_and_others_are_left_out() {
        let read = |entry: &str| parse_entry("route", entry.as_bytes());
        let line = |text: &str, at: Option<&str>| {
            Some(LogLine { service: "route".into(), at: at.map(str::to_owned), text: text.into() })
        };
        let at = Some("2024-11-19T12:00:00.250Z");
        let stamp = r#""__REALTIME_TIMESTAMP":"1732017600250000","__CURSOR":"s=1""#;
        assert_eq!(read(&format!(r#"{{{stamp},"MESSAGE":"up"}}"#)), line("up", at));
        assert_eq!(read(&format!(r#"{{{stamp},"MESSAGE":[111,107,255]}}"#)), line("ok\u{fffd}", at));
        assert_eq!(read(r#"{"MESSAGE":"up"}"#), line("up", None));
        for other in [r#"{"MESSAGE":null}"#, "{}", "-- No entries --", ""] {
            assert_eq!(read(other), None, "{other}");
        }
        let long = "ä".repeat(LONGEST_LINE);
        assert_eq!(read(&format!(r#"{{"MESSAGE":"{long}"}}"#)).unwrap().text.len(), LONGEST_LINE);
    }

    #[test]
    fn states_are_read_from_what_systemctl_shows() {
        let text = "MainPID=612\nNRestarts=0\nId=bramble-route.service\nActiveState=active\nSubState=running\n\n\
            MainPID=0\nNRestarts=2\nId=bramble-engine-a.service\nActiveState=activating\nSubState=auto-restart\n\n\
            MainPID=700\nNRestarts=0\nId=bramble-engine-b.service\nActiveState=activating\nSubState=start\n\n\
            MainPID=0\nNRestarts=0\nId=bramble-engine-c.service\nActiveState=inactive\nSubState=dead\n";
        let shown = parse_show(text);
        let states: Vec<_> = shown.values().map(|s| (s.state, s.pid, s.restarts)).collect();
        let expected = [
            (ServiceState::Failed, None, 2),
            (ServiceState::Starting, Some(700), 0),
            (ServiceState::Stopped, None, 0),
            (ServiceState::Running, Some(612), 0),
        ];
        assert_eq!(states, expected);
        assert!(parse_show("\n\ngarbage\n\n").values().all(|s| s.state == ServiceState::Stopped));
    }
}
