//! The only place of the operator's command that prints.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this file is the printer")]

use std::io::{BufRead as _, Write as _};

use serde::Serialize;

use super::arguments::Global;
use super::environment::Environment;
use crate::execute::Report;
use crate::view;

/// Prints a result.
pub(crate) fn result(text: &str) {
    print!("{text}");
    let _ = std::io::stdout().flush();
}

/// Prints a result as JSON, followed by a line's end.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints what became of hosts.
pub(crate) fn report(report: &Report, global: &Global, environment: &Environment) -> anyhow::Result<()> {
    if global.json {
        return json(report);
    }
    result(&view::report(report, environment.style));
    Ok(())
}

/// Says something beside the result.
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// Prints an error with its causes.
pub(crate) fn error(error: &anyhow::Error) {
    if let Some(problems) = error.downcast_ref::<crate::manifest::Problems>() {
        eprint!("{problems}");
        return;
    }
    eprint!("error: {error}");
    for cause in error.chain().skip(1) {
        eprint!(": {cause}");
    }
    eprintln!();
}

/// Asks a question that wants `yes`.
pub(crate) fn ask(question: &str) -> std::io::Result<bool> {
    eprint!("{question} Only `yes` does it: ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
