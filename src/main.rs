//! `bramble`: the operator's command.

use std::process::ExitCode;

use bramble_fleet::cli;

fn main() -> ExitCode {
    cli::main()
}
