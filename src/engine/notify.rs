//! What systemd is told: the protocol of `sd_notify(3)`, over a datagram socket.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to whoever started us; silent where nobody listens.
#[derive(Debug, Default)]
pub(super) struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often the watchdog wants to hear of us.
    pub(super) watchdog: Option<Duration>,
}

impl Notify {
    /// Reads `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    #[expect(clippy::disallowed_methods, reason = "systemd's protocol is in the environment")]
    pub(super) fn from_environment() -> Self {
        let microseconds = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        Self {
            socket: std::env::var_os("NOTIFY_SOCKET").and_then(|path| Self::open(&path)),
            watchdog: microseconds.filter(|&n| n > 0).map(Duration::from_micros),
        }
    }

    fn open(path: &OsStr) -> Option<(UnixDatagram, SocketAddr)> {
        let address = match path.as_bytes().split_first()? {
            (b'@', name) => SocketAddr::from_abstract_name(name),
            _ => SocketAddr::from_pathname(path),
        };
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        Some((socket, address.ok()?))
    }

    /// Sends `message`: `READY=1`, lines separated by `\n`. A failure is not ours to mend.
    pub(super) fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.socket {
            let _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        let notify = Notify { socket: Notify::open(path.as_os_str()), watchdog: None };
        notify.send("READY=1\nSTATUS=here");
        let mut buffer = [0; 64];
        let length = systemd.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1\nSTATUS=here");
        Notify::default().send("nobody hears");
    }
}
