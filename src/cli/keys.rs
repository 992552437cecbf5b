use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;
use zeroize::Zeroizing;

use super::arguments::{CaVerb, Global, KeyScope, KeysAdd, KeysVerb};
use super::environment::Environment;
use super::exit::Exit;
use super::{fleet, output};
use crate::clock;
use crate::generation::{Limits, Scope};
use crate::keys::{ClientKey, FleetKeys, NewKey, Safe};
use crate::view::{Table, count};

/// What every change ends with.
const NEXT: &str = "`bramble apply` brings it to the hosts.";

/// Looks after the keys of clients and the certificates of hosts, on this machine.
pub(crate) fn run(verb: &KeysVerb, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let manifest = fleet::load(&global.file)?;
    let mut safe = Safe::open(&environment.state, &manifest.fleet)?;
    match verb {
        KeysVerb::List => list(&safe, global, environment)?,
        KeysVerb::Add(verb) => {
            let (name, made) = (&verb.name, add(&mut safe, verb)?);
            show(name, &made, global)?;
        }
        KeysVerb::Rotate { name } => {
            let made = safe.change_keys(|keys| keys.rotate(name))?;
            show(name, &made, global)?;
            output::say(&format!(
                "The one before is good until `bramble keys remove {name} --old` and another apply."
            ));
        }
        KeysVerb::Remove { name, old } => {
            safe.change_keys(|keys| keys.remove(name, *old))?;
            let text = if *old {
                format!("The key before the one of now of {name} is ended; the one of now stays good. {NEXT}")
            } else {
                format!("The key {name} is ended. {NEXT}")
            };
            done(&text, &json!({ "removed": name }), global)?;
        }
        KeysVerb::RevokeHost { host } => {
            let certificates = safe.revoke(host)?;
            let shown: BTreeSet<&str> =
                safe.keys().iter().flat_map(|keys| keys.clients()).map(|key| key.entry.id.as_str()).collect();
            let shown = Vec::from_iter(shown).join(", ");
            let text = format!(
                "{host} is refused by the other hosts from the next apply on ({}), and so is the operator's key that it was shown. It was also shown the key of every client that asked it: `bramble keys rotate NAME` for those ({shown}). Nothing is sent to it any more, since whoever has its disk can answer in its place over SSH, too: once it is yours again, or another machine is in its place, `bramble keys readmit {host}`. {NEXT}",
                count(certificates, "certificate")
            );
            done(&text, &json!({ "revoked": host, "certificates": certificates }), global)?;
        }
        KeysVerb::Readmit { host } => {
            safe.readmit(host)?;
            let text = format!(
                "{host} gets another certificate with the next apply. Where another machine, or a card that was written anew, is in its place, have ssh forget the key of the one before: `ssh-keygen -R ADDRESS`."
            );
            done(&text, &json!({ "readmitted": host }), global)?;
        }
        KeysVerb::Ca { verb: Some(CaVerb::Export { path }) } => {
            let passphrase = passphrase(environment, true)?;
            write_new(path, &safe.export(&passphrase)?)?;
            let text = format!("{} holds the keys of the fleet {}.", path.display(), manifest.fleet);
            done(&text, &json!({ "exported": path }), global)?;
        }
        KeysVerb::Ca { verb: Some(CaVerb::Import { path, replace }) } => {
            let sealed = read_sealed(path)?;
            let passphrase = passphrase(environment, false)?;
            safe.import(&sealed, &passphrase, *replace)
                .with_context(|| format!("cannot take the keys in {}", path.display()))?;
            let text = format!("This machine can apply the fleet {} now.", manifest.fleet);
            done(&text, &json!({ "imported": path }), global)?;
        }
        KeysVerb::Ca { verb: None } => {
            let certificates = safe.certificates().with_context(|| {
                format!("the fleet {} has no certificates here: `bramble apply` makes them", manifest.fleet)
            })?;
            let pem = certificates.authority().certificate();
            if global.json {
                output::json(&json!({ "certificate": pem }))?;
            } else {
                output::verbatim(pem)?;
            }
        }
    }
    Ok(Exit::Done)
}

/// Asks for a passphrase: on the terminal, twice where it is new; without one, it is the first line of standard input.
fn passphrase(environment: &Environment, is_new: bool) -> anyhow::Result<Zeroizing<String>> {
    if !environment.can_ask {
        let mut line = Zeroizing::new(String::new());
        std::io::stdin().lock().take(LONGEST_PASSPHRASE).read_line(&mut line)?;
        return Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()));
    }
    let asked = Zeroizing::new(rpassword::prompt_password("Passphrase: ")?);
    if is_new {
        let again = Zeroizing::new(rpassword::prompt_password("Once more: ")?);
        anyhow::ensure!(*asked == *again, "the two are not the same: nothing was written");
    }
    Ok(asked)
}

/// Nobody types more than this, in bytes.
const LONGEST_PASSPHRASE: u64 = 4096;

/// The largest export that is read; one of a thousand hosts has a tenth of it.
const LONGEST_EXPORT: u64 = 32 << 20;

/// Writes a file for its owner alone, and over no other.
fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn read_sealed(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut sealed = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST_EXPORT).read_to_end(&mut sealed))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(sealed)
}

fn add(safe: &mut Safe, verb: &KeysAdd) -> anyhow::Result<NewKey> {
    let mut scopes = verb.scopes.clone();
    scopes.sort();
    scopes.dedup();
    let scope = |scope: &KeyScope| match scope {
        KeyScope::Infer => Scope::Infer,
        KeyScope::Status => Scope::Status,
    };
    let limits = Limits {
        requests_per_minute: verb.requests_per_minute,
        concurrent: verb.concurrent,
        tokens_per_minute: verb.tokens_per_minute,
    };
    Ok(safe.change_keys(|keys| keys.add(&verb.name, scopes.iter().map(scope).collect(), limits))?)
}

/// Shows a new key, for the only time.
fn show(name: &str, made: &NewKey, global: &Global) -> anyhow::Result<()> {
    if global.json {
        output::json(&json!({ "name": name, "key": *made.0 }))?;
    } else {
        output::verbatim(&format!("{}\n", *made.0))?;
    }
    output::say(&format!("The key {name} is shown this once. {NEXT}"));
    Ok(())
}

fn done(text: &str, value: &serde_json::Value, global: &Global) -> anyhow::Result<()> {
    if global.json {
        return output::json(value);
    }
    output::say(text);
    Ok(())
}

fn list(safe: &Safe, global: &Global, environment: &Environment) -> anyhow::Result<()> {
    let clients = safe.keys().map(FleetKeys::clients).unwrap_or_default();
    let hosts: Vec<_> = safe.certificates().map(|made| made.hosts().collect()).unwrap_or_default();
    let revoked: Vec<_> = safe.certificates().map(|made| made.revoked().iter().collect()).unwrap_or_default();
    let barred = safe.barred();
    if global.json {
        let hosts = hosts
            .iter()
            .map(|(host, made)| json!({ "host": host, "sha256": made.fingerprint, "ends": day(made.ends) }));
        let revoked = revoked.iter().map(|(key, host)| json!({ "host": host, "sha256": key }));
        return output::json(&json!({
            "keys": clients, "certificates": hosts.collect::<Vec<_>>(), "revoked": revoked.collect::<Vec<_>>(),
            "barred": barred,
        }));
    }
    let mut table = Table::new(["KEY", "SCOPES", "LIMITS", "SHA-256"]);
    for ClientKey { entry, is_old } in clients {
        let name = if *is_old { format!("{} (old)", entry.id) } else { entry.id.clone() };
        let scopes: Vec<&str> = entry.scopes.iter().map(|scope| word(*scope)).collect();
        table.row([name, scopes.join(", "), limits(&entry.limits), entry.sha256.short()]);
    }
    output::result(&table.render(0, environment.style))?;
    if !hosts.is_empty() || !revoked.is_empty() {
        let mut table = Table::new(["CERTIFICATE", "ENDS", "SHA-256"]);
        for (host, made) in hosts {
            table.row([host.to_string(), day(made.ends), made.fingerprint.short()]);
        }
        for (key, host) in revoked {
            let what = if barred.contains(host) { "revoked, and barred" } else { "revoked" };
            table.row([host.to_string(), what.to_owned(), key.short()]);
        }
        output::result(&format!("\n{}", table.render(0, environment.style)))?;
    }
    Ok(())
}

fn word(scope: Scope) -> &'static str {
    match scope {
        Scope::Infer => "infer",
        Scope::Status => "status",
        Scope::Peer => "peer",
    }
}

fn limits(limits: &Limits) -> String {
    let all = [
        (limits.requests_per_minute, "requests/min"),
        (limits.concurrent, "at once"),
        (limits.tokens_per_minute, "tokens/min"),
    ];
    let said: Vec<String> = all.iter().filter_map(|(n, word)| Some(format!("{} {word}", (*n)?))).collect();
    if said.is_empty() { "-".to_owned() } else { said.join(", ") }
}

/// Returns the day of a moment in seconds since 1970.
fn day(seconds: u64) -> String {
    let micros = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    clock::utc_of_micros(micros).and_then(|at| Some(at.split_once('T')?.0.to_owned())).unwrap_or_default()
}
