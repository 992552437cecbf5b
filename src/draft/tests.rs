use std::collections::VecDeque;
use std::io;

use proptest::prelude::*;

use super::*;
use crate::discover::Place;
use crate::facts::planned;
use crate::manifest::{self, Role, Via};

fn candidate(address: &str, place: Place) -> Candidate {
    Candidate {
        name: address.to_owned(),
        address: address.to_owned(),
        user: None,
        port: None,
        identity: None,
        place,
        is_pi: false,
        seen_at: BTreeSet::new(),
    }
}

fn seen(name: &str, candidate: Candidate, facts: Result<HostFacts, String>) -> Seen {
    Seen { host: name.parse().unwrap(), candidate, facts }
}

fn pi5() -> HostFacts {
    let mut facts = planned("pi5-8gb").unwrap();
    facts.board_name = Some("Raspberry Pi 5 Model B Rev 1.0".to_owned());
    facts
}

fn pc() -> HostFacts {
    HostFacts { board: None, machine: "x86_64".to_owned(), ..planned("pi5-16gb").unwrap() }
}

fn here(facts: HostFacts) -> Here {
    Here { host: "desk".parse().unwrap(), address: "192.168.1.10".to_owned(), facts: Some(facts) }
}

fn draft(hosts: Vec<Seen>, here: Option<Here>) -> Draft {
    Draft { fleet: "home".parse().unwrap(), hosts, here, left_out: Vec::new(), model: pick(&[]) }
}

#[test]
fn a_house_becomes_a_manifest_that_says_what_was_found() {
    let kitchen = Candidate { user: Some("ann".to_owned()), ..candidate("kitchen.local", Place::Announced) };
    let shed = Candidate { port: Some(2222), ..candidate("192.168.1.21", Place::SshConfig) };
    let why = "pi@192.168.1.21 cannot be reached: No route to host\n; check its power".to_owned();
    let mut draft =
        draft(vec![seen("kitchen", kitchen, Ok(pi5())), seen("shed", shed, Err(why))], Some(here(pc())));
    draft.left_out = vec![("office".parse().unwrap(), candidate("office", Place::SshConfigBehind))];
    draft.model = pick(&[("kitchen".to_owned(), pi5())]);
    let text = manifest_of(&draft);
    insta::assert_snapshot!(text);
    let read = manifest::parse("fleet.yaml", &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    assert_eq!(read.hosts.len(), 3);
    let desk = &read.hosts[&"desk".parse().unwrap()];
    assert!(matches!(desk.via, Via::Local { .. }) && desk.role == Role::Desktop);
    assert_eq!((read.deploy.len(), read.routes.len()), (2, 1));
    // what was left out can be had by taking the `#` away
    let more = text.replace("  # office:", "  office:");
    assert_eq!(manifest::parse("fleet.yaml", &more).unwrap().hosts.len(), 4);
}

#[test]
fn where_nothing_was_found_there_is_a_board_to_plan_for() {
    let text = manifest_of(&draft(Vec::new(), Some(here(pc()))));
    let read = manifest::parse("fleet.yaml", &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    assert!(matches!(read.hosts[&"next".parse().unwrap()].via, Via::Board(_)));
    // a Pi that is alone, and a fleet without a Pi
    for draft in [
        draft(Vec::new(), Some(here(pi5()))),
        draft(vec![seen("tower", candidate("tower", Place::Named), Ok(pc()))], None),
    ] {
        let text = manifest_of(&draft);
        manifest::parse("fleet.yaml", &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    }
}

#[test]
fn names_are_near_to_what_machines_are_called_and_each_has_its_own() {
    let taken = ["desk".parse().unwrap()].into();
    let wishes =
        ["Kitchen.local", "kitchen", "192.168.1.20", "desk", "-", "Büro", "local"].map(str::to_owned);
    let names: Vec<String> = names(&wishes, &taken).iter().map(ToString::to_string).collect();
    assert_eq!(names, ["kitchen", "kitchen-2", "host-192-168-1-20", "desk-2", "host", "b-ro", "host-local"]);
}

/// Answers in order, and remembers what it was asked.
#[derive(Default)]
struct Person {
    answers: VecDeque<&'static str>,
    asked: Vec<String>,
    told: Vec<String>,
}

impl Ask for Person {
    fn ask(&mut self, question: &str) -> io::Result<String> {
        self.asked.push(question.to_owned());
        self.answers.pop_front().map(str::to_owned).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
    fn say(&mut self, text: &str) {
        self.told.push(text.to_owned());
    }
}

fn read(word: &str) -> Option<Candidate> {
    is_host(word).then(|| candidate(word, Place::Named))
}

fn house() -> Vec<Candidate> {
    let pi = Candidate { is_pi: true, ..candidate("kitchen.local", Place::Announced) };
    vec![pi, candidate("office", Place::SshConfig)]
}

/// What came of an interview: the addresses that were chosen, those left out, and whether this machine is one.
type Outcome = (Vec<String>, Vec<String>, bool);

fn meet(found: Vec<Candidate>, told: &Told, answers: &[&'static str]) -> (io::Result<Outcome>, Person) {
    let mut person = Person { answers: answers.iter().copied().collect(), ..Person::default() };
    let outcome = interview(found, told, &read, Some(&mut person));
    let addresses = |all: Vec<Candidate>| all.into_iter().map(|one| one.address).collect();
    (outcome.map(|(chosen, left, here)| (addresses(chosen), addresses(left), here)), person)
}

#[test]
fn where_nobody_is_asked_pis_are_taken_and_others_are_not() {
    let (chosen, left, here) = interview(house(), &Told::default(), &read, None).unwrap();
    assert_eq!((chosen[0].address.as_str(), left[0].address.as_str()), ("kitchen.local", "office"));
    assert!(here);
    assert_eq!(chosen[0].user.as_deref(), Some("pi"));
    assert_eq!(interview(Vec::new(), &Told::default(), &read, None).unwrap(), (Vec::new(), Vec::new(), true));
}

#[test]
fn only_what_cannot_be_known_is_asked() {
    let strings = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let (outcome, person) = meet(house(), &Told::default(), &["", "", ""]);
    assert_eq!(outcome.unwrap(), (strings(&["kitchen.local"]), strings(&["office"]), true));
    assert!(
        person.asked[0].contains("  1  kitchen.local: announces itself")
            && person.asked[0].ends_with("[1]: ")
    );
    assert_eq!(person.asked[1], "The login on kitchen.local [pi]: ");
    // of what ssh's configuration has, ssh knows the login
    let (outcome, person) = meet(house(), &Told::default(), &["3", "2", "no"]);
    assert_eq!(outcome.unwrap(), (strings(&["office"]), strings(&["kitchen.local"]), false));
    assert_eq!((person.asked.len(), person.told), (3, strings(&["\"3\" is none of 1 to 2"])));
    // what was said on the command line is not asked
    let named = Candidate { user: Some("ann".to_owned()), ..candidate("loft", Place::Named) };
    let told = Told { named: vec![named], here: Some(false) };
    let (outcome, person) = meet(house(), &told, &[]);
    assert_eq!(outcome.unwrap(), (strings(&["loft"]), strings(&["kitchen.local", "office"]), false));
    assert_eq!(person.asked, Vec::<String>::new());
    // nothing was found
    let (outcome, _) =
        meet(Vec::new(), &Told::default(), &["a b;c", "10.0.0.7 10.0.0.8", "-x", "ann", "", ""]);
    assert_eq!(outcome.unwrap(), (strings(&["10.0.0.7", "10.0.0.8"]), Vec::new(), true));
    let (outcome, person) = meet(Vec::new(), &Told::default(), &["yes", "10.0.0", "none", ""]);
    assert_eq!(outcome.unwrap(), (Vec::new(), Vec::new(), true));
    let what = "is no host: write its name, its IPv4 address or its alias in ~/.ssh/config, such as kitchen.local, 192.168.1.20 or pi@192.168.1.20";
    assert_eq!(person.told, strings(&[&format!("\"yes\" {what}"), &format!("\"10.0.0\" {what}")]));
}

#[test]
fn who_answers_nonsense_is_asked_three_times() {
    let (outcome, person) = meet(house(), &Told::default(), &["x", "y", "z", "1"]);
    assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(person.asked.len(), 3);
    assert_eq!(meet(house(), &Told::default(), &[]).0.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_long_reason_is_told_whole_over_several_lines() {
    let why = "shows an unknown host key (SHA256:abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG): check it, then run again with --accept-new-host-keys, and here is more of what it said";
    let seen = Seen {
        host: "shed".parse().unwrap(),
        candidate: candidate("shed.local", Place::Announced),
        facts: Err(why.to_owned()),
    };
    let text = manifest_of(&draft(vec![seen], None));
    let comments = text.lines().filter_map(|line| line.strip_prefix("  # ")).collect::<Vec<_>>().join(" ");
    assert!(comments.contains(why), "{text}");
    assert!(text.lines().all(|line| line.chars().count() < 125), "{text}");
    manifest::parse("fleet.yaml", &text).unwrap();
}

proptest! {
    #[test]
    fn whatever_was_found_the_manifest_is_taken(
        hosts in prop::collection::vec(("\\PC{0,70}", "[A-Za-z0-9_.][A-Za-z0-9_.-]{0,30}", prop::option::of("\\PC{0,40}"), prop::option::of(0u16..), "(?s).{0,200}"), 0..6),
        left in prop::collection::vec(("\\PC{0,70}", "[A-Za-z0-9_.][A-Za-z0-9_.-]{0,30}"), 0..3),
        identity in prop::option::of("\\PC{0,40}"),
        why in "(?s).{0,300}",
        is_here in any::<bool>(),
    ) {
        let wishes: Vec<String> = hosts.iter().map(|host| host.0.clone()).chain(left.iter().map(|one| one.0.clone())).collect();
        let names = names(&wishes, &["desk".parse().unwrap(), "next".parse().unwrap()].into());
        let found = crate::discover::merge(hosts.iter().map(|(_, address, user, port, _)| Candidate {
            user: user.clone(),
            port: *port,
            identity: identity.clone(),
            ..candidate(address, Place::Named)
        }).collect());
        let hosts: Vec<Seen> = found.into_iter().zip(&names).zip(&hosts).map(|((candidate, host), (.., why))| Seen {
            host: host.clone(),
            candidate,
            facts: if why.len() % 2 == 0 { Err(why.clone()) } else { Ok(pi5()) },
        }).collect();
        let mut draft = draft(hosts, if is_here { Some(here(pc())) } else { None });
        draft.left_out = left.iter().zip(names.iter().rev()).map(|((_, address), host)| (host.clone(), candidate(address, Place::SshConfig))).collect();
        draft.model.why = why;
        let text = manifest_of(&draft);
        let read = manifest::parse("fleet.yaml", &text);
        prop_assert!(read.is_ok(), "{}\n{text}", read.unwrap_err());
        prop_assert_eq!(read.unwrap().hosts.len(), draft.hosts.len().max(1) + usize::from(is_here));
    }
}
