//! The configuration that our `ssh` reads, in place of the user's and the system's, both of which it includes.
//!
//! For a jump host `ssh` starts another one, to which it hands the name of this file and none of its options. What
//! must hold there, too, is in the file: unknown keys are refused, and nobody is asked anything.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::ssh::Settings;

/// Where a system has its configuration. The first that is there counts.
const SYSTEM: [&str; 2] = ["/etc/ssh/ssh_config", "/usr/etc/ssh/ssh_config"];

/// Returns what holds for a host and for those on the way to it, whatever the user's configuration says: the first
/// value that `ssh` sees is the one it takes.
pub(super) fn forced(settings: &Settings) -> Vec<String> {
    let accept = if settings.is_new_host_key_accepted { "accept-new" } else { "yes" };
    let mut options: Vec<String> = [
        "BatchMode=yes",
        "ForwardAgent=no",
        "ForwardX11=no",
        "ClearAllForwardings=yes",
        "PermitLocalCommand=no",
        "RemoteCommand=none",
        "RequestTTY=no",
        "Tunnel=no",
        // what packs is packed before
        "Compression=no",
        "ServerAliveInterval=15",
        "ServerAliveCountMax=3",
    ]
    .map(str::to_owned)
    .into();
    options.push(format!("StrictHostKeyChecking={accept}"));
    options.push(format!("ConnectTimeout={}", settings.connect_timeout.as_secs().max(1)));
    if let Some(known) = &settings.known_hosts {
        options
            .push(format!("UserKnownHostsFile={}", quoted(&known.display().to_string().replace('%', "%%"))));
        options.push("GlobalKnownHostsFile=none".to_owned());
    }
    options
}

/// Writes the file into `folder`, and returns its path.
pub(super) fn write(folder: &Path, settings: &Settings) -> io::Result<PathBuf> {
    let named = [&settings.known_hosts, &settings.config];
    if let Some(path) = named.into_iter().flatten().find(|path| !is_word(path)) {
        let path = path.display();
        let why = format!("{path} has a quote, a backslash or a line break, which ssh reads in no path");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let mut lines = forced(settings);
    // a way that fails says why
    lines.push("LogLevel=INFO".to_owned());
    let included = match &settings.config {
        Some(config) if is_empty(config) => Vec::new(),
        Some(config) => vec![config.clone()],
        None => {
            let system = SYSTEM.iter().map(Path::new).find(|path| path.exists());
            let system = system.map(|path| readable(path, folder)).transpose()?.flatten();
            let users = home().unwrap_or_else(|| PathBuf::from("~")).join(".ssh/config");
            std::iter::once(users).chain(system).collect()
        }
    };
    lines.extend(included.iter().map(|path| format!("Include {}", quoted(&path.display().to_string()))));
    let path = folder.join("config");
    fs::write(&path, lines.join("\n") + "\n")?;
    Ok(path)
}

/// `ssh` includes no file that somebody else may write to; nobody can write into these.
fn is_empty(config: &Path) -> bool {
    [Path::new("none"), Path::new("/dev/null")].contains(&config)
}

/// Returns the system's file, or a copy where `ssh` reads it and yet would not include it as it does: for its owner, who
/// is nobody in some containers, for its mode, or for what it includes by a relative path, which it would look for
/// among the user's. None: it cannot be read, which `ssh` itself takes for an empty one.
fn readable(path: &Path, folder: &Path) -> io::Result<Option<PathBuf>> {
    let (Ok(text), Ok(meta)) = (fs::read(path), fs::metadata(path)) else { return Ok(None) };
    let is_trusted = [0, rustix::process::getuid().as_raw()].contains(&meta.uid());
    let text = String::from_utf8_lossy(&text);
    let absolute = with_absolute_includes(&text, path.parent().unwrap_or(Path::new("/")));
    if is_trusted && meta.mode() & 0o022 == 0 && absolute == text {
        return Ok(Some(path.to_owned()));
    }
    let copy = folder.join("system");
    fs::write(&copy, absolute)?;
    fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(Some(copy))
}

/// Returns a configuration in which what is included by a relative path is included from `folder`.
fn with_absolute_includes(text: &str, folder: &Path) -> String {
    let line = |whole: &str| {
        let line = whole.strip_suffix('\n').unwrap_or(whole);
        let end = &whole[line.len()..];
        let is_end = |c: char| c.is_whitespace() || c == '=';
        match line.trim_start().split_once(is_end) {
            Some((keyword, paths)) if keyword.eq_ignore_ascii_case("include") => {
                format!("{keyword} {}{end}", absolute(paths.trim_start_matches(is_end), folder))
            }
            _ => whole.to_owned(),
        }
    };
    text.split_inclusive('\n').map(line).collect()
}

/// Puts `folder` before each relative one of some paths, up to a comment. A quoted path may have spaces.
fn absolute(paths: &str, folder: &Path) -> String {
    let mut out = String::new();
    // what ssh reads in the next character is not known here
    if paths.contains('\\') {
        return paths.to_owned();
    }
    let (mut is_first, mut quote) = (true, None);
    for (at, c) in paths.char_indices() {
        match c {
            '#' if is_first && quote.is_none() => return out + &paths[at..],
            '"' | '\'' if quote.is_none() => quote = Some(c),
            _ if quote == Some(c) => quote = None,
            _ if c.is_whitespace() && quote.is_none() => is_first = true,
            _ if is_first => {
                if !matches!(c, '/' | '~' | '$' | '%') {
                    out += &folder.display().to_string();
                    out.push('/');
                }
                is_first = false;
            }
            _ => {}
        }
        out.push(c);
    }
    out
}

/// Returns what `ssh` itself takes for the user's home: that of the login, whatever `HOME` says. None: no file lists the
/// login, which is left to `ssh`.
pub(super) fn home() -> Option<PathBuf> {
    let me = rustix::process::getuid().as_raw().to_string();
    let logins = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let home = logins.lines().find_map(|line| {
        let words: Vec<&str> = line.split(':').collect();
        (words.get(2) == Some(&me.as_str())).then(|| words.get(5).copied()).flatten()
    });
    home.filter(|home| home.starts_with('/')).map(PathBuf::from)
}

/// Returns a path with `home` in place of a leading `~/`.
pub(super) fn in_home(path: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// Returns whether a configuration can have the path as one word.
fn is_word(path: &Path) -> bool {
    !path.to_string_lossy().contains(['"', '\\', '\n', '\r'])
}

/// Writes one word of a configuration.
fn quoted(text: &str) -> String {
    if text.contains(|c: char| c.is_whitespace() || c == '\'') {
        format!("\"{text}\"")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_forced_comes_first_then_the_users_file_then_the_systems() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { known_hosts: Some("/o'brien &co/50%".into()), ..Settings::default() };
        let text = fs::read_to_string(write(folder.path(), &settings).unwrap()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "BatchMode=yes");
        assert!(lines.contains(&"UserKnownHostsFile=\"/o'brien &co/50%%\""), "{text}");
        let first = lines.iter().position(|line| line.starts_with("Include ")).unwrap();
        assert!(lines[first].ends_with("/.ssh/config"), "{text}");
        assert!(lines[first + 1..].iter().all(|line| line.ends_with("/ssh_config")), "{text}");

        let settings = Settings { config: Some("/dev/null".into()), ..settings };
        let text = fs::read_to_string(write(folder.path(), &settings).unwrap()).unwrap();
        assert!(!text.contains("Include"), "{text}");
    }

    #[test]
    fn a_leading_tilde_is_the_home_where_one_is_known() {
        let home = Some(Path::new("/home/ada"));
        assert_eq!(in_home(Path::new("~/.ssh/fleet"), home), Path::new("/home/ada/.ssh/fleet"));
        assert_eq!(in_home(Path::new("~/.ssh/fleet"), None), Path::new("~/.ssh/fleet"));
        for other in ["/keys/fleet", "keys/~/fleet", "~eve/.ssh/fleet"] {
            assert_eq!(in_home(Path::new(other), home), Path::new(other));
        }
    }

    #[test]
    fn what_the_system_includes_by_a_relative_path_is_found_where_ssh_itself_finds_it() {
        let text = "# a\nInclude\nInclude ssh_config.d/*.conf /etc/a\n  include=\"b c\"\nHost x\n  User ~\nInclude ~/x %d/y";
        let absolute = "# a\nInclude\nInclude /etc/ssh/ssh_config.d/*.conf /etc/a\ninclude \"/etc/ssh/b c\"\nHost x\n  User ~\nInclude ~/x %d/y";
        assert_eq!(with_absolute_includes(text, Path::new("/etc/ssh")), absolute);
        let text = "Include '/etc/b c' 'd # e' f # g\nInclude a\\ b\n";
        let absolute = "Include '/etc/b c' '/etc/ssh/d # e' /etc/ssh/f # g\nInclude a\\ b\n";
        assert_eq!(with_absolute_includes(text, Path::new("/etc/ssh")), absolute);

        let folder = tempfile::tempdir().unwrap();
        let system = folder.path().join("ssh_config");
        fs::write(&system, "Include more\n").unwrap();
        let copy = readable(&system, folder.path()).unwrap().unwrap();
        assert_eq!(fs::read_to_string(copy).unwrap(), format!("Include {}/more\n", folder.path().display()));
    }

    #[test]
    fn a_path_that_would_be_more_than_one_word_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for bad in ["/a\"b", "/a\nProxyCommand x", "/a\\b"] {
            let settings = Settings { known_hosts: Some(bad.into()), ..Settings::default() };
            let error = write(folder.path(), &settings).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{bad}");
        }
    }

    #[test]
    fn a_file_of_the_systems_that_others_may_write_to_is_copied_since_ssh_includes_none() {
        let folder = tempfile::tempdir().unwrap();
        let system = folder.path().join("ssh_config");
        fs::write(&system, "User pi\n").unwrap();
        for (mode, is_copied) in [(0o644, false), (0o664, true)] {
            fs::set_permissions(&system, fs::Permissions::from_mode(mode)).unwrap();
            let read = readable(&system, folder.path()).unwrap().unwrap();
            assert_eq!(read != system, is_copied);
            assert_eq!(fs::read_to_string(read).unwrap(), "User pi\n");
        }
    }
}
