//! The fleets of `examples/`: each is planned as its hosts would be found, by the boards that its labels name; the first
//! fleet, which has none, as `scripts/demo` brings it up.

use std::collections::BTreeMap;
use std::path::Path;

use super::Plan;
use super::testing::{Fleet, MANIFEST, bare};
use crate::catalog::{self, ModelFacts};
use crate::facts::{HostFacts, Stated};
use crate::ids::Digest;
use crate::manifest::{self, Manifest, Via};
use crate::source::{Pinned, PinnedFile, SourceRef};
use crate::units::Bytes;

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples"))
}

/// The hosts of the first fleet: their boards, and the memory that is free there, in MiB.
const FIRST: [(&str, &str, Option<u64>); 3] =
    [("kitchen", "pi5-8gb", None), ("shed", "pi4-1gb", Some(220)), ("desk", "desktop", Some(28 << 10))];

/// What the catalog knows of a model; of a folder or a repository of the hub, by its name.
fn facts(source: &SourceRef) -> ModelFacts {
    let known = match source {
        SourceRef::Catalog(name) => catalog::find(name).unwrap(),
        SourceRef::File(path) => catalog::find(path.rsplit('/').next().unwrap()).unwrap(),
        SourceRef::Hub { repo, .. } => {
            catalog::find(&repo.rsplit('/').next().unwrap().to_lowercase()).unwrap()
        }
        other => panic!("an example takes its model from {other}, which no test knows"),
    };
    let file = PinnedFile {
        path: "model.safetensors".to_owned(),
        bytes: Bytes(known.parameters * 2),
        sha256: Digest::of(known.name.as_bytes()),
    };
    let uri = format!("hf:org/{}@0123456789abcdef0123456789abcdef01234567", known.name);
    known.figures.facts(Pinned { uri, files: vec![file], license: Some(known.license.clone()) })
}

/// The host as it would be found: its first label names its board.
fn host(name: &str, labels: &[String]) -> HostFacts {
    let (board, memory) = if let Some(board) = labels.first() {
        (board.clone(), (board == "desktop").then(|| Bytes::gib(28)))
    } else {
        let known = FIRST.iter().find(|(known, ..)| *known == name);
        let (_, board, memory) = known.expect("a label that names a board");
        ((*board).to_owned(), memory.map(Bytes::mib))
    };
    let stated = Stated { board, memory, bandwidth: None };
    let facts = stated.facts().expect("a board that can be planned for");
    HostFacts { disk: bare("pi5-8gb", "", Bytes::gib(1)).disk, glibc: Some((2, 36)), ..facts }
}

fn fleet(text: &str) -> Fleet {
    let manifest: Manifest = manifest::parse("fleet.yaml", text).unwrap();
    let mut fleet = Fleet::of(MANIFEST);
    let ours =
        manifest.hosts.iter().filter(|(_, spec)| matches!(spec.via, Via::Ssh { .. } | Via::Local { .. }));
    fleet.inventory.hosts =
        ours.map(|(name, spec)| (name.clone(), Ok(host(name.as_str(), &spec.labels)))).collect();
    fleet.models =
        manifest.models.iter().map(|(name, model)| (name.clone(), Ok(facts(&model.source)))).collect();
    fleet.lock.fleet = manifest.fleet.clone();
    fleet.manifest = manifest;
    fleet
}

/// What each host runs and whom its door asks; hosts that are alike in a line.
fn shown(plan: &Plan) -> String {
    let mut lines: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for host in &plan.hosts {
        let models: Vec<String> = host
            .choices
            .iter()
            .map(|chosen| format!("{} {} {} {}", chosen.model, chosen.quant, chosen.memory, chosen.speed))
            .collect();
        let routes: Vec<String> = host
            .definition
            .door
            .routes
            .iter()
            .map(|route| {
                let order: Vec<&str> = route.order.iter().map(|hop| hop.upstream.as_str()).collect();
                format!("{} -> {}", route.model, order.join(", "))
            })
            .collect();
        let line =
            format!("  runs   {}\n  routes {}", models.join("\n         "), routes.join("\n         "));
        lines.entry(line).or_default().push(host.host.as_str());
    }
    lines.iter().map(|(line, hosts)| hosts.join(" ") + "\n" + line + "\n").collect::<Vec<_>>().concat()
}

#[test]
fn every_example_is_planned_without_a_problem() {
    let mut planned = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let (name, file) =
            (path.file_name().unwrap().to_string_lossy().into_owned(), path.join("fleet.yaml"));
        if !file.is_file() {
            continue;
        }
        let fleet = fleet(&std::fs::read_to_string(&file).unwrap());
        insta::assert_snapshot!(name.clone(), shown(&fleet.plan()));
        planned.push(name);
    }
    planned.sort();
    assert_eq!(planned, ["air-gapped", "classroom", "first-fleet", "home", "robot"]);
}
