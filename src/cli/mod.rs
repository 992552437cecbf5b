//! The operator's command: one file per verb, each a few lines that call rooms in order.
//!
//! Results go to standard output, progress and errors to standard error.

mod address;
mod apply;
mod arguments;
mod bench;
mod bundle;
mod cards;
mod catalog;
mod chat;
mod check;
mod completions;
mod convert;
mod cordon;
#[cfg(test)]
mod docs_tests;
mod doctor;
mod doors;
mod environment;
mod examples;
mod exit;
mod fetch;
mod files;
mod fit;
mod fleet;
mod forget;
mod init;
mod interrupt;
mod keys;
mod logs;
mod man;
mod output;
mod passwords;
mod plan;
mod prune;
mod push;
mod remove;
mod restart;
mod rollback;
mod schema;
mod sdcard;
mod status;
mod store;
mod tune;
mod ui;

use std::path::Path;
use std::process::ExitCode;

use clap::FromArgMatches as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use arguments::{Arguments, Verb};
use environment::Environment;
use exit::Exit;

use crate::manifest::Problems;

/// Runs the command and returns its exit code ([`Exit`]).
pub fn main() -> ExitCode {
    let parsed = examples::command(environment::columns(std::io::stdout())).try_get_matches();
    let arguments = match parsed.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error).into(),
    };
    let is_json = arguments.global.json;
    let environment = Environment::read(is_json);
    environment.start_log();
    // the HTTP client is built without a TLS library of its own choice; a second call changes nothing
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::error(&anyhow::Error::new(error).context("cannot start"));
            return Exit::Failed.into();
        }
    };
    let outcome = runtime.block_on(run(arguments, &environment));
    // a read from a terminal that is still waiting must not hold the exit
    runtime.shutdown_background();
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => {
            output::error(&error);
            if let (true, Some(problems)) = (is_json, error.downcast_ref::<Problems>()) {
                // its exit code says that it failed, whether or not this can be written
                let _ = output::json(&problems.to_json());
            }
            exit::of_error(&error).into()
        }
    }
}

/// Prints help, the version, or what is wrong with the command line.
fn usage(error: &clap::Error) -> Exit {
    // where nobody reads there is nobody to tell
    let _ = error.print();
    if !error.use_stderr() {
        return Exit::Done;
    }
    if let Some(ContextValue::String(extra)) = error.get(ContextKind::InvalidArg)
        && error.kind() == ErrorKind::UnknownArgument
        && Path::new(extra).extension().is_some_and(|extension| extension == "yaml")
    {
        output::say(&format!("\nThe manifest is named with --file: `-f {extra}`."));
    }
    if std::env::args_os().any(|word| word == "logs") && std::env::args_os().any(|word| word == "-f") {
        output::say("\nTo go on showing lines, say --follow: -f names the manifest.");
    }
    Exit::Failed
}

async fn run(arguments: Arguments, environment: &Environment) -> anyhow::Result<Exit> {
    let global = &arguments.global;
    match arguments.verb {
        Verb::Init(verb) => init::run(&verb, global, environment).await,
        Verb::Sdcard(verb) => sdcard::run(&verb, global, environment).await,
        Verb::Check(verb) => check::run(&verb, global, environment),
        Verb::Plan(verb) => plan::run(&verb, global, environment).await,
        Verb::Fetch(verb) => fetch::run(&verb, global, environment).await,
        Verb::Convert(verb) => convert::convert(&verb, global, environment).await,
        Verb::Quantize(verb) => convert::quantize(&verb, global, environment).await,
        Verb::Push(verb) => push::run(&verb, global, environment).await,
        Verb::Apply(verb) => apply::run(&verb, global, environment).await,
        Verb::Status(verb) => status::run(&verb, global, environment).await,
        Verb::Doctor(verb) => doctor::run(&verb, global, environment).await,
        Verb::Ui(verb) => ui::run(&verb, global, environment).await,
        Verb::Chat(verb) => chat::run(&verb, global, environment).await,
        Verb::Logs(verb) => logs::run(&verb, global, environment).await,
        Verb::Restart(verb) => restart::run(&verb, global, environment).await,
        Verb::Cordon(verb) => cordon::run(&verb, true, global, environment).await,
        Verb::Uncordon(verb) => cordon::run(&verb, false, global, environment).await,
        Verb::Prune(verb) => prune::run(&verb, global, environment).await,
        Verb::Rollback(verb) => rollback::run(&verb, global, environment).await,
        Verb::Remove(verb) => remove::run(&verb, global, environment).await,
        Verb::Forget(verb) => forget::run(&verb, global, environment),
        Verb::Keys(verb) => keys::run(&verb, global, environment),
        Verb::Store(verb) => store::run(&verb, global, environment),
        Verb::Bundle(verb) => bundle::run(&verb, global, environment).await,
        Verb::Catalog => catalog::run(global, environment),
        Verb::Bench(verb) => bench::run(&verb, global, environment).await,
        Verb::Tune(verb) => tune::run(&verb, global, environment).await,
        Verb::Fit(verb) => fit::run(&verb, global, environment).await,
        Verb::Schema(verb) => schema::run(&verb),
        Verb::Completions(verb) => completions::run(&verb),
        Verb::Man(verb) => man::run(&verb, global),
    }
}
