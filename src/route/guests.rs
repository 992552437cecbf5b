//! Who is at the door, and who has to go when it is full.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Whoever has a connection.
#[derive(Debug)]
pub(super) struct Guest {
    from: IpAddr,
    is_known: AtomicBool,
    /// Its place, as long as it has one.
    place: Mutex<Option<OwnedSemaphorePermit>>,
    /// Somebody else got its place.
    gone: CancellationToken,
}

impl Guest {
    /// Somebody at that address.
    pub(super) fn new(from: IpAddr, place: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            from,
            is_known: AtomicBool::new(false),
            place: Mutex::new(place),
            gone: CancellationToken::new(),
        }
    }

    /// It has shown a key that is good, or is a host of the fleet: it may stay.
    pub(super) fn let_in(&self) {
        self.is_known.store(true, Ordering::Relaxed);
    }

    fn is_stranger(&self) -> bool {
        !self.is_known.load(Ordering::Relaxed)
    }

    fn give_up_place(&self) -> Option<OwnedSemaphorePermit> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Everybody who has a connection, each with a place.
#[derive(Debug)]
pub(super) struct Guests {
    places: Arc<Semaphore>,
    here: Mutex<Here>,
}

/// In the order in which they came.
#[derive(Debug, Default)]
struct Here {
    next: u64,
    all: BTreeMap<u64, Arc<Guest>>,
}

/// A guest for as long as its connection is there.
#[derive(Debug)]
pub(super) struct Stay {
    guests: Arc<Guests>,
    number: u64,
    guest: Arc<Guest>,
}

impl Guests {
    /// Has places for that many.
    pub(super) fn new(most: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(most)), here: Mutex::default() }
    }

    /// Waits for a place that is free.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        // it is never closed
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// Returns whether somebody is here who would have to go.
    pub(super) fn has_strangers(&self) -> bool {
        self.here().all.values().any(|guest| guest.is_stranger())
    }

    /// Lets somebody stay: at `place`, at one that is free, or at that of a stranger. None: there is none of all these.
    pub(super) fn seat(self: &Arc<Self>, from: IpAddr, place: Option<OwnedSemaphorePermit>) -> Option<Stay> {
        let mut here = self.here();
        let free = || Arc::clone(&self.places).try_acquire_owned().ok();
        let place = place.or_else(free).or_else(|| here.drop_stranger())?;
        let guest = Arc::new(Guest::new(from, Some(place)));
        let number = here.next;
        here.next += 1;
        here.all.insert(number, Arc::clone(&guest));
        drop(here);
        Some(Stay { guests: Arc::clone(self), number, guest })
    }

    fn here(&self) -> MutexGuard<'_, Here> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Here {
    /// Has a stranger go, and returns its place: of those from the address that has the most, the one that came first. Who is
    /// alone at an address goes after those who come many at a time.
    fn drop_stranger(&mut self) -> Option<OwnedSemaphorePermit> {
        let mut from: BTreeMap<IpAddr, (usize, Reverse<u64>)> = BTreeMap::new();
        for (number, guest) in self.all.iter().filter(|(_, guest)| guest.is_stranger()) {
            from.entry(guest.from).or_insert((0, Reverse(*number))).0 += 1;
        }
        let (_, Reverse(first)) = from.into_values().max()?;
        let guest = self.all.remove(&first)?;
        guest.gone.cancel();
        guest.give_up_place()
    }
}

impl Stay {
    /// Returns who stays.
    pub(super) fn guest(&self) -> &Arc<Guest> {
        &self.guest
    }

    /// Waits until somebody else has its place.
    pub(super) async fn ended(&self) {
        self.guest.gone.cancelled().await;
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.guests.here().all.remove(&self.number);
        // a request that still ends may hold the guest, and needs no place
        drop(self.guest.give_up_place());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn of_strangers_the_first_of_those_who_are_many_has_to_go_and_nobody_else() {
        let guests = Arc::new(Guests::new(5));
        let mut stays: Vec<Stay> =
            [1, 2, 2, 2, 3].map(|last| guests.seat(address(last), None).unwrap()).into_iter().collect();
        stays[1].guest().let_in();
        assert!(guests.has_strangers());
        let gone =
            |stays: &[Stay]| stays.iter().map(|stay| stay.guest.gone.is_cancelled()).collect::<Vec<_>>();
        stays.push(guests.seat(address(4), None).unwrap());
        assert_eq!(gone(&stays), [false, false, true, false, false, false]);
        // now each has come alone: the first of all
        stays.push(guests.seat(address(5), None).unwrap());
        assert_eq!(gone(&stays), [true, false, true, false, false, false, false]);
        for stay in &stays {
            stay.guest().let_in();
        }
        assert!(!guests.has_strangers() && guests.seat(address(6), None).is_none());
        // who had to go before gives no place back when its connection has ended
        drop(stays.remove(2));
        assert!(guests.seat(address(6), None).is_none());
        drop(stays.remove(1));
        assert!(guests.seat(address(6), None).is_some());
    }
}
