//! The few words of `sh` around every script: which process it is, whether it began at
//! all, and how to become root. The same on every kind of connection.
//!
//! The script's text is an argument of a process on the host, which every user there may
//! read. Secrets travel on standard input.

use std::fmt::Write as _;
use std::time::Duration;

use zeroize::Zeroizing;

use super::{Error, Output, Password, Script, quote};

/// Time for ending a script that did not end by itself.
pub(super) const KILLING: Duration = Duration::from_secs(5);

/// Linux takes no single argument of 128 KiB or more.
const LONGEST: usize = 120 << 10;

/// Says on standard error that the script begins, and in which process group, then runs
/// it. A status of 255 is said aloud, because `ssh` uses it for failures of its own.
const AS_LOGIN: &str = r#"export LC_ALL=C
printf '%s begins %s\n' "$1" "$$" >&2
sh -c "$2"
s=$?
[ $s -ne 255 ] || printf '\n%s ended\n' "$1" >&2
exit $s"#;

/// Says before, too, that it is sudo's turn. With `use_pty`, Debian's default, sudo gives the script a process group
/// of its own.
const AS_ROOT: &str = r#"export LC_ALL=C
run='printf "%s begins %s %s\n" "$1" "$3" "$$" >&2; exec sh -c "$2"'
if [ "$(id -u)" = 0 ]; then sh -c "$run" sh "$1" "$2" "$$"
else printf '%s asks\n' "$1" >&2; sudo -n sh -c "$run" sh "$1" "$2" "$$"; fi
s=$?
[ $s -ne 255 ] || printf '\n%s ended\n' "$1" >&2
exit $s"#;

/// The first line of standard input is the login's password, which nobody but sudo gets.
const AS_ROOT_BY_PASSWORD: &str = r#"export LC_ALL=C
run='printf "%s begins %s %s
" "$1" "$3" "$$" >&2; exec sh -c "$2"'
if [ "$(id -u)" = 0 ]; then IFS= read -r line; sh -c "$run" sh "$1" "$2" "$$"
elif printf '%s asks\n' "$1" >&2; sudo -n true </dev/null 2>/dev/null; then IFS= read -r line; sudo -n sh -c "$run" sh "$1" "$2" "$$"
else sudo -k -S -p '' sh -c "$run" sh "$1" "$2" "$$"; fi
s=$?
[ $s -ne 255 ] || printf '\n%s ended\n' "$1" >&2
exit $s"#;

/// A script, ready to be started, with the mark that tells our words from its own.
#[derive(Debug)]
pub(super) struct Wrapped {
    mark: String,
    script: Script,
    password: Option<Password>,
}

impl Wrapped {
    /// Wraps `script`. `password` is the login's, where sudo asks for one.
    pub(super) fn new(script: &Script, password: Option<Password>) -> Result<Self, Error> {
        let here = |doing: &str, source| Error::Here { doing: doing.to_owned(), source };
        let mut random = [0u8; 8];
        getrandom::fill(&mut random)
            .map_err(|error| here("cannot draw random bytes", std::io::Error::other(error.to_string())))?;
        let mut mark = "bramble-".to_owned();
        for byte in random {
            // writing to a String does not fail
            let _ = write!(mark, "{byte:02x}");
        }
        let password = password.filter(|_| script.is_root);
        let wrapped = Self { mark, script: script.clone(), password };
        let longest = wrapped.line().len();
        if longest > LONGEST || script.text.contains('\0') {
            let why = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(here(
                &format!(
                    "the script of {longest} bytes is too long, or has a NUL: send data on standard input"
                ),
                why,
            ));
        }
        Ok(wrapped)
    }

    /// Returns the arguments for `sh`.
    pub(super) fn args(&self) -> [&str; 5] {
        let wrapper = match (self.script.is_root, &self.password) {
            (false, _) => AS_LOGIN,
            (true, None) => AS_ROOT,
            (true, Some(_)) => AS_ROOT_BY_PASSWORD,
        };
        ["-c", wrapper, "sh", &self.mark, &self.script.text]
    }

    /// Returns what ends the script's process groups; none before it has begun.
    pub(super) fn killer(&self, stderr: &Tail) -> Option<Self> {
        let groups: Vec<String> = self.groups(stderr).iter().map(|group| format!("-{group}")).collect();
        let all = groups.join(" ");
        // dash takes `--` only after `-s`
        let text = format!("kill -s TERM -- {all}; sleep 1; kill -s KILL -- {all}");
        let script = Script { text, is_root: self.script.is_root, timeout: KILLING };
        if groups.is_empty() { None } else { Self::new(&script, self.password.clone()).ok() }
    }

    /// Returns what is to be read before the script's own input.
    pub(super) fn first_line(&self) -> Option<Zeroizing<Vec<u8>>> {
        self.password.as_ref().map(Password::line)
    }

    /// Returns one line for a login shell.
    pub(super) fn line(&self) -> String {
        let words: Vec<String> = self.args().iter().skip(1).map(|word| quote(word)).collect();
        format!("exec sh -c {}", words.join(" "))
    }

    /// Returns whether the script began.
    pub(super) fn has_begun(&self, stderr: &Tail) -> bool {
        !self.groups(stderr).is_empty()
    }

    /// Returns the script's process groups; none before it has begun.
    pub(super) fn groups(&self, stderr: &Tail) -> Vec<u32> {
        let head = String::from_utf8_lossy(&stderr.head);
        let line =
            head.split_once(&format!("{} begins ", self.mark)).and_then(|(_, after)| after.lines().next());
        let numbers = line.unwrap_or_default().split_whitespace().filter_map(|word| word.parse().ok());
        numbers.filter(|group| *group > 1).collect()
    }

    /// Returns whether the script itself ended with 255.
    pub(super) fn is_own_255(&self, stderr: &Tail) -> bool {
        String::from_utf8_lossy(&stderr.tail).contains(&format!("{} ended", self.mark))
    }

    /// Returns what the script wrote to standard error, without our words.
    pub(super) fn said(&self, stderr: &Tail) -> String {
        let text = String::from_utf8_lossy(&stderr.tail);
        let mut out = String::with_capacity(text.len());
        let mut rest = &*text;
        while let Some((before, after)) = rest.split_once(self.mark.as_str()) {
            // the line break before "ended" is ours too
            let is_end = after.starts_with(" ended");
            out.push_str(if is_end { before.strip_suffix('\n').unwrap_or(before) } else { before });
            rest = after.split_once('\n').map_or("", |(_, after)| after);
        }
        out.push_str(rest);
        clean(&out)
    }

    /// Removes what came before the script began: the words of the `ssh` that logged in.
    pub(super) fn forget_login(&self, stderr: &mut Tail) {
        let begins = format!("{} begins ", self.mark);
        // the end of a long stream has it no more
        if let Some(at) = stderr.tail.windows(begins.len()).position(|bytes| bytes == begins.as_bytes()) {
            stderr.tail.drain(..at);
        }
    }

    /// Makes the output of a script that began and ended.
    pub(super) fn output(&self, status: i32, stdout: Vec<u8>, stderr: &Tail) -> Output {
        Output { status, stdout, stderr: self.said(stderr) }
    }

    /// Makes the error for a script that never began: sudo's, where it was sudo's turn, else the login shell's, which
    /// runs nothing.
    pub(super) fn never_began(&self, host: String, stderr: &Tail) -> Error {
        let said = one_line(&self.said(stderr));
        if String::from_utf8_lossy(&stderr.head).contains(&format!("{} asks\n", self.mark)) {
            let said = if said.is_empty() { "sudo said nothing".to_owned() } else { said };
            Error::Sudo { host, said }
        } else {
            let said = if said.is_empty() { "its login shell runs nothing".to_owned() } else { said };
            Error::Authentication { host, said }
        }
    }
}

/// The beginning and the end of a stream that may be long.
#[derive(Debug, Default)]
pub(super) struct Tail {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Tail {
    /// Room for a banner, sudo's lecture and what a login shell says before our first word.
    const HEAD: usize = 64 << 10;
    const TAIL: usize = 64 << 10;

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let room = Self::HEAD.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > 2 * Self::TAIL {
            self.trim();
        }
    }

    /// Returns whether so much was said that a first word of ours would not be known any more.
    pub(super) fn has_full_head(&self) -> bool {
        self.head.len() == Self::HEAD
    }

    /// Returns the end of it, without what could drive the operator's terminal.
    pub(super) fn text(&self) -> String {
        clean(&String::from_utf8_lossy(&self.tail))
    }

    pub(super) fn trim(&mut self) {
        let surplus = self.tail.len().saturating_sub(Self::TAIL);
        self.tail.drain(..surplus);
    }
}

/// Removes control characters, which could drive the operator's terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).collect()
}

/// Joins the lines that say something.
pub(super) fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped() -> Wrapped {
        let script = Script { text: "true".into(), is_root: false, timeout: Duration::from_secs(1) };
        Wrapped::new(&script, None).unwrap()
    }

    #[test]
    fn our_own_words_are_taken_out_of_what_a_script_said() {
        let wrapped = wrapped();
        let mut stderr = Tail::default();
        stderr.push(
            format!("banner\n{0} begins 42 43\nred \x1b[31malert\n{0} ended\n", wrapped.mark).as_bytes(),
        );
        assert_eq!(wrapped.groups(&stderr), [42, 43]);
        assert!(wrapped.is_own_255(&stderr));
        assert_eq!(wrapped.said(&stderr), "banner\nred [31malert");
        wrapped.forget_login(&mut stderr);
        assert_eq!(wrapped.said(&stderr), "red [31malert");
        wrapped.forget_login(&mut stderr);
        assert_eq!(wrapped.said(&stderr), "red [31malert");
    }

    #[test]
    fn a_script_that_says_much_is_kept_to_its_last_64_kib_and_is_known_to_have_begun() {
        let wrapped = wrapped();
        let mut stderr = Tail::default();
        stderr.push(format!("{} begins 7\n", wrapped.mark).as_bytes());
        for n in 0..100_000 {
            stderr.push(format!("line {n}\n").as_bytes());
        }
        stderr.trim();
        assert_eq!(wrapped.groups(&stderr), [7]);
        let said = wrapped.said(&stderr);
        assert!(said.len() <= 64 << 10 && said.ends_with("line 99999\n"), "{}", said.len());
    }

    #[test]
    fn a_script_too_long_for_an_argument_is_refused_here() {
        let script = Script { text: "#".repeat(130 << 10), is_root: false, timeout: Duration::from_secs(1) };
        assert!(matches!(Wrapped::new(&script, None), Err(Error::Here { .. })));
    }
}
