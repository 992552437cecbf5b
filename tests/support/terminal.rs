//! The program on a terminal of its own.

use std::process::{Command, Stdio};

use crate::desk::Desk;

/// Returns a command that runs the program on a terminal of its own, whose keys are its standard input.
pub(crate) fn on_terminal(desk: &Desk, arguments: &str) -> Command {
    let mut command = Command::new("script");
    let line = format!("exec {} {arguments}", env!("CARGO_BIN_EXE_bramble"));
    command.args(["-qec", &line, "/dev/null"]).env_clear().current_dir(desk.path("."));
    let of_desk = desk.command(&[]);
    command.envs(of_desk.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("TERM", "xterm").env("SHELL", "/bin/sh").stdin(Stdio::null());
    command
}
