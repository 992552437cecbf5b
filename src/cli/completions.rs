use clap_complete::Generator as _;

use super::arguments::Completions;
use super::exit::Exit;
use super::{examples, output};

/// Prints the script that completes words of the command line in a shell.
pub(crate) fn run(verb: &Completions) -> anyhow::Result<Exit> {
    let mut command = examples::command(None);
    command.set_bin_name("bramble");
    command.build();
    let mut script = Vec::new();
    verb.shell.try_generate(&command, &mut script)?;
    output::verbatim(&String::from_utf8(script)?)?;
    Ok(Exit::Done)
}
