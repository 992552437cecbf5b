//! Looks at hosts: one script run on each, its output made into facts.
//!
//! A host that cannot be looked at is data in the inventory, never the end of the round.
//! Nothing is changed on any host, and nothing of ours needs to be there.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;

use crate::causes::with_causes;
use crate::clock;
use crate::connect::{self, Connection, Script, Stdin, quote};
use crate::facts::{self, Checkup, HostFacts, Inventory, ProbeFailure};
use crate::ids::HostName;

#[cfg(test)]
mod tests;

/// The script that prints what a host is. Its only argument is Bramble's folder there, empty for the
/// usual one, which depends on whether the login may become root.
pub const SCRIPT: &str =
    concat!(include_str!("../../templates/look.sh"), include_str!("../../templates/probe.sh"));

/// The script of a checkup. Its arguments are Bramble's folder there, the folder above it that is there already, the
/// port of the door, and an address and a port for each place that the host shall reach.
pub const CHECKUP: &str =
    concat!(include_str!("../../templates/look.sh"), include_str!("../../templates/checkup.sh"));

/// The most places that one host is asked whether it reaches them: it asks them all at once.
const MOST_PLACES: usize = 32;

/// How long one host may take. The script takes less than a second on a quiet host; an SD
/// card that is busy with writes can hold it up.
const TIMEOUT: Duration = Duration::from_mins(1);

/// A host to look at: its name, Bramble's folder there (empty: the usual one), and the way to it.
pub type Target = (HostName, String, Arc<dyn Connection>);

/// Looks at all `hosts`, at most `parallel` of them at a time.
pub async fn gather(hosts: &[Target], parallel: usize) -> Inventory {
    let looks = hosts.iter().cloned().map(|(name, root, connection)| async move {
        let found = look(&root, connection.as_ref(), false).await;
        (name, found)
    });
    let hosts = futures_util::stream::iter(looks).buffer_unordered(parallel.max(1)).collect::<Vec<_>>().await;
    Inventory { hosts: hosts.into_iter().collect() }
}

/// Looks at one host, with Bramble's folder `root`. `is_root`: as root, where sudo asks for a password that
/// `connection` has.
///
/// # Errors
/// It cannot be looked at.
pub async fn look(root: &str, connection: &dyn Connection, is_root: bool) -> Result<HostFacts, ProbeFailure> {
    let text = format!("set -- {}\n{SCRIPT}", quote(root));
    let script = Script { text, is_root, timeout: TIMEOUT };
    let output = run(&script, connection).await?;
    let now = clock::unix_seconds();
    let mut facts = facts::parse_probe(&output).map_err(|error| unreadable(&error, connection))?;
    facts.health.clock_ahead =
        facts::probe_clock(&output).map(|there| there - i64::try_from(now).unwrap_or(i64::MAX));
    Ok(facts)
}

/// What a checkup is to look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Bramble's folder there.
    pub root: String,
    /// The folder above it that is there already.
    pub disk: String,
    /// The port of the door.
    pub port: u16,
    /// The places that the host shall reach, each an address and a port; of more than 32, only the first are asked.
    pub others: Vec<(String, u16)>,
}

/// Looks at what may slow a host down, or stand in the way of its door. Some of its disk is read.
///
/// # Errors
/// It cannot be looked at.
pub async fn check_up(places: &Places, connection: &dyn Connection) -> Result<Checkup, ProbeFailure> {
    let Places { root, disk, port, others } = places;
    let words = [root.clone(), disk.clone(), port.to_string()];
    let others =
        others.iter().take(MOST_PLACES).flat_map(|(address, port)| [address.clone(), port.to_string()]);
    let arguments: Vec<String> = words.into_iter().chain(others).map(|word| quote(&word)).collect();
    let text = format!("set -- {}\n{CHECKUP}", arguments.join(" "));
    let output = run(&Script { text, is_root: false, timeout: TIMEOUT }, connection).await?;
    facts::parse_checkup(&output).map_err(|error| unreadable(&error, connection))
}

/// Runs a script of ours, once more where the connection breaks meanwhile, and returns what it printed.
async fn run(script: &Script, connection: &dyn Connection) -> Result<Vec<u8>, ProbeFailure> {
    let output = match connection.run(script, Stdin::Empty).await {
        // it only looks, and the connection is opened anew: a break of the network is no reason to leave a host out
        Err(connect::Error::Lost { .. }) => connection.run(script, Stdin::Empty).await,
        first => first,
    };
    let output = output.map_err(|error| unreachable(&error))?;
    if output.status != 0 {
        let host = connection.describe();
        let said = last_line(&output.stderr);
        return Err(ProbeFailure {
            message: format!(
                "{host} could not run the probe (status {}{}{said}): check that its `sh` works",
                output.status,
                if said.is_empty() { "" } else { ": " },
            ),
            is_transient: false,
            takes_password: false,
        });
    }
    Ok(output.stdout)
}

fn unreadable(error: &facts::Error, connection: &dyn Connection) -> ProbeFailure {
    ProbeFailure {
        message: format!("{}: {}", connection.describe(), with_causes(error)),
        is_transient: matches!(error, facts::Error::Truncated { .. }),
        takes_password: false,
    }
}

fn unreachable(error: &connect::Error) -> ProbeFailure {
    use connect::Error as E;
    let next = match error {
        E::Unreachable { .. } => "; check its power, its cable and its address",
        E::Refused { .. } => {
            "; start its SSH server (`sudo systemctl enable --now ssh` there), or check the port"
        }
        E::HostKeyChanged { .. } => {
            "; if it was set up anew, remove the old key with `ssh-keygen -R` and run again; if not, somebody may stand between"
        }
        E::Authentication { .. } if error.takes_password() => {
            "; run this on a terminal, where its password is asked for once, to install your key, or set `ssh.user` and `ssh.identity`"
        }
        E::Authentication { .. } => {
            "; copy your key there with `ssh-copy-id`, unlock it with `ssh-add` if it has a passphrase, or set `ssh.user` and `ssh.identity`"
        }
        E::Sudo { .. } => {
            "; run again with the right password, allow sudo without one for this login, or log in as root"
        }
        E::TimedOut { .. } => {
            "; it may be overloaded or its storage may be failing: look at it, then run again"
        }
        E::Lost { .. } => "; run again",
        E::TooMuch { .. } => "; look at what its login prints",
        // the next move is in the message or in the cause
        E::HostKeyUnknown { .. } | E::NoKey { .. } | E::NoPublicKey { .. } | E::Here { .. } => "",
    };
    ProbeFailure {
        message: format!("{}{next}", with_causes(error)),
        is_transient: error.is_transient(),
        takes_password: error.takes_password(),
    }
}

fn last_line(text: &str) -> String {
    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(200).collect()
}
