//! The only place of the operator's command that prints. What hosts, hubs and models say drives no terminal, whoever
//! forgot to take it out before (`terminal`).
//!
//! Where nobody reads any more (`bramble plan | head -n 1`), nothing more is printed, and the command goes on to
//! its end and its own exit code: an apply must not stop in its middle. A disk that is full under
//! standard output is an error; under standard error it has nowhere to be said.

use std::fmt::Write as _;
use std::io::{BufRead as _, ErrorKind, Write as _};

use anyhow::Context as _;
use serde::Serialize;

use super::arguments::Global;
use super::environment::{self, Environment};
use crate::events::Events;
use crate::execute::Report;
use crate::live::Recorder;
use crate::terminal;
use crate::view::{self, Deed, Progress};

/// Prints a result; what a terminal has no room for on one line goes on below.
pub(crate) fn result(text: &str) -> anyhow::Result<()> {
    raw(&for_stdout(text))
}

/// Prints what programs read, or what comes in pieces: its lines stay as they are.
pub(crate) fn verbatim(text: &str) -> anyhow::Result<()> {
    raw(&terminal::coloured(text))
}

/// Shows a result in the place of what the terminal shows.
pub(crate) fn redraw(text: &str) -> anyhow::Result<()> {
    raw(&view::redrawn(&for_stdout(text)))
}

fn for_stdout(text: &str) -> String {
    view::folded(&terminal::coloured(text), environment::columns(std::io::stdout()))
}

fn raw(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the result to standard output")
        }
        _ => Ok(()),
    }
}

/// Prints a result as JSON, followed by a line's end.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    raw(&format!("{}\n", terminal::json(&serde_json::to_string_pretty(value)?)))
}

/// Prints one value of many as a line of JSON.
pub(crate) fn json_line(value: &impl Serialize) -> anyhow::Result<()> {
    raw(&format!("{}\n", terminal::json(&serde_json::to_string(value)?)))
}

/// Prints what became of hosts.
pub(crate) fn report(
    report: &Report,
    deed: Deed,
    global: &Global,
    environment: &Environment,
) -> anyhow::Result<()> {
    if global.json {
        return json(report);
    }
    result(&view::report(report, deed, environment.style))
}

/// Returns events that are shown on standard error as they happen: to people, or with `--json` to programs.
pub(crate) fn events(environment: &Environment) -> Events {
    let progress = progress(environment);
    Events::new(move |event| progress.show(event))
}

/// Returns the same with what writes them down for `bramble ui`, once that has begun.
pub(crate) fn recorded_events(environment: &Environment) -> (Events, Recorder) {
    let (progress, live) = (progress(environment), Recorder::default());
    let recorder = live.clone();
    let events = Events::new(move |event| {
        recorder.take(&event);
        progress.show(event);
    });
    (events, live)
}

fn progress(environment: &Environment) -> Progress {
    Progress::new(environment.showing, environment::columns(std::io::stderr()))
}

/// Says something beside the result.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", for_stderr(text));
}

fn for_stderr(text: &str) -> String {
    view::folded(&terminal::coloured(text), environment::columns(std::io::stderr()))
}

/// Returns faults of a file for standard error: carets stay below what they are about.
fn faults(text: &str) -> String {
    let width = environment::columns(std::io::stderr());
    let is_excerpt =
        |line: &str| line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with('|');
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        // where the carets themselves have no room, nothing is left out above them
        let has_carets = |next: &&str| view::cut(next, width) == **next;
        match (is_excerpt(line), lines.peek().is_none_or(has_carets)) {
            (true, true) => out.push_str(&view::cut(line, width)),
            (true, false) => out.push_str(line),
            (false, _) => out.push_str(&view::folded(line, width)),
        }
        out.push('\n');
    }
    out
}

/// Prints an error with its causes.
pub(crate) fn error(error: &anyhow::Error) {
    if let Some(problems) = error.downcast_ref::<crate::manifest::Problems>() {
        let _ = write!(std::io::stderr(), "{}", faults(&terminal::text(&problems.to_string())));
        return;
    }
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1) {
        // writing to a String cannot fail
        let _ = write!(text, ": {cause}");
    }
    say(&terminal::text(&text));
}

/// Asks a question that wants `yes`.
pub(crate) fn ask(question: &str) -> std::io::Result<bool> {
    let mut out = std::io::stderr().lock();
    let question = format!("{} Only `yes` does it:", terminal::text(question));
    write!(out, "{} ", for_stderr(&question))?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
