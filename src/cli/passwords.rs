//! Hosts that only a password lets in: it is asked for on the terminal, once, and kept nowhere.

use std::time::Duration;

use anyhow::Context as _;

use super::fleet::Fleet;
use super::output;
use crate::connect::{self, Connection, Password, Script, Stdin};
use crate::facts::{HostFacts, Inventory, Privilege};
use crate::ids::HostName;
use crate::plan;
use crate::probe;
use crate::terminal;

/// How often a password may be mistyped, as with sudo.
const TRIES: usize = 3;

/// Time for sudo, which waits two seconds where a password is wrong.
const SUDO_PATIENCE: Duration = Duration::from_secs(30);

impl Fleet<'_> {
    /// Asks the person for what lets us in to hosts that were looked at in vain: a login's password, with which
    /// our key is installed there, and the password that sudo wants. Hosts that it helps are looked at again.
    pub(super) async fn let_in(&self, hosts: &[probe::Target], inventory: &mut Inventory) {
        // most fleets have one password: it is tried before another is asked for
        let mut last: Option<Password> = None;
        for (host, root, connection) in hosts {
            let Some(found) = inventory.hosts.get_mut(host) else { continue };
            if found.as_ref().is_err_and(|failure| failure.takes_password) {
                match self.install_key(host).await {
                    Ok(Some(password)) => {
                        *found = probe::look(root, connection.as_ref(), false).await;
                        last = Some(password);
                    }
                    Ok(None) => {}
                    Err(error) => output::say(&format!("{host}: {error:#}")),
                }
            }
            let wants_sudo = |facts: &HostFacts| {
                facts.privilege == Privilege::SudoWithPassword
                    && self.spec(host).is_some_and(|spec| plan::is_root(&spec, facts))
            };
            if found.as_ref().is_ok_and(wants_sudo) {
                match self.ask_for_sudo(host, connection.as_ref(), &mut last).await {
                    Ok(true) => *found = probe::look(root, connection.as_ref(), true).await,
                    Ok(false) => {}
                    Err(error) => output::say(&format!("{host}: {error:#}")),
                }
            }
        }
    }

    /// Installs a key on a host with the login's password, and returns that if it takes the key now.
    async fn install_key(&self, host: &HostName) -> anyhow::Result<Option<Password>> {
        let Some(ssh) = self.ssh(host)? else { return Ok(None) };
        let mut key = ssh.key_to_offer().await?;
        let who = ssh.describe();
        let what = key.as_ref().map_or("a new key, ~/.ssh/id_ed25519".to_owned(), |key| key.origin.clone());
        output::say(&format!(
            "{host} takes none of your keys, but a password; with it, {what} can be installed there."
        ));
        for _ in 0..TRIES {
            let question = format!("Password of {who} (asked once, kept nowhere; empty: leave {host} out): ");
            let Some(password) = ask(question).await? else { return Ok(None) };
            let key = match &mut key {
                Some(key) => key,
                none => none.insert(ssh.make_key().await?),
            };
            match ssh.install_key(&password, key).await {
                Ok(()) => return Ok(Some(password)),
                Err(connect::Error::Authentication { said, .. }) if said.contains("Permission denied") => {
                    output::say("That is not its password.");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Asks for the password that a login's sudo wants, and leaves it with all ways to the host. Returns
    /// whether sudo takes it.
    async fn ask_for_sudo(
        &self,
        host: &HostName,
        connection: &dyn Connection,
        last: &mut Option<Password>,
    ) -> anyhow::Result<bool> {
        let sudo = self.sudo.of(host);
        let who = connection.describe();
        let mut typed = 0;
        let mut next = last.clone();
        while typed < TRIES {
            let password = if let Some(password) = next.take() {
                password
            } else {
                typed += 1;
                let question =
                    format!("Password of {who} for sudo (kept for this run only; empty: leave {host} out): ");
                let Some(password) = ask(question).await? else { return Ok(false) };
                password
            };
            sudo.set(Some(password.clone()));
            let script = Script { text: "true".to_owned(), is_root: true, timeout: SUDO_PATIENCE };
            match connection.run(&script, Stdin::Empty).await {
                Ok(_) => {
                    *last = Some(password);
                    return Ok(true);
                }
                Err(connect::Error::Sudo { said, .. }) => {
                    sudo.set(None);
                    if typed > 0 {
                        output::say(&format!("sudo says: {}", terminal::text(&said)));
                    }
                }
                Err(error) => {
                    sudo.set(None);
                    return Err(error.into());
                }
            }
        }
        Ok(false)
    }
}

/// Asks for a password on the terminal, without showing it. None: nothing was typed.
async fn ask(question: String) -> anyhow::Result<Option<Password>> {
    let typed =
        tokio::task::spawn_blocking(move || rpassword::prompt_password(terminal::line(&question))).await?;
    let typed = typed.context("no password can be asked for")?;
    Ok(if typed.is_empty() { None } else { Some(Password::new(typed)) })
}
