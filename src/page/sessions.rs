use std::fmt::Write as _;
use std::time::Duration;

use crate::ids::Digest;

/// Sessions at the same time: a household with all its browsers. The one that was not used for the longest time makes
/// room for the next.
const MOST: usize = 64;

/// How long a session lasts without being used: from one evening to the next.
pub(super) const IDLE: Duration = Duration::from_hours(24);

/// Wrong keys that may be shown one after the other, and how long each is remembered. Keys are 256 random bits, so this
/// keeps the log calm, not guessers away, and never holds a good key up.
const MOST_WRONG: u32 = 10;
const WRONG_LASTS: Duration = Duration::from_secs(6);

/// What is behind a cookie.
#[derive(Debug)]
struct Session {
    /// The hash of the cookie's value: who reads memory or a crash dump has no cookie yet.
    token: Digest,
    /// The hash of what the page itself shows beside: browsers send a cookie to every port of a name, and this to none.
    proof: Digest,
    /// The key that was shown for it, by its hash.
    key: Digest,
    used: Duration,
}

/// All sessions, and the wrong keys of late. Told what happened and when.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    open: Vec<Session>,
    /// When the wrong keys so far will be forgotten.
    wrong_until: Duration,
}

impl Sessions {
    /// Begins a session for the key with this hash. Returns the cookie's value and the proof; none where there is no chance
    /// to be had.
    pub(super) fn begin(&mut self, key: Digest, now: Duration) -> Option<(String, String)> {
        let (value, proof) = (secret()?, secret()?);
        self.open.retain(|session| is_alive(session, now));
        if self.open.len() >= MOST
            && let Some(oldest) = (0..self.open.len()).min_by_key(|nth| self.open[*nth].used)
        {
            self.open.swap_remove(oldest);
        }
        let [token, hashed] = [&value, &proof].map(|text| Digest::of(text.as_bytes()));
        self.open.push(Session { token, proof: hashed, key, used: now });
        Some((value, proof))
    }

    /// Returns the key behind a cookie and its proof, and takes note that it was used. They are looked for by their hashes,
    /// so that how long that takes tells nothing of them.
    pub(super) fn key(&mut self, value: &str, proof: &str, now: Duration) -> Option<Digest> {
        let [token, proof] = [value, proof].map(|text| Digest::of(text.as_bytes()));
        let mut alive = self.open.iter_mut().filter(|session| is_alive(session, now));
        let session = alive.find(|session| session.token == token && session.proof == proof)?;
        session.used = now;
        Some(session.key)
    }

    /// Ends a session.
    pub(super) fn end(&mut self, value: &str) {
        let token = Digest::of(value.as_bytes());
        self.open.retain(|session| session.token != token);
    }

    /// Returns after how many seconds a wrong key is taken note of again; none where it is now.
    pub(super) fn wait(&self, now: Duration) -> Option<u64> {
        let longest = WRONG_LASTS * (MOST_WRONG - 1);
        let over = self.wrong_until.saturating_sub(now).checked_sub(longest)?;
        (!over.is_zero()).then(|| over.as_secs() + 1)
    }

    /// Takes note of a wrong key.
    pub(super) fn wrong(&mut self, now: Duration) {
        self.wrong_until = self.wrong_until.max(now) + WRONG_LASTS;
    }
}

/// Returns 256 random bits as text, to be shown by who was given it; none where there is no chance to be had.
pub fn secret() -> Option<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes.iter().fold(String::new(), |mut text, byte| {
        // writing to a string does not fail
        write!(text, "{byte:02x}").ok();
        text
    }))
}

fn is_alive(session: &Session, now: Duration) -> bool {
    now.saturating_sub(session.used) < IDLE
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_session_lasts_while_it_is_used() {
        let mut sessions = Sessions::default();
        let key = Digest::of(b"key");
        let (value, proof) = sessions.begin(key, at(0)).unwrap();
        assert_eq!((value.len(), proof.len()), (64, 64));
        let day = IDLE.as_secs();
        assert_eq!(sessions.key(&value, &proof, at(day - 1)), Some(key));
        assert_eq!(sessions.key(&value, &proof, at(2 * day - 2)), Some(key));
        assert_eq!(sessions.key(&value, &proof, at(3 * day)), None);
        for (value, proof) in [("", &*proof), (&*value, ""), (&*value, &*value), (&*proof, &*value)] {
            assert_eq!(sessions.key(value, proof, at(0)), None);
        }
        let hash = Digest::of(value.as_bytes()).to_string();
        assert_eq!(sessions.key(&hash, &proof, at(0)), None);
    }

    #[test]
    fn there_are_so_many_and_the_least_used_goes_first() {
        let mut sessions = Sessions::default();
        let values: Vec<(String, String)> =
            (0..MOST as u64).map(|n| sessions.begin(Digest::of(b"key"), at(n)).unwrap()).collect();
        let finds = |sessions: &mut Sessions, (value, proof): &(String, String), seconds| {
            sessions.key(value, proof, at(seconds)).is_some()
        };
        assert!(finds(&mut sessions, &values[0], 100));
        let next = sessions.begin(Digest::of(b"key"), at(101)).unwrap();
        assert_eq!(sessions.open.len(), MOST);
        assert!(finds(&mut sessions, &values[0], 102) && finds(&mut sessions, &next, 102));
        assert!(!finds(&mut sessions, &values[1], 102));
        sessions.end(&next.0);
        assert!(!finds(&mut sessions, &next, 102));
    }

    #[test]
    fn ten_wrong_keys_are_taken_and_then_one_every_six_seconds() {
        let mut sessions = Sessions::default();
        for _ in 0..10 {
            assert_eq!(sessions.wait(at(50)), None);
            sessions.wrong(at(50));
        }
        assert_eq!(sessions.wait(at(50)), Some(7));
        assert_eq!(sessions.wait(at(55)), Some(2));
        assert_eq!(sessions.wait(at(56)), None);
        sessions.wrong(at(56));
        assert!(sessions.wait(at(56)).is_some());
        assert_eq!(sessions.wait(at(5000)), None);
    }
}
