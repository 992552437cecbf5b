use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::model::CONTEXT;
use super::{Draft, Here, Seen};
use crate::discover::{Candidate, Place};
use crate::facts::HostFacts;
use crate::units::Bytes;

/// A comment's lines are no longer than this, in characters.
const WIDTH: usize = 116;

/// The longest comment, in characters: several times what we say ourselves, since some of it is foreign.
const LONGEST: usize = 1000;

/// Returns a manifest with comments, which `bramble check` takes.
pub fn manifest_of(draft: &Draft) -> String {
    let mut text = format!(
        "# The fleet, as `bramble init` found it. `bramble check` holds it to the rules, `bramble schema` helps editors,
# and `bramble schema --markdown` has every key.
bramble: 1
fleet: {}                            # whose hosts these are: one that another fleet has is refused
serve: {{ port: 8443, tls: fleet }}      # the door of every host: https with certificates that the fleet makes itself

models:
  chat:                                # the name that clients ask for
{}    source: catalog:{}
    quant: auto                        # for each host, the fastest that loses little
    context: {CONTEXT}                      # tokens that a conversation may have

hosts:
",
        scalar(draft.fleet.as_str()),
        comment("    ", &draft.model.why),
        draft.model.name,
    );
    for seen in &draft.hosts {
        host(seen, &mut text);
    }
    if draft.hosts.is_empty() {
        text.push_str(
            "  # no Raspberry Pi yet: this one is planned for. Once it is there, write `{ address: NAME-OR-ADDRESS }`
  next: { board: pi5-8gb }
",
        );
    }
    if let Some(here) = &draft.here {
        this_machine(here, &mut text);
    }
    left_out(draft, &mut text);
    deploy(draft, &mut text);
    text
}

fn host(seen: &Seen, text: &mut String) {
    let Seen { host, candidate, facts } = seen;
    let what = match facts {
        Ok(facts) => machine(facts),
        Err(why) => format!("not looked at: {why}"),
    };
    text.push_str(&comment("  ", &format!("{}; {what}", candidate.place.words())));
    if candidate.place == Place::SshConfigBehind {
        text.push_str(
            "  # only ssh knows the way there: other hosts have to know this name, too, or do without it\n",
        );
    }
    let role = if is_pi(seen) { "" } else { ", role: desktop" };
    let _ = writeln!(text, "  {}: {{ {}{role} }}", scalar(host.as_str()), keys(candidate));
}

/// Whether a machine is a Pi: it was looked at and is a board, or could not be.
pub(super) fn is_pi(seen: &Seen) -> bool {
    seen.facts.as_ref().map_or(true, |facts| facts.board.is_some())
}

fn this_machine(here: &Here, text: &mut String) {
    let what = here.facts.as_ref().map_or_else(String::new, |facts| format!(": {}", machine(facts)));
    let role =
        if here.facts.as_ref().is_some_and(|facts| facts.board.is_some()) { "" } else { ", role: desktop" };
    text.push_str(&comment("  ", &format!("this machine{what}; `address` is how the others reach it")));
    let name = scalar(here.host.as_str());
    let _ = writeln!(text, "  {name}: {{ address: {}, connect: local{role} }}", scalar(&here.address));
}

fn left_out(draft: &Draft, text: &mut String) {
    if !draft.left_out.is_empty() {
        text.push_str("  # found, and left out; take the `#` away to have one\n");
    }
    for (name, candidate) in &draft.left_out {
        let line =
            format!("{}: {{ {} }}   # {}", scalar(name.as_str()), keys(candidate), candidate.place.words());
        let _ = writeln!(text, "  # {line}");
    }
}

fn deploy(draft: &Draft, text: &mut String) {
    let has_pis = draft.hosts.is_empty() || draft.hosts.iter().any(is_pi);
    let is_desktop = |here: &&Here| here.facts.as_ref().is_none_or(|facts| facts.board.is_none());
    let others = draft.hosts.iter().filter(|seen| !is_pi(seen)).map(|seen| seen.host.as_str());
    let here = draft.here.as_ref().filter(is_desktop).map(|here| here.host.as_str());
    let desktops: Vec<String> = here.into_iter().chain(others).map(scalar).collect();
    let has_pis = has_pis || draft.here.as_ref().is_some_and(|here| !is_desktop(&here));
    text.push_str("\ndeploy:\n");
    if has_pis {
        text.push_str("  - { model: chat, on: { role: pi } }   # every Pi, also those that come later\n");
    }
    if !desktops.is_empty() {
        let _ = writeln!(text, "  - {{ model: chat, on: [{}] }}", desktops.join(", "));
        if has_pis {
            let order = desktops.join(", ");
            let _ = write!(
                text,
                "\nroutes:\n  # a Pi answers itself; with more than two waiting, or when it cannot, the next is asked\n  chat: {{ order: [local, {order}], overflow: {{ queue: 2 }} }}\n"
            );
        }
    }
}

/// Returns the keys of a host's entry.
fn keys(candidate: &Candidate) -> String {
    let mut ssh = Vec::new();
    ssh.extend(
        candidate.user.as_deref().filter(|user| is_login(user)).map(|user| format!("user: {}", scalar(user))),
    );
    ssh.extend(candidate.port.filter(|port| *port != 0).map(|port| format!("port: {port}")));
    let identity = candidate.identity.as_deref().filter(|path| is_plain(path, "_./~@+-", 255));
    ssh.extend(identity.map(|path| format!("identity: {}", scalar(path))));
    let address = format!("address: {}", scalar(&candidate.address));
    if ssh.is_empty() { address } else { format!("{address}, ssh: {{ {} }}", ssh.join(", ")) }
}

/// Returns whether a manifest takes an address.
pub fn is_address(text: &str) -> bool {
    // what looks like IPv6 has no place there yet
    is_plain(text, "_.-", 253)
}

/// Returns whether a person can have meant a host by a word: a name, an alias of ssh's configuration, or a whole IPv4 address.
pub fn is_host(text: &str) -> bool {
    let is_number = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let has_name = text.contains(|c: char| c.is_ascii_alphabetic());
    let name = text.strip_suffix('.').unwrap_or(text);
    is_address(text)
        && !name.split('.').any(|part| part.is_empty() || part.starts_with('-') || part.ends_with('-'))
        && if is_number { text.parse::<Ipv4Addr>().is_ok() } else { has_name }
}

/// Returns whether a manifest takes a login.
pub fn is_login(text: &str) -> bool {
    is_plain(text, "_.-", 32)
}

/// Returns whether a text is of letters, digits and some others, and begins with no `-`: as the manifest's reader wants it.
fn is_plain(text: &str, others: &str, longest: usize) -> bool {
    let is_good = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
    !text.is_empty() && text.len() <= longest && !text.starts_with('-') && text.chars().all(is_good)
}

/// Returns a text as YAML reads it as a text: in quotes where it might be read as a number or a word of YAML's.
fn scalar(text: &str) -> String {
    let is_word = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    let words = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let is_reserved = words.iter().any(|word| text.eq_ignore_ascii_case(word));
    // 192.168.1.20 is no number
    let is_dotted = text.parse::<Ipv4Addr>().is_ok();
    if is_word && !is_reserved || is_dotted { text.to_owned() } else { format!("\"{text}\"") }
}

/// Makes lines of comments of a text that is foreign, cut between words.
fn comment(indent: &str, text: &str) -> String {
    let is_shown = |c: &char| !matches!(c, '\u{85}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut line: String = text.chars().filter(is_shown).map(plain).collect();
    if let Some((end, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(end);
        line.push('…');
    }
    let mut lines: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.iter().flat_map(|line| [indent, "# ", line, "\n"]).collect()
}

/// Says in words what a machine is.
fn machine(facts: &HostFacts) -> String {
    let name = facts.board_name.clone().unwrap_or_else(|| facts.machine.clone());
    let Bytes(total) = facts.memory.total;
    format!("{name}, {} of memory, {} of it free", Bytes(total), facts.memory.available)
}
