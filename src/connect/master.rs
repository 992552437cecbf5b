//! The master of a connection: the `ssh` that is logged in. It is spoken to over its control socket, in the few
//! words of OpenSSH's PROTOCOL.mux that `ssh -O` would say, because a program costs as much as the rest of a session.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The master ends by itself after this many seconds without a session and without us, or up to one less: when we were
/// killed, or dropped before we came to hold it. 0 would be never. It counts by a clock of whole seconds, so that 1 may
/// be over before the client that it was started for has come to it.
pub(super) const PERSIST: &str = "ControlPersist=2";

const HELLO: [u32; 2] = [0x1, 4];
/// The second number is the request's; no answer is waited for.
const TERMINATE: [u32; 2] = [0x1000_0005, 0];

/// Holds a master up: it counts us among its clients. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Hold(UnixStream);

impl Hold {
    /// Takes hold of the master at `socket`. None: there is none.
    pub(super) fn take(socket: &Path) -> Option<Self> {
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_nonblocking(true).ok()?;
        (&stream).write_all(&message(HELLO)).ok()?;
        Some(Self(stream))
    }

    /// Returns whether the master is still there.
    pub(super) fn is_up(&self) -> bool {
        // what it says is of no use, and would be in the way of its end
        let mut said = [0; 256];
        loop {
            match (&self.0).read(&mut said) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // one that does not hear it ends by itself
        let _ = (&self.0).write_all(&message(TERMINATE));
    }
}

fn message(words: [u32; 2]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for (at, word) in [8, words[0], words[1]].into_iter().enumerate() {
        bytes[4 * at..4 * (at + 1)].copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_master_is_greeted_held_and_ended() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        assert!(Hold::take(&socket).is_none());
        let listener = UnixListener::bind(&socket).unwrap();
        let hold = Hold::take(&socket).unwrap();
        let (mut master, _) = listener.accept().unwrap();
        assert!(hold.is_up());
        master.write_all(&message(HELLO)).unwrap();
        assert!(hold.is_up());
        drop(hold);
        let mut heard = Vec::new();
        master.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, [0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 8, 0x10, 0, 0, 5, 0, 0, 0, 0]);
    }

    #[test]
    fn a_master_that_has_gone_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let hold = Hold::take(&socket).unwrap();
        drop(listener.accept().unwrap());
        assert!(!hold.is_up());
        drop(listener);
        assert!(Hold::take(&socket).is_none(), "its socket is left");
    }
}
