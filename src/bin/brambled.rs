//! `brambled`: what runs on each host. A switchboard; each room brings its own entry.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use bramble_fleet::causes::with_causes;
use bramble_fleet::generation::Layout;
use bramble_fleet::ids::ModelName;
use bramble_fleet::{bench, engine, install, route, transfer, weights};
use clap::{Args, Parser, Subcommand};

/// The longest request that a verb reads; a definition of a thousand routes has a tenth of it.
const LONGEST_REQUEST: u64 = 16 << 20;

/// Serve models on this host, and look after them
#[derive(Debug, Parser)]
#[command(name = "brambled", version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
struct Root {
    /// The folder that Bramble lives in
    #[arg(long, value_name = "DIR", default_value = Layout::DEFAULT_ROOT)]
    root: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve one model of the current generation on its Unix socket
    Engine {
        #[command(flatten)]
        root: Root,
        /// The model, as the definition names it
        #[arg(long, value_name = "NAME")]
        model: ModelName,
    },
    /// Answer clients, from here or from the fallback
    Route(Root),
    /// Run the services of a host without systemd
    Supervise(Root),
    /// Make GGUFs: an order comes from standard input, and its end stops the work
    #[command(hide = true)]
    Weights,
    /// Take a blob from standard input and seal it
    Receive(transfer::ReceiveArgs),
    /// Show what of Bramble is here, and how it differs from what was applied
    Inspect(Root),
    /// Measure memory, storage and the engines that run, and keep that for plans
    Bench(Root),
    /// Lay a generation out beside those that are here
    Install(Root),
    /// Bring a generation into force and prove that it works
    Activate(Root),
    /// Keep the generation that was activated
    Confirm(Root),
    /// Go back to an earlier generation
    Rollback(Root),
    /// Remove what nothing needs any more
    Prune(Root),
    /// Remove everything of Bramble from this host
    Remove(Root),
}

fn main() -> ExitCode {
    let verb = Arguments::parse().verb;
    start_log();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(error)),
    };
    let run = async {
        match verb {
            Verb::Engine { root, model } => ended(engine::serve(&root.root, &model).await),
            Verb::Route(root) => ended(route::serve(&root.root).await),
            Verb::Supervise(root) => ended(install::supervise(&Layout::new(root.root)).await),
            Verb::Weights => {
                if weights::serve() {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::FAILURE
                }
            }
            Verb::Receive(arguments) => transfer::run_receive(arguments),
            Verb::Inspect(root) => answer(install::Verb::Inspect, root).await,
            Verb::Bench(root) => measure(root).await,
            Verb::Install(root) => answer(install::Verb::Install, root).await,
            Verb::Activate(root) => answer(install::Verb::Activate, root).await,
            Verb::Confirm(root) => answer(install::Verb::Confirm, root).await,
            Verb::Rollback(root) => answer(install::Verb::Rollback, root).await,
            Verb::Prune(root) => answer(install::Verb::Prune, root).await,
            Verb::Remove(root) => answer(install::Verb::Remove, root).await,
        }
    };
    runtime.block_on(run)
}

/// Runs a verb on this host: JSON from standard input, one JSON value to standard output.
async fn answer(verb: install::Verb, root: Root) -> ExitCode {
    let mut request = Vec::new();
    // `inspect` asks nothing
    if verb != install::Verb::Inspect
        && let Err(error) = std::io::stdin().lock().take(LONGEST_REQUEST).read_to_end(&mut request)
    {
        return ended(Err(error));
    }
    match install::answer(verb, &Layout::new(root.root), &request).await {
        Ok(answer) => {
            // going back never ends as a success
            let went_back = answer["rolled_back"].is_string();
            match writeln!(std::io::stdout(), "{answer}") {
                Ok(()) if !went_back => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            let code = error.exit_code();
            say(&error);
            ExitCode::from(code)
        }
    }
}

/// Measures this host; one JSON value to standard output.
async fn measure(root: Root) -> ExitCode {
    let bench = match bench::bench(&Layout::new(root.root)).await {
        Ok(bench) => bench,
        Err(error) => return ended(Err(error)),
    };
    let text = match serde_json::to_string(&bench) {
        Ok(text) => text,
        Err(error) => return ended(Err(error)),
    };
    ended(writeln!(std::io::stdout(), "{text}"))
}

fn ended(result: Result<(), impl Error + 'static>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error);
            ExitCode::FAILURE
        }
    }
}

/// Sends the log to standard error: the journal's, under systemd. `RUST_LOG` chooses;
/// standard output is for results.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        // its own words about a standard error that nobody reads would be a panic
        .log_internal_errors(false)
        .init();
}

/// Says the error with all its causes on one line.
#[expect(clippy::print_stderr, reason = "the last word of the program")]
fn say(error: &(dyn Error + 'static)) {
    eprintln!("brambled: {}", with_causes(error));
}
