//! The network: the door's port, what keeps packets from it, and whom the host reaches.

use super::{About, Finding, Patient, error, note, ok, warning};
use crate::facts::{Answer, Board, FirewallKind, ServiceState};
use crate::ids::HostName;

/// The service that is a host's door.
const DOOR: &str = "route";
/// Who listens where a door of ours does.
const OURS: &str = "brambled";
/// Who keeps the socket of a door while that is started anew.
const KEEPER: &str = "systemd";

pub(super) fn port(patient: &Patient<'_>) -> Finding {
    let (about, port, checkup) = (About::Port, patient.port, patient.checkup);
    let installed = patient.facts.installed.as_ref();
    if let Some(installed) = installed
        && let Some((_, definition)) = &installed.current
        && definition.door.port == port
    {
        return door(patient, &definition.host, installed.services.get(DOOR).copied());
    }
    if !checkup.listening.contains(&port) {
        return ok(about, format!("{port} is free for its door"));
    }
    let who = checkup.at_port.as_deref().unwrap_or("another program");
    let advice = "say another `serve.port` in the manifest, or end that program";
    error(about, format!("{port} is taken by {who}"), Some(advice.to_owned()))
}

/// Says whether the door that was installed at the port is who has it.
fn door(patient: &Patient<'_>, host: &HostName, state: Option<ServiceState>) -> Finding {
    let (about, port, checkup) = (About::Port, patient.port, patient.checkup);
    let is_taken = checkup.listening.contains(&port);
    let who = checkup.at_port.as_deref().filter(|_| is_taken);
    if let Some(other) = who.filter(|who| ![OURS, KEEPER].contains(who)) {
        let advice = format!("end that program, then `bramble restart {host}`; or say another `serve.port`");
        return error(about, format!("{port} is taken by {other}: its door cannot have it"), Some(advice));
    }
    if !matches!(state, Some(ServiceState::Failed | ServiceState::Stopped)) {
        return ok(about, format!("{port} is its door's"));
    }
    if is_taken && who.is_none() {
        let what = format!("its door does not run, and somebody listens at {port}");
        let advice = "`sudo ss -ltnp` there tells who: end that program, then `bramble restart";
        return error(about, what, Some(format!("{advice} {host}`")));
    }
    let advice = format!("`bramble logs {host} --door` says why; then `bramble restart {host}`");
    error(about, format!("its door does not run: nobody answers at {port}"), Some(advice))
}

pub(super) fn firewall(patient: &Patient<'_>) -> Finding {
    let (about, port) = (About::Firewall, patient.port);
    let is_let_in = |answer: Option<Answer>| answer.is_some_and(Answer::is_there);
    let Some(firewall) = &patient.checkup.firewall else {
        return match patient.from_here {
            Some(Answer::Silent | Answer::NoRoute) => warning(
                about,
                format!("nothing comes back from port {port}, as seen from this machine"),
                format!("let TCP to {port} in, there or in what lies between"),
            ),
            _ => ok(about, "none that was seen"),
        };
    };
    let word = firewall.kind.word();
    if is_let_in(patient.from_here) {
        return ok(about, format!("{word} lets this machine reach port {port}"));
    }
    let let_in = match firewall.kind {
        FirewallKind::Ufw => format!("`sudo ufw allow {port}/tcp`"),
        FirewallKind::Firewalld => {
            format!("`sudo firewall-cmd --permanent --add-port={port}/tcp && sudo firewall-cmd --reload`")
        }
        FirewallKind::Nftables => format!("let it in in /etc/nftables.conf: `tcp dport {port} accept`"),
    };
    let is_open = firewall
        .open
        .as_ref()
        .map(|ranges| ranges.iter().any(|(first, last)| (*first..=*last).contains(&port)));
    let silence = match patient.from_here {
        Some(Answer::Silent) => Some("nothing comes back from"),
        Some(Answer::NoRoute) => Some("there is no way to"),
        _ => None,
    };
    match (is_open, silence) {
        (Some(true), Some(silence)) => warning(
            about,
            format!("{word} lets port {port} in, and {silence} it, as seen from this machine"),
            "look for what else stands between: another rule there, a router, or a firewall between subnets",
        ),
        (None, Some(silence)) => warning(
            about,
            format!("{word} runs, and {silence} port {port}, as seen from this machine"),
            format!("{let_in}; or look for what else stands between"),
        ),
        (Some(true), None) => ok(about, format!("{word} lets port {port} in")),
        (Some(false), _) => {
            warning(about, format!("{word} does not let port {port} in: no client reaches its door"), let_in)
        }
        (None, None) => note(
            about,
            format!("{word} runs; whether it lets port {port} in could not be seen"),
            Some(&let_in),
        ),
    }
}

pub(super) fn link(patient: &Patient<'_>) -> Option<Finding> {
    let (about, link) = (About::Link, patient.facts.link.as_ref()?);
    if link.is_wireless {
        let what = format!("Wi-Fi ({}): weights come slowly, and it gives none to other hosts", link.name);
        return Some(note(about, what, Some("a cable, at least while weights come")));
    }
    let Some(megabits) = link.megabits else { return Some(ok(about, link.name.clone())) };
    let what = format!("{}, {megabits} Mbit/s", link.name);
    let has_gigabit = matches!(patient.facts.board, Some(Board::Pi4 | Board::Pi5));
    Some(if has_gigabit && megabits < 1000 {
        warning(
            about,
            format!("{what}, where its port has 1000"),
            "try another cable, or another port of the switch",
        )
    } else {
        ok(about, what)
    })
}

pub(super) fn others(patient: &Patient<'_>) -> Option<Finding> {
    let about = About::Others;
    let answer = |number: usize| patient.checkup.reached.get(&number).copied();
    let of = |wanted: &dyn Fn(Answer) -> bool| -> Vec<String> {
        let all = patient.others.iter().enumerate();
        all.filter(|(number, _)| answer(*number).is_some_and(wanted))
            .map(|(_, other)| other.host.to_string())
            .collect()
    };
    let unresolved =
        patient.others.iter().enumerate().find(|(number, _)| answer(*number) == Some(Answer::Unresolved));
    if let Some((_, other)) = unresolved {
        let names = of(&|answer| answer == Answer::Unresolved).join(", ");
        let is_mdns = other.address.rsplit('.').next() == Some("local");
        let advice = if is_mdns {
            "teach it such names: `sudo apt install avahi-daemon libnss-mdns`; or say addresses in the manifest"
        } else {
            "say addresses in the manifest that all hosts know, or teach it the name in /etc/hosts"
        };
        let what = format!(
            "it does not know where {names} is ({}), and cannot ask it when its own engine is gone",
            other.address
        );
        return Some(warning(about, what, advice));
    }
    let lost = of(&|answer| !answer.is_there());
    if !lost.is_empty() {
        let what = format!(
            "it does not reach {}, and cannot ask there when its own engine is gone",
            lost.join(", ")
        );
        return Some(warning(
            about,
            what,
            "look whether that machine is on, and at firewalls and subnets between the two",
        ));
    }
    let reached = of(&Answer::is_there);
    (!reached.is_empty()).then(|| ok(about, format!("it reaches {}", reached.join(", "))))
}
