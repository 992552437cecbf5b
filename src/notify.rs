//! What a daemon tells the service manager that started it, and gets from it: the protocols of `sd_notify(3)` and
//! `sd_listen_fds(3)`. Where nobody listens, nothing is said.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr};

/// The service manager's socket. The default is silent.
#[derive(Debug, Default)]
pub struct Notify {
    socket: Option<(UnixDatagram, SocketAddrUnix)>,
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

    /// Returns whether a service manager listens.
    pub fn is_heard(&self) -> bool {
        self.socket.is_some()
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

    /// Says that the process `pid` is the service from now on, and takes requests.
    pub fn succeeded(&self, pid: u32, status: &str) {
        self.send(&format!("MAINPID={pid}\nREADY=1\nSTATUS={}", one_line(status)));
    }

    /// Leaves the socket that clients come in by with the service manager, which gives it to the next process of the
    /// service ([`kept_listener`]): until then, clients wait in its queue. One that was left before is replaced.
    pub fn keep(&self, listener: &impl AsFd) {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={KEPT}"));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [listener.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        self.send_with(&format!("FDSTORE=1\nFDNAME={KEPT}"), &mut ancillary);
    }

    fn send(&self, text: &str) {
        self.send_with(text, &mut SendAncillaryBuffer::default());
    }

    fn send_with(&self, text: &str, ancillary: &mut SendAncillaryBuffer<'_, '_, '_>) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) =
                sendmsg_addr(socket, address, &[IoSlice::new(text.as_bytes())], ancillary, SendFlags::empty())
        {
            tracing::warn!(%error, "the service manager does not listen");
        }
    }
}

/// The name of the socket that is left with the service manager.
const KEPT: &str = "door";

/// Returns the socket that the process before this one left with the service manager ([`Notify::keep`]).
///
/// # Errors
/// Where what it gave us is no socket that listens.
pub fn kept_listener() -> io::Result<Option<TcpListener>> {
    listenfd::ListenFd::from_env().take_tcp_listener(0)
}

fn open(path: &OsStr) -> Option<(UnixDatagram, SocketAddrUnix)> {
    let address = match path.as_bytes().split_first()? {
        #[cfg(target_os = "linux")]
        (b'@', name) => SocketAddrUnix::new_abstract_name(name),
        _ => SocketAddrUnix::new(path),
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
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;

    #[test]
    fn a_socket_is_left_with_the_service_manager_in_place_of_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let notify = Notify::new(Some(path.into()), None);
        assert!(notify.is_heard());
        notify.keep(&listener);

        let mut buffer = [0; 100];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"FDSTOREREMOVE=1\nFDNAME=door");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let slices = &mut [io::IoSliceMut::new(&mut buffer)];
        let length = recvmsg(&manager, slices, &mut ancillary, RecvFlags::empty()).unwrap().bytes;
        assert_eq!(&buffer[..length], b"FDSTORE=1\nFDNAME=door");
        let Some(RecvAncillaryMessage::ScmRights(mut descriptors)) = ancillary.drain().next() else {
            panic!("it came without a socket");
        };
        let kept = TcpListener::from(descriptors.next().unwrap());
        assert_eq!(kept.local_addr().unwrap(), listener.local_addr().unwrap());
    }

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
        notify.succeeded(77, "taking requests");
        assert_eq!(hear(), "MAINPID=77\nREADY=1\nSTATUS=taking requests");
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
