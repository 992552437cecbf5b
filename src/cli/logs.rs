use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use tokio::sync::mpsc;

use super::arguments::{Global, Logs};
use super::environment::Environment;
use super::exit::Exit;
use super::fleet::Fleet;
use super::{output, restart};
use crate::causes::with_causes;
use crate::execute::{self, LogLine, LogsRequest};
use crate::ids::HostName;
use crate::terminal;
use crate::view;

/// A line with the host it is of.
#[derive(Serialize)]
struct Line<'a> {
    host: &'a HostName,
    #[serde(flatten)]
    line: &'a LogLine,
}

/// Shows what the services of hosts say.
pub(crate) async fn run(verb: &Logs, global: &Global, environment: &Environment) -> anyhow::Result<Exit> {
    // `logs -f kitchen`, as one types elsewhere
    anyhow::ensure!(
        global.file.extension().is_some() || global.file.exists(),
        "there is no manifest {}: -f names one; to go on showing lines, say --follow",
        global.file.display()
    );
    let fleet = Fleet::open(global, verb.login, environment)?;
    let hosts = fleet.named_or_ours(&verb.hosts);
    let (mut subjects, mut failed) = fleet.subjects(&hosts).await?;
    for host in &hosts {
        if !failed.contains_key(host) && !subjects.iter().any(|subject| subject.host == *host) {
            failed.insert(host.clone(), "nothing of Bramble is on it".to_owned());
        }
    }
    let models = verb.models.iter().cloned().collect();
    restart::check_models(&models, &subjects)?;
    if !models.is_empty() {
        subjects.retain(|subject| !subject.models().is_disjoint(&models));
    }
    let width = subjects.iter().map(|subject| subject.host.as_str().len()).max().unwrap_or(0);
    let show = |host: &HostName, line: &LogLine| {
        if global.json {
            return output::json_line(&Line { host, line });
        }
        output::verbatim(&view::log_line(host, width, line, environment.style))
    };

    let (fail, mut failing) = mpsc::channel(1);
    let mut reading: FuturesUnordered<_> = subjects
        .iter()
        .map(|subject| {
            let (host, show, fail) = (&subject.host, &show, fail.clone());
            let here = subject.models();
            let models = verb.models.iter().filter(|model| here.contains(*model)).cloned().collect();
            let request = LogsRequest { models, door: verb.door, lines: verb.lines, follow: verb.follow };
            async move {
                let mut lines = Vec::new();
                let tell = |line: LogLine| {
                    if !request.follow {
                        lines.push(line);
                        return;
                    }
                    // no host is read on while a line is shown: none is faster than the terminal
                    if let Err(error) = show(host, &line) {
                        // the first error is enough
                        drop(fail.try_send(error));
                    }
                };
                let ended = execute::logs(subject, &request, tell).await;
                (host.clone(), lines, ended)
            }
        })
        .collect();
    drop(fail);
    // without following, hosts come one after the other, however fast they answer
    let mut kept: BTreeMap<HostName, Vec<LogLine>> = BTreeMap::new();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        tokio::select! {
            // those that are rarely ready first: a host that never falls silent must not keep them waiting
            biased;
            _ = &mut interrupted => return Ok(Exit::Interrupted),
            Some(error) = failing.recv() => return Err(error),
            ended = reading.next() => match ended {
                Some((host, lines, ended)) => {
                    if let Err(error) = ended {
                        failed.insert(host.clone(), with_causes(&error));
                    }
                    kept.insert(host, lines);
                }
                None => break,
            },
        }
    }
    for (host, lines) in &kept {
        lines.iter().try_for_each(|line| show(host, line))?;
    }
    for (host, why) in &failed {
        output::say(&terminal::text(&format!("{host}: {why}")));
    }
    Ok(match (failed.is_empty(), failed.len() < hosts.len()) {
        (true, _) => Exit::Done,
        (false, true) => Exit::Partly,
        (false, false) => Exit::Failed,
    })
}
