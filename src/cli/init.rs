use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, BufRead as _, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::address::{by_address, plain_host};
use super::arguments::{Global, Init};
use super::environment::Environment;
use super::exit::{Exit, Expected};
use super::fleet::Fleet;
use super::{cards, output};
use crate::connect::{Connection, Script, Stdin, quote};
use crate::discover::{self, Candidate, Place};
use crate::draft::{self, Ask, Draft, Here, Seen, Told};
use crate::facts::HostFacts;
use crate::ids::HostName;
use crate::manifest::{self, SshOptions, Via};
use crate::probe;
use crate::system;
use crate::terminal;
use crate::view::count;

/// Machines that are looked at together.
const LOOKED_AT_TOGETHER: usize = 16;

/// A small file is read.
const NAME_PATIENCE: Duration = Duration::from_secs(10);

/// A person at the terminal.
struct Terminal;

impl Ask for Terminal {
    fn ask(&mut self, question: &str) -> io::Result<String> {
        let mut out = io::stderr().lock();
        write!(out, "{}", terminal::text(question))?;
        out.flush()?;
        let mut answer = String::new();
        if io::stdin().lock().read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer)
    }

    fn say(&mut self, text: &str) {
        output::say(&terminal::text(text));
    }
}

/// Writes a first manifest from what is found. No host is changed.
pub(crate) async fn run(verb: &Init, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let path = &global.file;
    if path.exists() && !verb.force {
        let next = "say --force to write over it, or --file for another";
        return Err(Expected::Refused(format!("{} is there already: {next}", path.display())).into());
    }
    let told = told(verb)?;
    let found = find(verb, environment).await?;
    // an address that a manifest would not take cannot be one of its hosts
    let found: Vec<Candidate> = found.into_iter().filter(|one| draft::is_address(&one.address)).collect();
    let read = |word: &str| candidate(word).ok();
    let mut terminal = Terminal;
    let ask: Option<&mut dyn Ask> = if environment.can_ask && !verb.yes { Some(&mut terminal) } else { None };
    let (chosen, left, is_here) =
        draft::interview(found, &told, &read, ask).context("the manifest was not written")?;
    let draft = look(verb, global, environment, chosen, left, is_here).await?;
    let text = draft::manifest_of(&draft);
    let checked = manifest::parse(&path.display().to_string(), &text)
        .context("this is a fault of bramble, please report it: it made a manifest that it does not take")?;
    write(path, &text, verb.force)?;
    if global.json {
        let hosts: BTreeMap<&HostName, serde_json::Value> =
            draft.hosts.iter().map(|seen| (&seen.host, of_host(seen))).collect();
        let left: Vec<&Candidate> = draft.left_out.iter().map(|(_, one)| one).collect();
        output::json(&json!({
            "file": path, "hosts": hosts, "here": draft.here.as_ref().map(|here| &here.host),
            "model": draft.model.name, "why": draft.model.why, "left_out": left, "next": next(&draft, verb, path),
        }))?;
    } else {
        output::result(&said(&draft, verb, path, checked.hosts.len()))?;
    }
    Ok(Exit::Done)
}

fn told(verb: &Init) -> anyhow::Result<Told> {
    let named = verb.hosts.iter().map(|text| candidate(text)).collect::<anyhow::Result<Vec<_>>>()?;
    // hosts run Linux; what serves on another machine is an `upstream`
    let here = if verb.no_desktop || !system::IS_LINUX { Some(false) } else { None };
    Ok(Told { named: discover::merge(named), here })
}

/// Reads `[USER@]ADDRESS[:PORT]`.
fn candidate(text: &str) -> anyhow::Result<Candidate> {
    let Via::Ssh { address, ssh } = by_address(text)? else { anyhow::bail!("{text:?} is no host") };
    anyhow::ensure!(
        draft::is_host(&address),
        "a manifest does not take the address {address:?}: say a host's name or its IPv4 address"
    );
    anyhow::ensure!(
        ssh.user.as_deref().is_none_or(draft::is_login),
        "{text:?} has no login before the `@`: it is of letters, digits, '_', '.' and '-'"
    );
    anyhow::ensure!(ssh.port != Some(0), "{text:?} ends with no port: say 1 to 65535");
    Ok(Candidate {
        name: address.clone(),
        user: ssh.user,
        port: ssh.port.filter(|port| *port != 22),
        identity: None,
        place: Place::Named,
        is_pi: false,
        seen_at: address.parse().into_iter().collect(),
        address,
    })
}

async fn find(verb: &Init, environment: &Environment) -> anyhow::Result<Vec<Candidate>> {
    if verb.offline {
        return Ok(Vec::new());
    }
    if environment.is_watched() {
        output::say("Looking for machines…");
    }
    let (home, cards) = (environment.home.clone(), cards::read(environment));
    Ok(tokio::task::spawn_blocking(move || discover::discover(&home, &cards)).await?)
}

/// Looks at the machines that were chosen, and at this one.
async fn look(
    verb: &Init,
    global: &Global,
    environment: &Environment,
    chosen: Vec<Candidate>,
    left: Vec<Candidate>,
    is_here: bool,
) -> anyhow::Result<Draft> {
    let here_name = draft::names(std::slice::from_ref(&environment.machine), &BTreeSet::new()).remove(0);
    let first = chosen.iter().flat_map(|one| &one.seen_at).find(|address| address.is_ipv4()).copied();
    let own = discover::own_address(first);
    // this machine may have announced itself
    let is_self = |one: &Candidate| own.is_some_and(|own: IpAddr| one.seen_at.contains(&own));
    let (chosen, left): (Vec<Candidate>, Vec<Candidate>) = if is_here {
        let others = |all: Vec<Candidate>| all.into_iter().filter(|one| !is_self(one)).collect();
        (others(chosen), others(left))
    } else {
        (chosen, left)
    };
    let wishes: Vec<String> = chosen.iter().chain(&left).map(|one| one.name.clone()).collect();
    let taken = [here_name.clone(), "next".parse()?].into();
    let names = draft::names(&wishes, &taken);

    let mut fleet = Fleet::bare(global, verb.login, environment)?;
    for (name, one) in names.iter().zip(&chosen) {
        fleet.manifest.hosts.insert(name.clone(), plain_host(ssh(one)));
    }
    let address = own.map_or_else(|| format!("{here_name}.local"), |own| own.to_string());
    if is_here {
        fleet.manifest.hosts.insert(here_name.clone(), plain_host(Via::Local { address: address.clone() }));
    }
    if environment.is_watched() && !chosen.is_empty() {
        output::say(&format!("Looking at {}…", count(chosen.len(), "machine")));
    }
    let targets: Vec<probe::Target> = fleet
        .connections()?
        .into_iter()
        .map(|(host, connection): (HostName, Arc<dyn Connection>)| (host, String::new(), connection))
        .collect();
    let mut inventory = probe::gather(&targets, LOOKED_AT_TOGETHER).await;
    // of whom only the address was known, the name by which it calls itself
    let own_names: BTreeMap<&HostName, String> =
        futures_util::future::join_all(targets.iter().map(async |(host, _, connection)| {
            let is_nameless = names.iter().zip(&chosen).any(|(name, one)| name == host && is_nameless(one));
            let name = if is_nameless { own_name(connection.as_ref()).await } else { None };
            Some((host, name?))
        }))
        .await
        .into_iter()
        .flatten()
        .collect();
    let wishes: Vec<String> =
        names.iter().zip(wishes).map(|(name, wish)| own_names.get(name).cloned().unwrap_or(wish)).collect();
    let new_names = draft::names(&wishes, &taken);
    let mut facts = |host: &HostName| match inventory.hosts.remove(host) {
        Some(Ok(facts)) => Ok(facts),
        Some(Err(failure)) => Err(failure.message),
        None => Err("nobody looked".to_owned()),
    };
    let here = is_here.then(|| Here {
        facts: facts(&here_name).ok(),
        host: here_name.clone(),
        address: address.clone(),
    });
    let left_names = new_names.iter().skip(chosen.len()).cloned();
    let left_out = left_names.zip(left).collect();
    let hosts: Vec<Seen> = names
        .iter()
        .zip(new_names)
        .zip(chosen)
        .map(|((host, new), candidate)| Seen { facts: facts(host), host: new, candidate })
        .collect();
    let model = model(&hosts, here.as_ref());
    Ok(Draft { fleet: verb.fleet.clone(), hosts, here, left_out, model })
}

/// Returns whether nothing but its address is known of a machine.
fn is_nameless(one: &Candidate) -> bool {
    one.address.parse::<IpAddr>().is_ok() && matches!(one.place, Place::Named | Place::Neighbour)
}

/// Asks a machine what it calls itself. Of the answer, a name is made as of any other.
async fn own_name(connection: &dyn Connection) -> Option<String> {
    let script =
        Script { text: "cat /proc/sys/kernel/hostname".to_owned(), is_root: false, timeout: NAME_PATIENCE };
    let output = connection.run(&script, Stdin::Empty).await.ok()?;
    let name = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    let is_own = output.status == 0 && !name.is_empty() && !matches!(name.as_str(), "localhost" | "(none)");
    is_own.then_some(name)
}

/// Takes a model for the Pis that were seen; where there is none, for whatever was.
fn model(hosts: &[Seen], here: Option<&Here>) -> draft::Pick {
    let seen = |host: &HostName, facts: &HostFacts| (host.to_string(), facts.clone());
    let mut all: Vec<(String, HostFacts)> =
        hosts.iter().filter_map(|one| Some(seen(&one.host, one.facts.as_ref().ok()?))).collect();
    let is_unseen = hosts.iter().any(|one| one.facts.is_err()) || hosts.is_empty();
    all.extend(here.and_then(|here| Some(seen(&here.host, here.facts.as_ref()?))));
    all.retain(|(_, facts)| facts.board.is_some());
    // of a Pi that was not seen, nothing is known: the model has to be small
    if is_unseen && all.is_empty() { draft::pick(&[]) } else { draft::pick(&all) }
}

fn ssh(one: &Candidate) -> Via {
    let ssh = SshOptions { user: one.user.clone(), port: one.port, identity: one.identity.clone() };
    Via::Ssh { address: one.address.clone(), ssh }
}

/// Writes the manifest, whole or not at all, and over another only where that is wanted.
fn write(path: &Path, text: &str, is_over: bool) -> anyhow::Result<()> {
    let doing = || format!("cannot write {}", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if is_over {
        let mut file = tempfile::NamedTempFile::new_in(folder).with_context(doing)?;
        file.write_all(text.as_bytes()).with_context(doing)?;
        std::fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .with_context(doing)?;
        file.persist(path).with_context(doing)?;
        return Ok(());
    }
    // somebody else may have written one since it was looked for
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).with_context(doing)?;
    let written = file.write_all(text.as_bytes());
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written.with_context(doing)
}

fn of_host(seen: &Seen) -> serde_json::Value {
    let (machine, failure) = match &seen.facts {
        Ok(facts) => (Some(facts.board_name.as_ref().unwrap_or(&facts.machine)), None),
        Err(why) => (None, Some(why)),
    };
    json!({ "address": seen.candidate.address, "place": seen.candidate.place, "machine": machine, "failure": failure })
}

/// What takes host keys that are not known yet: a host that shows one asks for it.
const ACCEPTING: &str = "--accept-new-host-keys";

/// Returns the command that does the same once more, over the manifest that is there now.
fn again(verb: &Init) -> String {
    let mut text = "bramble init --force".to_owned();
    for host in &verb.hosts {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '@' | '.' | ':' | '-' | '_');
        let host = if host.chars().all(is_plain) { host.clone() } else { quote(host) };
        let _ = write!(text, " --host {host}");
    }
    if verb.fleet.as_str() != "home" {
        let _ = write!(text, " --fleet {}", verb.fleet);
    }
    for (is_said, word) in
        [(verb.no_desktop, " --no-desktop"), (verb.offline, " --offline"), (verb.yes, " --yes")]
    {
        text.push_str(if is_said { word } else { "" });
    }
    text
}

/// Returns the commands to run next, each with what it does.
fn next(draft: &Draft, verb: &Init, path: &Path) -> Vec<(String, &'static str)> {
    let file = if path == Path::new(super::arguments::DEFAULT_MANIFEST) {
        String::new()
    } else {
        format!(" -f {}", path.display())
    };
    let mut next = vec![(format!("bramble check{file}"), "hold it to the rules, after a change")];
    let is_key_unknown = |seen: &Seen| seen.facts.as_ref().is_err_and(|why| why.contains(ACCEPTING));
    if draft.hosts.iter().any(is_key_unknown) {
        let says = "look again, once you know that the unknown host keys are the hosts' own";
        next.push((format!("{}{file} {ACCEPTING}", again(verb)), says));
    } else if let Some(lost) = draft.hosts.iter().find(|seen| seen.facts.is_err()) {
        next.push((format!("bramble doctor {}{file}", lost.host), "what keeps us from it"));
    } else if !draft.hosts.is_empty() || draft.here.is_some() {
        next.push((format!("bramble doctor --all{file}"), "what to do about the hosts first"));
    }
    next.push((format!("bramble plan{file}"), "what would run where, and why"));
    next.push((format!("bramble apply{file}"), "do it"));
    next
}

/// Says what was done, and what to do next.
fn said(draft: &Draft, verb: &Init, path: &Path, hosts: usize) -> String {
    let mut text =
        format!("{}: {}, and chat is {}.\n", path.display(), count(hosts, "host"), draft.model.name);
    for seen in &draft.hosts {
        let said = match &seen.facts {
            Ok(facts) => facts.board_name.as_ref().unwrap_or(&facts.machine).clone(),
            Err(why) => format!("not looked at: {}", terminal::line(why)),
        };
        let _ = writeln!(text, "  {}  {said}", seen.host);
    }
    if draft.hosts.is_empty() {
        text.push_str(
            "  no Raspberry Pi was found: the manifest plans for one; say its address with --host\n",
        );
    }
    if !draft.left_out.is_empty() {
        let _ = writeln!(text, "  {} left out, in comments", count(draft.left_out.len(), "machine"));
    }
    let next = next(draft, verb, path);
    let width = next.iter().map(|(line, _)| line.len()).max().unwrap_or(0);
    text.push_str("\nNext:\n");
    for (line, says) in next {
        let _ = writeln!(text, "  {line:width$}  {says}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments::Login;

    #[test]
    fn a_word_that_can_be_no_host_is_refused_with_what_to_say() {
        for text in ["kitchen", "kitchen.local", "a_b", "192.168.1.20", "pi@shed:2222", "4pi.local.", "x--y"]
        {
            assert!(candidate(text).is_ok(), "{text}");
        }
        for (text, expected) in [
            ("1", "say a host's name or its IPv4 address"),
            ("192.168.1", "say a host's name or its IPv4 address"),
            ("192.168.1.300", "say a host's name or its IPv4 address"),
            ("kitchen..local", "say a host's name or its IPv4 address"),
            ("kitchen-.local", "say a host's name or its IPv4 address"),
            ("...", "say a host's name or its IPv4 address"),
            ("_", "say a host's name or its IPv4 address"),
            ("http://kitchen", "ends with no port"),
            ("kitchen,shed", "say a host's name or its IPv4 address"),
            ("fe80::1", "say a host's name or its IPv4 address"),
            ("a;b@kitchen", "has no login before the `@`"),
            ("kitchen:0", "say 1 to 65535"),
        ] {
            let said = format!("{:#}", candidate(text).unwrap_err());
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn where_a_host_key_is_not_known_the_next_command_looks_again_as_it_was_asked() {
        let seen = candidate("pi@10.0.0.7").unwrap();
        let (host, failure) = (
            "pi".parse::<HostName>().unwrap(),
            "pi shows an unknown host key: run again with --accept-new-host-keys",
        );
        let mut draft = Draft {
            fleet: "shed".parse().unwrap(),
            hosts: vec![Seen { host, candidate: seen, facts: Err(failure.to_owned()) }],
            here: None,
            left_out: Vec::new(),
            model: draft::pick(&[]),
        };
        let verb = Init {
            hosts: vec!["pi@10.0.0.7".to_owned()],
            fleet: "shed".parse().unwrap(),
            no_desktop: true,
            offline: false,
            force: false,
            yes: false,
            login: Login::default(),
        };
        let commands = |draft: &Draft| {
            next(draft, &verb, Path::new("new.yaml")).into_iter().map(|(line, _)| line).collect::<Vec<_>>()
        };
        assert_eq!(
            commands(&draft)[1],
            "bramble init --force --host pi@10.0.0.7 --fleet shed --no-desktop -f new.yaml --accept-new-host-keys"
        );
        draft.hosts[0].facts = Err("pi cannot be reached".to_owned());
        assert!(commands(&draft).contains(&"bramble doctor pi -f new.yaml".to_owned()));
    }
}
