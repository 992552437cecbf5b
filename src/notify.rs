//! What a daemon tells the service manager that started it: the protocol of `sd_notify(3)`.
//! Where nobody listens, nothing is said.

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager's socket. The default is silent.
#[derive(Debug, Default)]
pub struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// Finds the service manager in `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    #[expect(clippy::disallowed_methods, reason = "the service manager speaks through the environment only")]
    pub fn from_environment() -> Self {
        let microseconds = std::env::var("WATCHDOG_USEC").ok();
        Self::new(std::env::var_os("NOTIFY_SOCKET"), microseconds.as_deref())
    }

    fn new(socket: Option<OsString>, watchdog_usec: Option<&str>) -> Self {
        let microseconds = watchdog_usec.and_then(|text| text.parse().ok()).filter(|&n: &u64| n > 0);
        Self {
            socket: socket.and_then(|path| open(&path)),
            // twice as often as asked for, as sd_watchdog_enabled(3) advises
            watchdog: microseconds.map(|n| Duration::from_micros(n) / 2),
        }
    }

    /// Returns how often [`Notify::alive`] has to be called; none when nobody watches.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Says what is going on, for whoever reads `systemctl status`.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", one_line(status)));
    }

    /// Says that requests are taken.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// Says that the definition is being read again; [`Notify::ready`] ends it.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// Says that we still run, where somebody watches.
    pub fn alive(&self) {
        if self.watchdog.is_some() {
            self.send("WATCHDOG=1");
        }
    }

    /// Says that we finish what runs and then end.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=finishing what runs");
    }

    fn send(&self, text: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::warn!(%error, "the service manager does not listen");
        }
    }
}

fn open(path: &OsStr) -> Option<(UnixDatagram, SocketAddr)> {
    let address = match path.as_bytes().split_first()? {
        (b'@', name) => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(path),
    };
    let socket = UnixDatagram::unbound().ok()?;
    // a manager that does not read must not hold up clients
    socket.set_nonblocking(true).ok()?;
    Some((socket, address.ok()?))
}

/// Each line of a message is a statement of its own.
fn one_line(status: &str) -> String {
    status.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_hears_each_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let hear = || {
            let mut buffer = [0; 200];
            let length = manager.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        let notify = Notify::new(Some(path.into()), Some("3000000"));
        assert_eq!(notify.watchdog(), Some(Duration::from_millis(1500)));
        notify.status("loading chat");
        assert_eq!(hear(), "STATUS=loading chat");
        notify.ready("serving chat\nREADY=0");
        assert_eq!(hear(), "READY=1\nSTATUS=serving chat READY=0");
        notify.reloading();
        let heard = hear();
        let stamp = heard.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(stamp.parse::<u64>().unwrap() > 0);
        notify.alive();
        assert_eq!(hear(), "WATCHDOG=1");
        notify.stopping();
        assert!(hear().starts_with("STOPPING=1\n"));
    }

    #[test]
    fn without_a_service_manager_nothing_is_said() {
        for notify in [Notify::default(), Notify::new(None, Some("0")), Notify::new(Some("".into()), None)] {
            notify.ready("taking requests");
            assert_eq!(notify.watchdog(), None);
        }
    }

    #[test]
    fn an_abstract_socket_is_one_too() {
        let name = format!("bramble-notify-{}", std::process::id());
        let manager =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes()).unwrap()).unwrap();
        let notify = Notify::new(Some(format!("@{name}").into()), None);
        notify.alive();
        notify.ready("here");
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1\nSTATUS=here", "and nobody watches");
    }
}
