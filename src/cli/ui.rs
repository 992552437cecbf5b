use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::arguments::{Global, Ui};
use super::environment::Environment;
use super::exit::Exit;
use super::{doors, fleet, output};
use crate::keys::Safe;
use crate::plan::door_tls;
use crate::ui;

/// How often it is looked whether the page may go on asking.
const LOOK: Duration = Duration::from_secs(1);

/// Shows the fleet in a browser, until it is interrupted, or a host was revoked that it would ask.
pub(crate) async fn run(verb: &Ui, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    let manifest = fleet::load(&global.file)?;
    let safe = Arc::new(Safe::open(&environment.state, &manifest.fleet)?);
    let keys = safe.needed_keys()?;
    let serve = (manifest.serve.port, door_tls(&manifest));
    let addresses = manifest.hosts.iter().filter_map(|(host, spec)| Some((host, spec.via.address()?)));
    let doors =
        addresses.map(|(host, address)| Ok((host.clone(), doors::door(&safe, host, address, serve)?)));
    let shown = ui::Fleet {
        name: manifest.fleet.clone(),
        doors: doors.collect::<anyhow::Result<_>>()?,
        key: keys.operator_key().to_owned().into(),
        folder: safe.folder(),
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, verb.port))
        .await
        .with_context(|| format!("cannot listen on port {}: choose another with --port", verb.port))?;
    let is_json = global.json;
    let name = manifest.fleet.clone();
    let invite = move |link: &str| {
        let text = if is_json {
            format!("{}\n", serde_json::json!({ "url": link }))
        } else {
            format!("The fleet {name}, for one browser on this machine:\n  {link}\n")
        };
        // where nobody reads, nobody is let in
        let _ = output::verbatim(&text);
    };
    if !is_json {
        output::say("Ctrl-C ends it. Each link is good once; when it was used, the next is printed.");
    }
    // heard from before the first link is there
    let mut interrupts = signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?;
    let held = Arc::clone(&safe);
    let end = async move {
        let outdated = async {
            while matches!(held.is_outdated(), Ok(false)) {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            _ = interrupts.recv() => {}
            () = outdated => {}
        }
    };
    ui::serve(listener, shown, invite, end).await.context("cannot serve the page")?;
    doors::check_current(&safe, "ui")?;
    Ok(Exit::Done)
}
