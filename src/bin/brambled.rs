//! `brambled`: what runs on each host. A switchboard; each room has its entry.

use std::process::ExitCode;

use bramble_fleet::transfer;
use clap::{Parser, Subcommand};

/// Serve and look after models on this host
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Take a blob from standard input and seal it
    Receive(transfer::ReceiveArgs),
}

fn main() -> ExitCode {
    match Cli::parse().verb {
        Verb::Receive(args) => transfer::run_receive(args),
    }
}
