//! The only place of the operator's command that prints.
//!
//! Where nobody reads any more (`bramble plan | head -n 1`), nothing more is printed, and the command goes on to
//! its end and its own exit code: an apply must not stop in its middle. A disk that is full under
//! standard output is an error; under standard error it has nowhere to be said.

use std::fmt::Write as _;
use std::io::{BufRead as _, ErrorKind, Write as _};

use anyhow::Context as _;
use serde::Serialize;

use super::arguments::Global;
use super::environment::Environment;
use crate::execute::Report;
use crate::view::{self, Deed};

/// Prints a result.
pub(crate) fn result(text: &str) -> anyhow::Result<()> {
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
    result(&format!("{}\n", serde_json::to_string_pretty(value)?))
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

/// Says something beside the result.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints an error with its causes.
pub(crate) fn error(error: &anyhow::Error) {
    if let Some(problems) = error.downcast_ref::<crate::manifest::Problems>() {
        let _ = write!(std::io::stderr(), "{problems}");
        return;
    }
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1) {
        // writing to a String cannot fail
        let _ = write!(text, ": {cause}");
    }
    say(&view::plain(&text));
}

/// Asks a question that wants `yes`.
pub(crate) fn ask(question: &str) -> std::io::Result<bool> {
    let mut out = std::io::stderr().lock();
    write!(out, "{question} Only `yes` does it: ")?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
