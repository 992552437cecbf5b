//! Tells the service manager how we are (the protocol of `sd_notify(3)`); without one,
//! does nothing.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager's socket.
#[derive(Debug)]
pub(super) struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// Finds the service manager in the environment, where it says where it listens.
    #[expect(clippy::disallowed_methods, reason = "the service manager speaks through the environment only")]
    pub(super) fn from_env() -> Self {
        let watchdog = std::env::var("WATCHDOG_USEC").ok();
        Self::new(std::env::var("NOTIFY_SOCKET").ok().as_deref(), watchdog.as_deref())
    }

    fn new(socket: Option<&str>, watchdog_usec: Option<&str>) -> Self {
        let address = socket.and_then(|name| match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(name).ok(),
        });
        let socket = address.and_then(|address| {
            let socket = UnixDatagram::unbound().ok()?;
            // a manager that does not read must not hold up clients
            socket.set_nonblocking(true).ok()?;
            Some((socket, address))
        });
        let usec = watchdog_usec.and_then(|usec| usec.parse().ok()).filter(|usec| *usec > 0);
        // twice as often as asked for, as sd_watchdog_enabled(3) advises
        Self { socket, watchdog: usec.map(|usec: u64| Duration::from_micros(usec) / 2) }
    }

    /// Returns how often [`Notify::alive`] has to be called.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Says that requests are taken.
    pub(super) fn ready(&self) {
        self.send("READY=1\nSTATUS=taking requests");
    }

    /// Says that the definition is being read again; [`Notify::ready`] ends it.
    pub(super) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// Says that we still run, where somebody watches.
    pub(super) fn alive(&self) {
        if self.watchdog.is_some() {
            self.send("WATCHDOG=1");
        }
    }

    /// Says that we finish what runs and then end.
    pub(super) fn stopping(&self) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_hears_each_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::new(path.to_str(), Some("3000000"));
        assert_eq!(notify.watchdog(), Some(Duration::from_millis(1500)));
        notify.ready();
        notify.reloading();
        notify.alive();
        notify.stopping();
        let mut heard = Vec::new();
        for _ in 0..4 {
            let mut buffer = [0; 200];
            let length = manager.recv(&mut buffer).unwrap();
            heard.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
        assert!(heard[0].starts_with("READY=1\n"));
        let stamp = heard[1].strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(stamp.parse::<u64>().unwrap() > 0);
        assert_eq!(heard[2], "WATCHDOG=1");
        assert!(heard[3].starts_with("STOPPING=1\n"));
    }

    #[test]
    fn without_a_service_manager_nothing_is_said() {
        let notify = Notify::new(None, None);
        notify.ready();
        assert_eq!(notify.watchdog(), None);
    }
}
