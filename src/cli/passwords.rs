//! Hosts that only a password lets in: it is asked for on the terminal, once, and kept nowhere. None gets what was typed
//! for another, unless the person says so.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::Context as _;

use super::fleet::Fleet;
use super::output;
use crate::connect::{self, Connection, Password, Script, Stdin, SudoPassword};
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
        // most fleets have one password: with the next question, it need not be typed again
        let mut last: Option<(HostName, Password)> = None;
        for (host, root, connection) in hosts {
            let Some(found) = inventory.hosts.get_mut(host) else { continue };
            if found.as_ref().is_err_and(|failure| failure.takes_password) {
                match self.install_key(host).await {
                    Ok(Some(password)) => {
                        *found = probe::look(root, connection.as_ref(), false).await;
                        last = Some((host.clone(), password));
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
                match ask_for_sudo(host, connection.as_ref(), &self.sudo.of(host), &mut last, ask).await {
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
            let Answer::Typed(password) = ask(question).await? else { return Ok(None) };
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
}

/// Asks for the password that a login's sudo wants, and leaves it with all ways to the host. Returns
/// whether sudo takes it. Which host wants one is what the host says: what was typed for another goes to it only once
/// the person has said so.
async fn ask_for_sudo<F>(
    host: &HostName,
    connection: &dyn Connection,
    sudo: &SudoPassword,
    last: &mut Option<(HostName, Password)>,
    mut ask: impl FnMut(String) -> F,
) -> anyhow::Result<bool>
where
    F: Future<Output = anyhow::Result<Answer>>,
{
    let who = connection.describe();
    let mut typed = 0;
    let mut former = last.clone();
    while typed < TRIES {
        let password = match former.take() {
            // typed for this host already, for its login
            Some((of, password)) if of == *host => password,
            Some((of, password)) => {
                typed += 1;
                let question = format!(
                    "Password of {who} for sudo (Enter: the same as on {of}; Ctrl-D: leave {host} out): "
                );
                match ask(question).await? {
                    Answer::Typed(other) => other,
                    Answer::Nothing => password,
                    Answer::End => return Ok(false),
                }
            }
            None => {
                typed += 1;
                let question =
                    format!("Password of {who} for sudo (kept for this run only; empty: leave {host} out): ");
                let Answer::Typed(password) = ask(question).await? else { return Ok(false) };
                password
            }
        };
        sudo.set(Some(password.clone()));
        let script = Script { text: "true".to_owned(), is_root: true, timeout: SUDO_PATIENCE };
        match connection.run(&script, Stdin::Empty).await {
            Ok(_) => {
                *last = Some((host.clone(), password));
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

/// What a person answers.
enum Answer {
    Typed(Password),
    Nothing,
    /// Ctrl-D.
    End,
}

/// Asks for a password on the terminal, without showing it.
async fn ask(question: String) -> anyhow::Result<Answer> {
    let typed =
        tokio::task::spawn_blocking(move || rpassword::prompt_password(terminal::line(&question))).await?;
    match typed {
        Ok(typed) if typed.is_empty() => Ok(Answer::Nothing),
        Ok(typed) => Ok(Answer::Typed(Password::new(typed))),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            // nothing has ended the question's line
            output::say("");
            Ok(Answer::End)
        }
        Err(error) => Err(error).context("no password can be asked for"),
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::connect::fake::{Fake, ended};

    fn typed() -> Answer {
        Answer::Typed(Password::new("open-sesame".to_owned()))
    }

    /// Asks for the password of `host`, where a person answers `answers`, and sudo says no so many times. Returns whether
    /// it took one in the end, and the questions and what sudo was given, in their order.
    async fn asked(
        host: &str,
        last: &mut Option<(HostName, Password)>,
        answers: impl IntoIterator<Item = Answer>,
        refusals: usize,
    ) -> (bool, Vec<String>) {
        let (sudo, log) = (SudoPassword::default(), Arc::new(Mutex::new(Vec::new())));
        let (given, tried) = (sudo.clone(), Arc::clone(&log));
        let connection = Fake::new(format!("ben@{host}")).on("true", move |_| {
            assert!(given.get().is_some(), "there is nothing to try");
            let mut tried = tried.lock().unwrap();
            tried.push("sudo".to_owned());
            if tried.iter().filter(|what| *what == "sudo").count() > refusals {
                return Ok(ended(0, "", ""));
            }
            Err(connect::Error::Sudo {
                host: "it".to_owned(),
                said: "1 incorrect password attempt".to_owned(),
            })
        });
        let mut answers = answers.into_iter();
        let ask = |question: String| {
            log.lock().unwrap().push(question);
            ready(Ok(answers.next().unwrap()))
        };
        let is_taken = ask_for_sudo(&host.parse().unwrap(), &connection, &sudo, last, ask).await.unwrap();
        assert_eq!(sudo.get().is_some(), is_taken);
        let log = log.lock().unwrap().clone();
        (is_taken, log)
    }

    const SAME: &str =
        "Password of ben@zeta for sudo (Enter: the same as on alpha; Ctrl-D: leave zeta out): ";
    const PLAIN: &str = "Password of ben@zeta for sudo (kept for this run only; empty: leave zeta out): ";

    #[tokio::test]
    async fn a_password_goes_to_another_host_only_once_the_person_says_so() {
        let mut last = None;
        let (is_taken, log) = asked("alpha", &mut last, [typed()], 0).await;
        assert!(is_taken && log.len() == 2 && log[0].ends_with("empty: leave alpha out): "), "{log:?}");
        let known = last.clone();
        assert_eq!(
            asked("zeta", &mut last, [Answer::Nothing], 0).await,
            (true, vec![SAME.into(), "sudo".into()])
        );
        assert_eq!(last.map(|(of, _)| of.to_string()).as_deref(), Some("zeta"));
        // who says no to it is asked no more, and nothing is sent
        let mut last = known.clone();
        assert_eq!(asked("zeta", &mut last, [Answer::End], 0).await, (false, vec![SAME.into()]));
        // another one there is asked for as it is on the first host
        let (is_taken, log) = asked("zeta", &mut last, [Answer::Nothing, Answer::Nothing], 9).await;
        assert_eq!((is_taken, log), (false, vec![SAME.into(), "sudo".into(), PLAIN.into()]));
        let (is_taken, log) = asked("zeta", &mut last, [typed(), typed(), typed()], 9).await;
        assert_eq!((is_taken, log.len()), (false, 6));
    }

    #[tokio::test]
    async fn the_password_of_a_login_is_tried_for_its_own_sudo_first() {
        let known = Some(("zeta".parse().unwrap(), Password::new("open-sesame".to_owned())));
        assert_eq!(asked("zeta", &mut known.clone(), [], 0).await, (true, vec!["sudo".into()]));
        let (is_taken, log) = asked("zeta", &mut known.clone(), [typed()], 1).await;
        assert_eq!((is_taken, log), (true, vec!["sudo".into(), PLAIN.into(), "sudo".into()]));
    }
}
