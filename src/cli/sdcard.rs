use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;
use zeroize::Zeroizing;

use super::address::plain_host;
use super::arguments::{Global, Login, Sdcard};
use super::environment::Environment;
use super::exit::{Exit, Expected};
use super::fleet::Fleet;
use super::{cards, files, output};
use crate::connect::{self, KnownHosts, PublicKey};
use crate::discover;
use crate::ids::HostName;
use crate::manifest::{self, Manifest, SshOptions, Via};
use crate::sdcard::{self, Address, Card, HostKey, Image, Wifi};
use crate::system;

/// `issue.txt` and `cmdline.txt` are a few lines.
const MAX_TEXT: u64 = 64 << 10;

/// Writes onto a card's boot partition what its first boot reads.
pub(crate) async fn run(verb: &Sdcard, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let dir = &verb.dir;
    let system = sdcard::image(&read(dir)?).map_err(|error| refused(dir, &error))?;
    let user = verb.user.clone().or_else(|| user_of(global, &verb.name)).unwrap_or_else(|| "pi".to_owned());
    let wifi = verb.wifi.as_deref().map(|ssid| wifi(ssid, verb)).transpose()?;
    let address = verb.address.as_ref().map(|address| Address {
        address: address.clone(),
        gateway: verb.gateway,
        dns: verb.dns.clone(),
    });
    let (keys, origins): (Vec<String>, Vec<String>) =
        keys(verb, &user, global, environment).await?.into_iter().unzip();

    let known = KnownHosts::new(
        environment.known_hosts.clone().unwrap_or_else(|| environment.home.join(".ssh/known_hosts")),
    );
    let names = names(verb);
    let host_key = if verb.no_host_key {
        None
    } else {
        let is_again = is_card_of(dir, &verb.name)?;
        for name in &names {
            if known.knows(name).await? && !verb.force && !is_again {
                let file = known.path().display();
                let next = "say --force if this card takes that host's place, or take another name";
                return Err(Expected::Refused(format!("{file} knows another {name}: {next}")).into());
            }
        }
        Some(connect::make_host_key(verb.name.as_str()).await?)
    };
    let card = Card {
        name: verb.name.clone(),
        user,
        keys,
        host_key: host_key.clone().map(|key| HostKey { private: key.private, public: key.public }),
        address,
        wifi,
        timezone: verb.timezone.clone(),
    };
    let files = sdcard::files(&card, system)?;
    let mut written = Vec::new();
    for (name, text) in [
        ("user-data", &files.user_data),
        ("network-config", &files.network_config),
        ("meta-data", &files.meta_data),
    ] {
        write(dir, name, text)?;
        written.push(name);
    }
    let now = text(&dir.join("cmdline.txt"))?.unwrap_or_default();
    if let Some(line) = sdcard::cmdline(&now) {
        write(dir, "cmdline.txt", &line)?;
        written.push("cmdline.txt");
    }
    sync(dir)?;
    if let Some(key) = &host_key {
        for name in &names {
            if known.knows(name).await? {
                known.forget(name).await?;
            }
        }
        known.add(&names, key)?;
    }

    let made = discover::Card { name: card.name.to_string(), user: card.user.clone() };
    if let Err(error) = cards::keep(environment, made) {
        tracing::warn!(%error, "init will not know this card");
    }

    let login = format!("{}@{}", card.user, names[0]);
    if global.json {
        output::json(&json!({
            "host": card.name, "login": login, "keys": origins, "written": written, "folder": dir,
            "known_hosts": host_key.map(|_| known.path()),
        }))?;
        return Ok(Exit::Done);
    }
    output::result(&said(&card, dir, &written, &origins, &login, known.path()))?;
    Ok(Exit::Done)
}

fn refused(dir: &Path, error: &sdcard::Error) -> anyhow::Error {
    Expected::Refused(format!("{}: {error}", dir.display())).into()
}

/// Returns what the partition has on it.
fn read(dir: &Path) -> anyhow::Result<Image> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    Ok(Image { names, issue: text(&dir.join("issue.txt"))? })
}

/// Reads a short text; none where there is no such file.
fn text(path: &Path) -> anyhow::Result<Option<String>> {
    match files::read(path, MAX_TEXT) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Returns whether the card was made for this host before: then its place is its own.
fn is_card_of(dir: &Path, name: &HostName) -> anyhow::Result<bool> {
    let before = text(&dir.join("user-data"))?.unwrap_or_default();
    Ok(before.contains("Written by `bramble sdcard`")
        && before.contains(&format!("\nhostname: \"{name}\"\n")))
}

/// Returns who logs in to the host by the manifest, where there is one that knows it.
fn user_of(global: &Global, name: &HostName) -> Option<String> {
    match &read_manifest(&global.file)?.hosts.get(name)?.via {
        Via::Ssh { ssh, .. } => ssh.user.clone(),
        _ => None,
    }
}

/// Reads the manifest, where there is one and it is right: a card may come before both.
fn read_manifest(path: &Path) -> Option<Manifest> {
    manifest::parse_bytes(&path.display().to_string(), &files::read(path, files::LONGEST_MANIFEST).ok()?).ok()
}

fn wifi(ssid: &str, verb: &Sdcard) -> anyhow::Result<Wifi> {
    let password = match &verb.wifi_password_file {
        Some(path) => {
            let text = files::read_text(path, MAX_TEXT)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        None => Zeroizing::new(
            rpassword::prompt_password(format!("Password of the Wi-Fi {ssid}: "))
                .context("no password can be asked for here: say --wifi-password-file FILE")?,
        ),
    };
    // the command line takes none without the other
    let country = verb.country.clone().unwrap_or_default();
    Ok(Wifi { ssid: ssid.to_owned(), psk: sdcard::psk(ssid, &password)?, country })
}

/// What is said where no key can be had without a word.
const OR: &str = "no key can be put on the card by itself: name one with `--key FILE`";

/// Returns the keys that log in, and where each is from: those that were named, or the one that `ssh` would offer.
async fn keys(
    verb: &Sdcard,
    user: &str,
    global: &Global,
    environment: &Environment,
) -> anyhow::Result<Vec<(String, String)>> {
    let pair = |key: PublicKey| (key.line().to_owned(), key.origin);
    if !verb.keys.is_empty() {
        return verb.keys.iter().map(|path| Ok(pair(PublicKey::of_file(path)?))).collect();
    }
    let mut fleet = Fleet::bare(global, Login::default(), environment)?;
    let ssh = SshOptions { user: Some(user.to_owned()), port: None, identity: None };
    let via = Via::Ssh { address: names(verb)[0].clone(), ssh };
    fleet.manifest.hosts.insert(verb.name.clone(), plain_host(via));
    let ssh = fleet.ssh(&verb.name)?.context("there is no way to log in")?;
    let key = if let Some(key) = ssh.key_to_offer().await.context(OR)? {
        key
    } else {
        let key = ssh.make_key().await.context(OR)?;
        output::say(&format!("There was no SSH key: {} was made.", key.origin));
        key
    };
    Ok(vec![pair(key)])
}

/// Returns what the host will be asked for by, first what it announces itself as.
fn names(verb: &Sdcard) -> Vec<String> {
    let fixed = verb.address.as_deref().and_then(|address| address.split('/').next());
    [format!("{}.local", verb.name), verb.name.to_string()]
        .into_iter()
        .chain(fixed.map(str::to_owned))
        .collect()
}

/// Writes a file of the partition whole; what was there before stays beside it, the first time.
fn write(dir: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = dir.join(name);
    let before: PathBuf = dir.join(format!("{name}.before"));
    let failed = || format!("cannot write {}", path.display());
    if path.exists() && !before.exists() {
        fs::copy(&path, &before).with_context(failed)?;
    }
    let new = dir.join(format!("{name}.new"));
    let mut file = fs::File::create(&new).with_context(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(failed)?;
    fs::rename(&new, &path).with_context(failed)
}

/// A card that is pulled out too early has everything all the same.
fn sync(dir: &Path) -> anyhow::Result<()> {
    let folder = fs::File::open(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    system::sync_file_system(&folder).with_context(|| format!("cannot finish writing to {}", dir.display()))
}

fn said(
    card: &Card,
    dir: &Path,
    written: &[&str],
    origins: &[String],
    login: &str,
    known_hosts: &Path,
) -> String {
    let network = match (&card.wifi, &card.address) {
        (Some(wifi), Some(fixed)) => format!("Wi-Fi {}, {}", wifi.ssid, fixed.address),
        (Some(wifi), None) => format!("Wi-Fi {}, and cable", wifi.ssid),
        (None, Some(fixed)) => format!("cable, {}", fixed.address),
        (None, None) => "cable".to_owned(),
    };
    let host_key = match card.host_key {
        Some(_) => format!("made here, and in {}: the first login asks nothing", known_hosts.display()),
        None => "its own, which nobody knows yet".to_owned(),
    };
    format!(
        "Wrote {} to {}.
  name      {}
  login     {}, with {}
  network   {network}
  host key  {host_key}

Eject the card, put it into the Pi, and give it two minutes for its first boot. Then:
  bramble doctor {login}
  bramble init --host {login}
",
        written.join(", "),
        dir.display(),
        card.name,
        card.user,
        origins.join(", "),
    )
}
