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
use zeroize::Zeroizing;

/// The longest request that a verb reads; a definition of a thousand routes has a tenth of it.
const LONGEST_REQUEST: u64 = 16 << 20;

/// Serve models on this host, and look after them
#[derive(Debug, Parser)]
#[command(name = "brambled", version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    program: Program,
}

#[derive(Debug, Args)]
struct Root {
    /// The folder that Bramble lives in
    #[arg(long, value_name = "DIR", default_value = Layout::DEFAULT_ROOT)]
    root: PathBuf,
}

#[derive(Debug, Args)]
struct Change {
    #[command(flatten)]
    root: Root,
    /// The number of the lease that allows it
    #[arg(long, value_name = "NUMBER")]
    lease: u64,
}

#[derive(Debug, Subcommand)]
enum Program {
    #[command(flatten)]
    Verb(Verb),
    #[command(flatten)]
    Plain(Plain),
}

/// What runs without a runtime: rights are given up by each thread for itself, and there is only one yet.
#[derive(Debug, Subcommand)]
enum Plain {
    /// Take a blob from standard input and seal it
    Receive(transfer::ReceiveArgs),
    /// Seal what a receiver that has given its rights up has received: it starts this itself
    #[command(hide = true)]
    Keeper(transfer::KeeperArgs),
    /// Make GGUFs: an order comes from standard input, and its end stops the work
    #[command(hide = true)]
    Weights,
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
    Route {
        #[command(flatten)]
        root: Root,
        /// Serve on the socket that is standard input, in the place of the process that started this one
        #[arg(long, hide = true)]
        heir: bool,
    },
    /// Run the services of a host without systemd
    Supervise(Root),
    /// Show what of Bramble is here, and how it differs from what was applied
    Inspect(Root),
    /// Hash the weights that are in use, and say which are damaged
    Verify(Root),
    /// Show what the services here say, each line as JSON
    Logs(install::LogsArgs),
    /// Measure memory, storage and the engines that run, and keep that for plans
    Bench(Root),
    /// Take, keep or end the right to change this host
    Lease(Root),
    /// Lay a generation out beside those that are here
    Install(Change),
    /// Bring a generation into force and prove that it works
    Activate(Change),
    /// Keep the generation that was activated
    Confirm(Change),
    /// Go back to an earlier generation
    Rollback(Change),
    /// Start services of the generation in force anew, and prove that they work
    Restart(Change),
    /// Take no new work, or take it again
    Cordon(Change),
    /// Remove what nothing needs any more
    Prune(Change),
    /// Remove everything of Bramble from this host
    Remove(Change),
}

/// Returns the folder of the secrets that systemd has read for this service.
#[expect(clippy::disallowed_methods, reason = "this is the face that reads the environment")]
fn credentials() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// Returns whether an engine is to enclose itself: nothing else does.
#[expect(clippy::disallowed_methods, reason = "this is the face that reads the environment")]
fn is_to_enclose() -> bool {
    std::env::var_os(Layout::ENCLOSE).is_some()
}

fn main() -> ExitCode {
    let program = Arguments::parse().program;
    start_log();
    let verb = match program {
        Program::Plain(Plain::Receive(arguments)) => return transfer::run_receive(arguments),
        Program::Plain(Plain::Keeper(arguments)) => return transfer::run_keeper(arguments),
        Program::Plain(Plain::Weights) => {
            return if weights::serve() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Program::Verb(verb) => verb,
    };
    // before there is a second thread
    let entrance = match &verb {
        Verb::Route { heir, .. } => match route::Entrance::find(*heir) {
            Ok(entrance) => entrance,
            Err(error) => return ended(Err(error)),
        },
        _ => route::Entrance::Started(None),
    };
    if let Verb::Engine { root, model } = &verb
        && is_to_enclose()
        && let Err(error) = engine::enclose(&root.root, model)
    {
        return ended(Err(error));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(error)),
    };
    let run = async {
        match verb {
            Verb::Engine { root, model } => ended(engine::serve(&root.root, &model).await),
            Verb::Route { root, .. } => ended(route::serve(&root.root, credentials(), entrance).await),
            Verb::Supervise(root) => ended(install::supervise(&Layout::new(root.root)).await),
            Verb::Inspect(root) => told(install::inspection(&Layout::new(root.root)).await),
            Verb::Verify(root) => told(install::verification(&Layout::new(root.root))),
            Verb::Logs(arguments) => ended(install::run_logs(arguments).await),
            Verb::Bench(root) => measure(root).await,
            Verb::Lease(root) => match request() {
                Ok(ask) => told(install::ask_for_lease(&Layout::new(root.root), &ask)),
                Err(error) => ended(Err(error)),
            },
            Verb::Install(change) => answer(install::Verb::Install, change).await,
            Verb::Activate(change) => answer(install::Verb::Activate, change).await,
            Verb::Confirm(change) => answer(install::Verb::Confirm, change).await,
            Verb::Rollback(change) => answer(install::Verb::Rollback, change).await,
            Verb::Restart(change) => answer(install::Verb::Restart, change).await,
            Verb::Cordon(change) => answer(install::Verb::Cordon, change).await,
            Verb::Prune(change) => answer(install::Verb::Prune, change).await,
            Verb::Remove(change) => answer(install::Verb::Remove, change).await,
        }
    };
    runtime.block_on(run)
}

/// Reads what is asked, JSON on standard input: secrets may be among it.
fn request() -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut request = Zeroizing::new(Vec::new());
    std::io::stdin().lock().take(LONGEST_REQUEST).read_to_end(&mut request)?;
    Ok(request)
}

/// Runs a verb on this host: JSON from standard input, one JSON value to standard output.
async fn answer(verb: install::Verb, change: Change) -> ExitCode {
    let request = match request() {
        Ok(request) => request,
        Err(error) => return ended(Err(error)),
    };
    told(install::answer(verb, &Layout::new(change.root.root), change.lease, &request).await)
}

/// Prints an answer of the install room, or says why there is none.
fn told(answer: Result<serde_json::Value, install::Error>) -> ExitCode {
    match answer {
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
    // by hand there may be nobody who asks for anything in particular
    let request = if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        Zeroizing::default()
    } else {
        request().unwrap_or_default()
    };
    let request = serde_json::from_slice(&request).unwrap_or_default();
    let bench = match bench::bench(&Layout::new(root.root), request).await {
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
