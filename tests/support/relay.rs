//! The link between the operator and a host: it can be cut anywhere, held up, and left dead.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What becomes of the link when so many bytes have gone to the host.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fate {
    /// Both ends learn that it is gone. Who connects anew gets through.
    Cut,
    /// Nothing goes either way for a while, then all of it.
    Held(Duration),
    /// Nothing goes either way any longer, and nobody learns it. Who connects anew gets through.
    Dead,
}

/// A port of this machine that leads to another one.
pub(crate) struct Relay {
    pub(crate) port: u16,
    link: Arc<Link>,
}

struct Link {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    passed: u64,
    fate: Option<(u64, Fate)>,
    held_until: Option<Instant>,
    is_over: bool,
}

impl Relay {
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self {
            port: listener.local_addr().unwrap().port(),
            link: Arc::new(Link { state: Mutex::default() }),
        };
        let link = Arc::clone(&relay.link);
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { return };
                let is_dead = Arc::new(Mutex::new(false));
                let to_host = (near.try_clone().unwrap(), far.try_clone().unwrap());
                for ((from, to), counts) in [(to_host, true), ((far, near), false)] {
                    let (link, is_dead) = (Arc::clone(&link), Arc::clone(&is_dead));
                    thread::spawn(move || link.carry(from, to, counts, &is_dead));
                }
            }
        });
        relay
    }

    /// Decides what becomes of the link after `bytes` more.
    pub(crate) fn doom(&self, bytes: u64, fate: Fate) {
        *self.link.state.lock().unwrap() = State { fate: Some((bytes, fate)), ..State::default() };
    }

    /// Returns whether what was decided has come to pass.
    pub(crate) fn has_come_to_pass(&self) -> bool {
        self.link.state.lock().unwrap().fate.is_none()
    }

    /// Lets everything through from now on.
    pub(crate) fn spare(&self) {
        self.link.state.lock().unwrap().fate = None;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.link.state.lock().unwrap().is_over = true;
    }
}

impl Link {
    fn carry(&self, mut from: TcpStream, mut to: TcpStream, counts: bool, is_dead: &Mutex<bool>) {
        let mut buffer = [0; 16 << 10];
        while let Ok(read) = from.read(&mut buffer) {
            let is_cut = self.passes(if counts { read as u64 } else { 0 }, is_dead);
            if read == 0 || is_cut || to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        for end in [from, to] {
            // the other direction may have done it
            drop(end.shutdown(Shutdown::Both));
        }
    }

    /// Waits as long as nothing goes through; returns whether the link is cut.
    fn passes(&self, bytes: u64, is_dead: &Mutex<bool>) -> bool {
        let mut is_cut = false;
        {
            let mut state = self.state.lock().unwrap();
            state.passed += bytes;
            let passed = state.passed;
            if let Some((_, fate)) = state.fate.take_if(|(at, _)| passed > *at) {
                match fate {
                    Fate::Cut => is_cut = true,
                    Fate::Held(time) => state.held_until = Some(Instant::now() + time),
                    Fate::Dead => *is_dead.lock().unwrap() = true,
                }
            }
        }
        loop {
            let state = self.state.lock().unwrap();
            let is_held = state.held_until.is_some_and(|until| Instant::now() < until);
            if state.is_over || !(is_held || *is_dead.lock().unwrap()) {
                return is_cut;
            }
            drop(state);
            thread::sleep(Duration::from_millis(2));
        }
    }
}
