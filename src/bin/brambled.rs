//! `brambled`: what runs on each host. A switchboard; each room brings its own entry.

use std::path::PathBuf;
use std::process::ExitCode;

use bramble_fleet::engine;
use bramble_fleet::ids::ModelName;
use clap::{Parser, Subcommand};

/// Serves models on this host
#[derive(Debug, Parser)]
#[command(name = "brambled", version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve one model of the current generation on its Unix socket
    Engine {
        /// The folder that Bramble lives in
        #[arg(long, value_name = "DIR")]
        root: PathBuf,
        /// The model, as the definition names it
        #[arg(long, value_name = "NAME")]
        model: ModelName,
    },
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

async fn run(verb: Verb) -> Outcome {
    match verb {
        Verb::Engine { root, model } => engine::serve(&root, &model).await?,
    }
    Ok(())
}

fn main() -> ExitCode {
    let verb = Arguments::parse().verb;
    start_log();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(run(verb)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

/// Sends the log to stderr: the journal's, under systemd. `RUST_LOG` chooses; standard
/// output is for results.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
}

/// Says the error with all its causes on one line.
#[expect(clippy::print_stderr, reason = "the last word of the program")]
fn report(error: &dyn std::error::Error) {
    let mut text = format!("brambled: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    eprintln!("{text}");
}
