//! Reads from what `ssh` says why it could not connect.
//!
//! `ssh` ends with 255 for every failure of its own, so that its words, which have been
//! the same for decades and are not translated, are all there is to go by.

use super::Error;
use super::shell::{clean, one_line};

/// Said of whoever hung up before a word of SSH.
const KEX: &str = "kex_exchange_identification: ";
/// Said where that was a program of this machine.
const UNKNOWN: &str = "Connection closed by UNKNOWN port ";

/// In what `ssh` says of a way that leads nowhere.
const WAYS: [&str; 3] = ["ssh: connect to host ", "ssh: Could not resolve ", ": open failed: "];

/// Makes the error for an `ssh` that never came to be logged in. `fingerprint` is asked
/// only when the host key is unknown.
pub(super) fn of_login(host: String, stderr: &str, fingerprint: Option<String>) -> Error {
    let whole = stderr;
    let Some(stderr) = on_the_way(whole) else { return of_host(host, whole, fingerprint) };
    let named = |name: &str| format!("{}, on the way to {host},", clean(name));
    let of = |before: &str, after: &str| {
        stderr.lines().find_map(|line| {
            let (_, rest) = if before.is_empty() { ("", line) } else { line.split_once(before)? };
            Some(named(rest.split_once(after)?.0))
        })
    };
    match of_host(host.clone(), stderr, fingerprint) {
        Error::HostKeyUnknown { host, fingerprint } => {
            let host = of("host key is known for ", " and you have").unwrap_or(host);
            Error::HostKeyUnknown { host, fingerprint }
        }
        Error::HostKeyChanged { host, said } => {
            let host = of("Host key for ", " has changed").unwrap_or(host);
            Error::HostKeyChanged { host, said }
        }
        // a password that it would take is not the host's: its ways to log in stay out of this
        Error::Authentication { host, .. } => {
            let host = of("", ": Permission denied").unwrap_or(host);
            Error::Authentication { host, said: "it takes none of your keys".to_owned() }
        }
        // a banner, or what a `ProxyCommand` says: whether it is to blame is not known
        Error::Unreachable { .. } if !WAYS.iter().any(|way| stderr.contains(way)) => {
            of_host(host, whole, None)
        }
        error => error,
    }
}

/// Returns whether another try may say more: OpenSSH 10 does not count a connection that is closed at once among its
/// errors, and an `ssh` that leaves a master behind has nobody hear what is said on the way.
pub(super) fn is_little(stderr: &str) -> bool {
    stderr.lines().all(|line| line.trim().is_empty() || line.starts_with(KEX) || line.starts_with(UNKNOWN))
}

/// Returns what was said on the way to the host, where that is why it was not reached: by the `ssh` of a jump host, or
/// by the user's `ProxyCommand`.
fn on_the_way(stderr: &str) -> Option<&str> {
    let end = [KEX, UNKNOWN].iter().filter_map(|end| stderr.find(end)).min()?;
    let said = &stderr[..end];
    (stderr.contains(UNKNOWN) && !said.trim().is_empty()).then_some(said)
}

fn of_host(host: String, stderr: &str, fingerprint: Option<String>) -> Error {
    let said = summary(stderr);
    let has = |text: &str| stderr.contains(text);
    if has("REMOTE HOST IDENTIFICATION HAS CHANGED") || has("REVOKED HOST KEY DETECTED") {
        Error::HostKeyChanged { host, said: changed_key(stderr).unwrap_or(said) }
    } else if is_unknown_key(stderr) {
        Error::HostKeyUnknown { host, fingerprint }
    } else if has("Permission denied")
        || has("Too many authentication failures")
        || has("No more authentication")
    {
        Error::Authentication { host, said }
    } else if has("Connection refused")
        || has("kex_exchange_identification")
        || has("Connection reset by peer")
        || was_closed(stderr)
        || has("Bad remote protocol version")
        || has("Unable to negotiate")
    {
        Error::Refused { host, said }
    } else {
        Error::Unreachable { host, said }
    }
}

/// Returns whether the other end hung up before it said anything; where a jump host did not get that
/// far, `ssh` names no port of it.
fn was_closed(stderr: &str) -> bool {
    let is_it = |line: &str| line.starts_with("Connection closed by ") && !line.contains("UNKNOWN");
    stderr.lines().any(is_it)
}

/// Returns whether the host showed a key that no file of known hosts names.
pub(super) fn is_unknown_key(stderr: &str) -> bool {
    stderr.contains("host key is known for") || stderr.contains("Host key verification failed")
}

/// Finds the fingerprint of the key that a host showed, in the words of `ssh -v`. The
/// last one: those before it belong to hosts that were jumped over.
pub(super) fn fingerprint(verbose: &str) -> Option<String> {
    let line =
        verbose.lines().rev().find_map(|line| line.trim().strip_prefix("debug1: Server host key: "))?;
    let mut words = line.split_whitespace();
    let (kind, print) = (words.next()?, words.next()?);
    Some(clean(&format!("{kind} {print}")))
}

/// Returns what `ssh` said in one line, without the frames it draws around warnings.
fn summary(stderr: &str) -> String {
    let is_frame = |line: &&str| !line.trim_start().starts_with('@') && !line.trim().is_empty();
    let kept: Vec<&str> = stderr.lines().filter(is_frame).collect();
    let said = one_line(&clean(&kept.join("\n")));
    if said.is_empty() { "ssh said nothing".to_owned() } else { said }
}

/// Returns the two facts in ssh's page about a changed key: the key that was shown, and where the
/// known one stands.
fn changed_key(stderr: &str) -> Option<String> {
    let shown = stderr.split_whitespace().find(|word| word.starts_with("SHA256:"))?;
    let shown = shown.trim_end_matches('.');
    let line = stderr.lines().find(|line| line.starts_with("Offending "))?;
    let place = line.rsplit(" in ").next()?.trim();
    Some(clean(&format!("it shows {shown}, and another one stands in {place}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(stderr: &str) -> &'static str {
        match of_login("pi".into(), stderr, None) {
            Error::Unreachable { .. } => "unreachable",
            Error::Refused { .. } => "refused",
            Error::HostKeyChanged { .. } => "changed",
            Error::HostKeyUnknown { .. } => "unknown",
            Error::Authentication { .. } => "authentication",
            _ => "other",
        }
    }

    #[test]
    fn what_ssh_says_is_understood() {
        for (stderr, expected) in [
            ("ssh: Could not resolve hostname pi: Name or service not known", "unreachable"),
            ("ssh: connect to host pi port 22: No route to host", "unreachable"),
            ("Connection timed out during banner exchange", "unreachable"),
            ("ssh: connect to host pi port 22: Connection refused", "refused"),
            ("kex_exchange_identification: Connection closed by remote host", "refused"),
            ("Connection closed by 10.0.0.7 port 22", "refused"),
            ("Connection closed by UNKNOWN port 65535", "unreachable"),
            ("pi@pi: Permission denied (publickey,password).", "authentication"),
            (
                "Received disconnect from 1.2.3.4 port 22:2: Too many authentication failures",
                "authentication",
            ),
            ("No ED25519 host key is known for pi and you have requested strict checking.", "unknown"),
            (
                "@  WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!  @\nHost key verification failed.",
                "changed",
            ),
            ("", "unreachable"),
            // of jump hosts
            (
                "ssh: Could not resolve hostname gate: Name or service not known\nkex_exchange_identification: Connection closed by remote host\nConnection closed by UNKNOWN port 65535",
                "unreachable",
            ),
            (
                "ssh: connect to host gate port 22: Connection refused\nkex_exchange_identification: Connection closed by remote host\nConnection closed by UNKNOWN port 65535",
                "refused",
            ),
            (
                "channel 0: open failed: connect failed: No route to host\nstdio forwarding failed\nkex_exchange_identification: Connection closed by remote host\nConnection closed by UNKNOWN port 65535",
                "unreachable",
            ),
            // the gate greets, and the host behind it hangs up
            (
                "Welcome to the gate.\nkex_exchange_identification: Connection closed by remote host\nConnection closed by UNKNOWN port 65535",
                "refused",
            ),
            (
                "ada@gate: Permission denied (publickey).\nConnection closed by UNKNOWN port 65535",
                "authentication",
            ),
        ] {
            assert_eq!(class(stderr), expected, "{stderr}");
        }
    }

    #[test]
    fn a_jump_host_that_lets_nobody_in_is_named_and_its_password_is_not_asked_for() {
        let stderr = "ada@gate: Permission denied (publickey,password).\nkex_exchange_identification: Connection closed by remote host\nConnection closed by UNKNOWN port 65535\n";
        let error = of_login("pi@kitchen".into(), stderr, None);
        assert!(!error.takes_password());
        assert_eq!(
            error.to_string(),
            "ada@gate, on the way to pi@kitchen, does not accept the login: it takes none of your keys"
        );
        let stderr = "pi@kitchen: Permission denied (publickey,password).\n";
        assert!(of_login("pi@kitchen".into(), stderr, None).takes_password());
    }

    #[test]
    fn the_fingerprint_is_that_of_the_host_behind_the_jump() {
        let verbose = "debug1: Server host key: ssh-rsa SHA256:jump\nx\ndebug1: Server host key: ssh-ed25519 SHA256:pi\n";
        assert_eq!(fingerprint(verbose).as_deref(), Some("ssh-ed25519 SHA256:pi"));
        assert_eq!(fingerprint("nothing"), None);
    }
}
