//! Hosts over SSH, by the system's own `ssh`.
//!
//! The system's `ssh` is what people's fleets already work with: aliases, jump hosts,
//! agents, FIDO keys and certificates are as in a terminal, and security updates are the
//! operating system's. The `openssh` crate wraps the same program; it is not used because
//! it keeps what we must decide and tell apart to itself: which options are forced over
//! the user's configuration, what `ssh` said when it failed, and whether a broken
//! script's status was its own or ssh's.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::process::Command;
use tokio::sync::{Mutex, MutexGuard, Semaphore, SemaphorePermit};

use super::master::{Hold, PERSIST};
use super::process::{self, End, Io, Left, Victim};
use super::shell::{KILLING, Wrapped, one_line};
use super::socket_dir::SocketDir;
use super::{Connection, Error, Output, Script, Stdin, SudoPassword, Talk, config, diagnosis};

/// sshd's `MaxSessions` is 10 unless somebody changed it; two are left for the user.
const MOST_SESSIONS: usize = 8;
/// Printed by a session that found no master, so that nothing was run.
const NO_MASTER: &str = "bramble-has-no-master";
/// Said by an `ssh` that logged in and left a master behind, which had gone before it became the master's client.
const NO_NEW_MASTER: &str = "Failed to connect to new control master";
/// What a session says to which the host gave no room beside those that run: sshd's `MaxSessions`.
const NO_ROOM: &str = "Session open refused by peer";
/// How often a login is looked for. Only those wait for it who come while it is made.
const TICK: Duration = Duration::from_millis(25);
/// What a session depends on, whatever the user's configuration says. OpenSSH knows these since 8.7, of 2021.
pub(super) const SESSION: [&str; 3] = ["SessionType=default", "StdinNull=no", "ForkAfterAuthentication=no"];

/// Whom to log in to. What is left out comes from `~/.ssh/config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// A name, an address, or an alias of `~/.ssh/config`.
    pub address: String,
    /// The login.
    pub user: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// The only private key to offer. `~/` is the login's home, as `ssh` has it.
    pub identity: Option<PathBuf>,
}

/// How to log in: the same for all hosts of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Take and remember the key of a host that was never seen.
    pub is_new_host_key_accepted: bool,
    /// The file of known hosts, in place of the user's and the system's.
    pub known_hosts: Option<PathBuf>,
    /// The configuration, in place of the user's and the system's.
    pub config: Option<PathBuf>,
    /// Where control sockets may be made: `$XDG_RUNTIME_DIR`. None: the temporary folder.
    pub runtime_dir: Option<PathBuf>,
    /// How long connecting may take, the exchange of keys included.
    pub connect_timeout: Duration,
    /// Put these ciphers before the others: [`fast_cipher`].
    pub first_ciphers: Option<String>,
    /// Variables of the environment that `ssh` does not get, nor what its configuration starts: they have secrets.
    pub withheld: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            is_new_host_key_accepted: false,
            known_hosts: None,
            config: None,
            runtime_dir: None,
            // a Pi that is swapping answers after some seconds
            connect_timeout: Duration::from_secs(10),
            first_ciphers: None,
            withheld: Vec::new(),
        }
    }
}

/// Returns the cipher that a host's processor is fastest at. With AES instructions (Pi 5)
/// that is AES-GCM, twice the rate of `ChaCha20`; without (Pi 4), `ChaCha20`, 4.5 times the
/// rate of AES.
pub fn fast_cipher(has_aes: bool) -> &'static str {
    if has_aes { "aes128-gcm@openssh.com" } else { "chacha20-poly1305@openssh.com" }
}

/// Returns whether this machine has AES instructions.
pub fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

/// One host, over one connection that all scripts share. The first script opens it with the `ssh` that it is sent
/// by. It stays, also without work, until [`Connection::close`] or until this is dropped, and ends within two seconds
/// of an operator that was killed. One that broke meanwhile is opened again by the next script.
#[derive(Debug)]
pub struct Ssh {
    pub(super) target: Target,
    pub(super) settings: Settings,
    pub(super) host: String,
    /// In the folder below.
    config: PathBuf,
    /// Locked while a connection is opened.
    master: Mutex<Master>,
    /// 0700, with the control socket.
    pub(super) dir: SocketDir,
    sessions: Semaphore,
    sudo: SudoPassword,
    /// Our `ssh` does not know [`SESSION`].
    is_old: AtomicBool,
}

/// The `ssh` that is logged in, where one is.
#[derive(Debug, Default)]
struct Master {
    hold: Option<Hold>,
    /// How many there were before it. Each has a socket of its own: it removes that at its end, which may be late.
    number: u8,
}

impl Master {
    fn is_up(&self) -> bool {
        self.hold.as_ref().is_some_and(Hold::is_up)
    }

    /// Makes room for the next.
    fn forget(&mut self) {
        self.hold = None;
        self.number = (self.number + 1) % 26;
    }
}

impl Ssh {
    /// Prepares the way to `target`; nothing is connected yet.
    pub fn new(mut target: Target, settings: Settings) -> Result<Self, Error> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]%".contains(c);
        if target.address.starts_with('-')
            || target.address.is_empty()
            || !target.address.chars().all(is_plain)
        {
            let source = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(Error::Here { doing: format!("{:?} is not an address", target.address), source });
        }
        let dir = SocketDir::new(settings.runtime_dir.as_deref()).map_err(|source| Error::Here {
            doing: "cannot make a folder for the control socket".to_owned(),
            source,
        })?;
        let config = config::write(dir.path(), &settings).map_err(folder_failed)?;
        target.identity = target.identity.map(|path| config::in_home(&path, config::home().as_deref()));
        let host = format!(
            "{}{}{}",
            target.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default(),
            target.address,
            target.port.map(|port| format!(":{port}")).unwrap_or_default(),
        );
        let sessions = Semaphore::new(MOST_SESSIONS);
        let sudo = SudoPassword::default();
        let (master, is_old) = (Mutex::default(), AtomicBool::new(false));
        Ok(Self { target, settings, host, config, master, dir, sessions, sudo, is_old })
    }

    /// Gives sudo this password where it asks for one.
    #[must_use]
    pub fn with_sudo(mut self, sudo: SudoPassword) -> Self {
        self.sudo = sudo;
        self
    }

    fn socket(&self, master: &Master) -> PathBuf {
        self.dir.path().join(char::from(b'a' + master.number).to_string())
    }

    /// Returns `ssh` with what a new connection needs, whatever the user's configuration
    /// says: the first value that `ssh` sees is the one it takes.
    pub(super) fn connecting(&self) -> Command {
        let mut ssh = program(&self.settings);
        ssh.arg("-F").arg(&self.config).args(["-o", "LogLevel=ERROR"]);
        // as the file says; these are seen in a list of processes
        for option in config::forced(&self.settings) {
            ssh.arg("-o").arg(option);
        }
        if let Some(ciphers) = &self.settings.first_ciphers {
            ssh.arg("-o").arg(format!("Ciphers=^{ciphers}"));
        }
        if let Some(user) = &self.target.user {
            ssh.arg("-l").arg(user);
        }
        if let Some(port) = self.target.port {
            ssh.arg("-p").arg(port.to_string());
        }
        if let Some(identity) = &self.target.identity {
            ssh.arg("-i").arg(identity).args(["-o", "IdentitiesOnly=yes"]);
        }
        ssh
    }

    /// Returns what a session depends on, as far as our `ssh` is known to know it.
    fn session_options(&self) -> &'static [&'static str] {
        if self.is_old.load(Ordering::Relaxed) { &[] } else { &SESSION }
    }

    /// Returns [`Self::connecting`] with options that go before those.
    pub(super) fn connecting_with(&self, options: &[&str]) -> Command {
        let mut ssh = program(&self.settings);
        for option in options {
            ssh.args(["-o", option]);
        }
        ssh.args(self.connecting().as_std().get_args());
        ssh
    }

    /// Returns `ssh` as a client of the master. It needs no configuration, and it must
    /// never connect by itself.
    fn through_master(&self, socket: &Path, wrapped: &Wrapped) -> Command {
        let mut ssh = program(&self.settings);
        ssh.args(["-F", "none", "-T", "-o", "ControlMaster=no", "-o", "LogLevel=ERROR"]);
        // sh -c: its end of the pipe stays open until it has spoken
        ssh.args(["-o", &format!("ProxyCommand=sh -c 'echo {NO_MASTER} >&2'")]);
        ssh.arg("-S").arg(control_path(socket)).arg("--").arg(&self.target.address).arg(wrapped.line());
        ssh
    }

    /// Runs one session. None: nothing was sent, and the next try may go better.
    async fn start(&self, wrapped: &Wrapped, script: &Script, io: &mut Io) -> Option<Result<Output, Error>> {
        let mut master = self.master.lock().await;
        if !master.is_up() {
            master.forget();
            if !self.is_old.load(Ordering::Relaxed) {
                return self.open_with(master, wrapped, script, io).await;
            }
            if let Err(error) = self.open(&mut master).await {
                return Some(Err(error));
            }
        }
        let (socket, number) = (self.socket(&master), master.number);
        drop(master);
        let result = self.session(&socket, wrapped, script, io).await;
        if result.is_none() {
            self.forget(number).await;
        }
        result
    }

    /// Forgets a master that is not there, unless there is another one since.
    async fn forget(&self, number: u8) {
        let mut master = self.master.lock().await;
        if master.number == number {
            master.forget();
        }
    }

    /// Opens the connection with the session of a script, which saves a program: its `ssh` logs in, leaves a master
    /// behind and becomes the master's client, so that input, output, status and end are those of any session.
    async fn open_with(
        &self,
        master: MutexGuard<'_, Master>,
        wrapped: &Wrapped,
        script: &Script,
        io: &mut Io,
    ) -> Option<Result<Output, Error>> {
        if let Err(source) = self.dir.forget() {
            return Some(Err(folder_failed(source)));
        }
        let socket = self.socket(&master);
        let mut ssh = self.connecting_with(&SESSION);
        ssh.args(["-M", "-o", PERSIST]).arg("-S").arg(control_path(&socket));
        ssh.arg("--").arg(&self.target.address).arg(wrapped.line());
        let mut master = Some(master);
        let login = self.login_limit();
        let over = async {
            let logged_in = async {
                loop {
                    if let Some(hold) = Hold::take(&socket) {
                        // others may go through it from now on
                        return master.take().map(|mut master| master.hold = Some(hold));
                    }
                    tokio::time::sleep(TICK).await;
                }
            };
            if tokio::time::timeout(login, logged_in).await.is_ok() {
                tokio::time::sleep(script.timeout).await;
            }
        };
        // what the user's ProxyCommand started is in its group, and the master's from the login on
        let victim = Victim::Program;
        let (end, mut left) = process::run_until(ssh, Some(wrapped), io, over, victim).await;
        if let Some(master) = &mut master {
            master.hold = Hold::take(&socket);
        }
        // a socket is made once the host has let us in
        let was_in = master.as_ref().is_none_or(|master| master.hold.is_some()) || self.dir.is_touched();
        drop(master);
        let has_begun = wrapped.has_begun(&left.stderr);
        if was_in || has_begun {
            if has_begun {
                wrapped.forget_login(&mut left.stderr);
            }
            return self.conclude(&socket, wrapped, script, io, (end, left)).await;
        }
        let said = left.stderr.text();
        match end {
            // of ssh itself, or of a signal
            End::Status(128..) if is_of_old(&said) => {
                self.is_old.store(true, Ordering::Relaxed);
                None
            }
            End::Status(128..) => Some(Err(self.login_failed(said).await)),
            End::TimedOut => Some(Err(self.login_failed(late(&said, login)).await)),
            _ => self.conclude(&socket, wrapped, script, io, (end, left)).await,
        }
    }

    /// Opens the connection without a session.
    async fn open(&self, master: &mut Master) -> Result<(), Error> {
        let socket = self.socket(master);
        let mut ssh = self.connecting();
        // -f: it goes to the background once it is logged in, so that its end says how it went
        ssh.args(["-M", "-N", "-f", "-o", PERSIST]).arg("-S").arg(control_path(&socket));
        let (status, said) = self.connect(ssh, "said", None).await?;
        if status != 0 {
            return Err(self.login_failed(said).await);
        }
        master.hold = Hold::take(&socket);
        Ok(())
    }

    /// Makes the error for an `ssh` that came to no login.
    async fn login_failed(&self, said: String) -> Error {
        let said = if diagnosis::is_little(&said) {
            self.in_more_words(&["-o", "LogLevel=INFO"]).await.unwrap_or(said)
        } else {
            said
        };
        let is_unknown = diagnosis::is_unknown_key(&said);
        let fingerprint = if is_unknown { self.shown_fingerprint().await } else { None };
        diagnosis::of_login(self.host.clone(), &said, fingerprint)
    }

    /// Returns how long a login may take: `ssh`'s own limit holds for each of its steps, and for each jump host anew.
    fn login_limit(&self) -> Duration {
        self.settings.connect_timeout * 3 + Duration::from_secs(5)
    }

    /// Connects once more to learn which key the host shows: `ssh` itself asks, so that
    /// jump hosts and the choice among several keys are as they were.
    async fn shown_fingerprint(&self) -> Option<String> {
        // the ssh of a jump host is given this, and no option
        diagnosis::fingerprint(&self.in_more_words(&["-v"]).await?)
    }

    /// Connects once more, for a connection that fails, and returns what `ssh` says of it. One that does not fail this
    /// time, since the `ssh` before was only killed, ends at once.
    async fn in_more_words(&self, how: &[&str]) -> Option<String> {
        let mut ssh = program(&self.settings);
        // the first that says so sets the level
        ssh.args(how);
        for option in self.session_options() {
            ssh.args(["-o", option]);
        }
        ssh.args(self.connecting().as_std().get_args()).args(["-T", "-S", "none"]);
        let (status, said) = self.connect(ssh, "verbose", Some("exit")).await.ok()?;
        (status != 0).then_some(said)
    }

    /// Runs an `ssh` that connects, and has the host do what is `asked`; returns its status and its words. These go to a
    /// file: a pipe would stay open in the master.
    async fn connect(
        &self,
        mut ssh: Command,
        words: &str,
        asked: Option<&str>,
    ) -> Result<(i32, String), Error> {
        let path = self.dir.path().join(words);
        let here = |doing: &str| {
            let doing = doing.to_owned();
            move |source| Error::Here { doing, source }
        };
        let file = File::create(&path).map_err(folder_failed)?;
        ssh.arg("--").arg(&self.target.address).args(asked);
        ssh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(file));
        ssh.process_group(0).kill_on_drop(true);
        let mut child = ssh.spawn().map_err(here("cannot start ssh: is the OpenSSH client installed?"))?;
        let limit = self.login_limit();
        let ended = tokio::time::timeout(limit, child.wait()).await;
        let said = std::fs::read_to_string(&path).unwrap_or_default();
        match ended {
            Ok(status) => Ok((status.map_err(here("cannot wait for ssh"))?.code().unwrap_or(255), said)),
            Err(_) => Ok((255, late(&said, limit))),
        }
    }

    /// Waits for one of the sessions that a connection may have at a time.
    async fn permit(&self) -> Result<SemaphorePermit<'_>, Error> {
        let here = |closed| Error::Here {
            doing: "the connection is closed".to_owned(),
            source: std::io::Error::other(closed),
        };
        self.sessions.acquire().await.map_err(here)
    }

    fn is_down(&self) -> Error {
        Error::Lost { host: self.host.clone(), said: "the connection does not stay up".into() }
    }

    /// Runs one session through a master. None: it had gone before the script was sent.
    async fn session(
        &self,
        socket: &Path,
        wrapped: &Wrapped,
        script: &Script,
        io: &mut Io,
    ) -> Option<Result<Output, Error>> {
        let ssh = self.through_master(socket, wrapped);
        let ended = process::run(ssh, Some(wrapped), io, script.timeout).await;
        self.conclude(socket, wrapped, script, io, ended).await
    }

    /// Says how a session of the master went. None: it found no master.
    async fn conclude(
        &self,
        socket: &Path,
        wrapped: &Wrapped,
        script: &Script,
        io: &mut Io,
        ended: (End, Left),
    ) -> Option<Result<Output, Error>> {
        if has_no_room(wrapped, &ended) {
            // those that run go on, and may do so for long
            return Some(self.run_apart(socket, wrapped, script, io).await);
        }
        let (end, left) = &ended;
        if matches!(end, End::Status(255)) && !wrapped.has_begun(&left.stderr) {
            let said = wrapped.said(&left.stderr);
            if said.contains(NO_MASTER) || said.contains(NO_NEW_MASTER) {
                return None;
            }
        }
        Some(self.end(socket, wrapped, script, ended).await)
    }

    /// Runs one session over a connection of its own.
    async fn run_apart(
        &self,
        socket: &Path,
        wrapped: &Wrapped,
        script: &Script,
        io: &mut Io,
    ) -> Result<Output, Error> {
        let (end, mut left) = self.session_apart(wrapped, script.timeout, io).await;
        if wrapped.has_begun(&left.stderr) {
            wrapped.forget_login(&mut left.stderr);
        } else if matches!(end, End::Status(255)) {
            let said = left.stderr.text();
            if said.contains("open failed") {
                let said = "it permits no session; raise MaxSessions in its sshd_config".to_owned();
                return Err(Error::Refused { host: self.host.clone(), said });
            }
            return Err(self.login_failed(said).await);
        }
        self.end(socket, wrapped, script, (end, left)).await
    }

    async fn session_apart(&self, wrapped: &Wrapped, limit: Duration, io: &mut Io) -> (End, Left) {
        // it says at this level why there is none
        let mut options = vec!["LogLevel=INFO", "ControlMaster=no"];
        options.extend(self.session_options());
        let mut ssh = self.connecting_with(&options);
        ssh.args(["-S", "none", "--"]).arg(&self.target.address).arg(wrapped.line());
        process::run(ssh, Some(wrapped), io, self.login_limit() + limit).await
    }

    /// Ends on the host what did not end by itself.
    async fn kill(&self, socket: &Path, kill: &Wrapped) {
        let nothing = &mut Io::Whole(Stdin::Empty);
        let ended = process::run(self.through_master(socket, kill), Some(kill), nothing, KILLING).await;
        if has_no_room(kill, &ended) {
            self.session_apart(kill, KILLING, nothing).await;
        }
    }

    /// Says how a session went that was sent, and ends on the host what did not end by itself.
    async fn end(
        &self,
        socket: &Path,
        wrapped: &Wrapped,
        script: &Script,
        (end, Left { stdout, stderr }): (End, Left),
    ) -> Result<Output, Error> {
        let host = self.host.clone();
        match end {
            End::Status(255) if !wrapped.is_own_255(&stderr) => {
                let said = one_line(&wrapped.said(&stderr));
                let said = if said.is_empty() { "ssh said nothing".to_owned() } else { said };
                Err(Error::Lost { host, said })
            }
            // no shell ends so by itself, and ssh says 255 of one that a signal ended
            End::Status(status @ 129..=159) if !wrapped.has_begun(&stderr) => {
                Err(Error::Lost { host, said: format!("ssh was ended here by signal {}", status - 128) })
            }
            End::Status(_) if !wrapped.has_begun(&stderr) => Err(wrapped.never_began(host, &stderr)),
            End::Status(status) => Ok(wrapped.output(status, stdout, &stderr)),
            End::TimedOut | End::TooMuch => {
                // our end is closed; the script's other end would go on until it reads or writes
                if let Some(kill) = wrapped.killer(&stderr) {
                    self.kill(socket, &kill).await;
                }
                Err(match end {
                    End::TooMuch => Error::TooMuch { host },
                    _ => Error::TimedOut { host, after: script.timeout },
                })
            }
            End::Here(doing, source) => Err(Error::Here { doing, source }),
        }
    }
}

/// Returns whether the host gave a session no room, so that its script was not sent.
fn has_no_room(wrapped: &Wrapped, (end, left): &(End, Left)) -> bool {
    matches!(end, End::Status(255))
        && !wrapped.has_begun(&left.stderr)
        && wrapped.said(&left.stderr).contains(NO_ROOM)
}

/// Returns whether an `ssh` does not know [`SESSION`].
pub(super) fn is_of_old(said: &str) -> bool {
    said.contains("Bad configuration option: sessiontype")
}

/// Returns the path of a socket as `ssh -S` reads it.
fn control_path(socket: &Path) -> String {
    socket.display().to_string().replace('%', "%%")
}

fn folder_failed(source: std::io::Error) -> Error {
    Error::Here { doing: "cannot write in the folder of the control socket".to_owned(), source }
}

fn late(said: &str, limit: Duration) -> String {
    format!("{said}\nno login within {} s", limit.as_secs())
}

/// Returns `ssh`, which asks nothing on the terminal. Nor does one that the user's `ProxyCommand` starts.
fn program(settings: &Settings) -> Command {
    let mut ssh = Command::new("ssh");
    for name in &settings.withheld {
        ssh.env_remove(name);
    }
    ssh.env("LC_ALL", "C").env("SSH_ASKPASS_REQUIRE", "force");
    ssh
}

#[async_trait]
impl Connection for Ssh {
    async fn run(&self, script: &Script, stdin: Stdin) -> Result<Output, Error> {
        let wrapped = Wrapped::new(script, self.sudo.get())?;
        let _permit = self.permit().await?;
        let io = &mut Io::Whole(stdin);
        if let Some(result) = self.start(&wrapped, script, io).await {
            return result;
        }
        self.start(&wrapped, script, io).await.unwrap_or_else(|| Err(self.is_down()))
    }

    async fn talk(&self, script: &Script, talk: Talk) -> Result<Output, Error> {
        let wrapped = Wrapped::new(script, self.sudo.get())?;
        let _permit = self.permit().await?;
        let io = &mut Io::Talk(talk);
        // where there was no master, nothing has been said yet
        for _ in 0..2 {
            let mut master = self.master.lock().await;
            if !master.is_up() {
                master.forget();
                self.open(&mut master).await?;
            }
            let (socket, number) = (self.socket(&master), master.number);
            drop(master);
            if let Some(result) = self.session(&socket, &wrapped, script, io).await {
                return result;
            }
            self.forget(number).await;
        }
        Err(self.is_down())
    }

    fn describe(&self) -> String {
        self.host.clone()
    }

    async fn close(&self) {
        self.master.lock().await.forget();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::socket_dir::LONGEST_SOCKET;
    use super::*;

    fn target(address: &str) -> Target {
        Target { address: address.into(), user: None, port: None, identity: None }
    }

    #[test]
    fn what_is_no_address_never_reaches_ssh() {
        for bad in ["", "-oProxyCommand=x", "a b", "a;b", "$(x)", "a\nb", "a/b"] {
            assert!(matches!(Ssh::new(target(bad), Settings::default()), Err(Error::Here { .. })), "{bad}");
        }
        for good in ["kitchen", "kitchen.local", "192.168.1.2", "fe80::1%eth0", "my_alias"] {
            assert!(Ssh::new(target(good), Settings::default()).is_ok(), "{good}");
        }
    }

    #[test]
    fn the_control_socket_is_in_a_folder_of_our_own_with_a_path_that_fits() {
        let deep = tempfile::tempdir().unwrap();
        let long = deep.path().join("x".repeat(90));
        std::fs::create_dir(&long).unwrap();
        for dir in [deep.path(), &long] {
            let settings = Settings { runtime_dir: Some(dir.to_owned()), ..Settings::default() };
            let ssh = Ssh::new(target("pi"), settings).unwrap();
            let socket = ssh.socket(&Master::default());
            assert!(socket.as_os_str().len() <= LONGEST_SOCKET, "{socket:?}");
            assert_eq!(socket.starts_with(deep.path()), dir == deep.path());
            let mode = std::fs::metadata(ssh.dir.path()).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
    }

    #[test]
    fn forwards_and_local_commands_are_off_whatever_the_configuration_says() {
        let ssh = Ssh::new(target("pi"), Settings::default()).unwrap();
        let command = ssh.connecting();
        let args: Vec<&str> = command.as_std().get_args().filter_map(|arg| arg.to_str()).collect();
        for forced in [
            "BatchMode=yes",
            "ForwardAgent=no",
            "ForwardX11=no",
            "ClearAllForwardings=yes",
            "PermitLocalCommand=no",
            "StrictHostKeyChecking=yes",
        ] {
            assert!(args.contains(&forced), "{forced}");
        }
    }
}
