//! The stream that torch wrote before 1.6: a magic number, a protocol number, facts of the
//! machine, the object, the keys of its storages, each a pickle; then the storages in that
//! order, each the count of its elements (8 bytes) and their values.

use std::collections::BTreeMap;

use super::pickle::{self, Node, Pickle};
use super::{Contents, FIRST_PIECE, LIST_LIMIT, Place, Scan, Stop, object};
use crate::checkpoint::Error;

/// The pickle of torch's magic number, 0x1950a86a20f9469cfc6c, and that of its protocol, 1001.
pub(super) const MAGIC: &[u8] =
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";

pub(super) fn scan(scan: &Scan) -> Result<Contents, Stop> {
    // the pickles tell no length: longer pieces are asked for until they end
    let longest = scan.pieces.iter().filter(|(start, _)| *start == 0).map(|(_, bytes)| bytes.len() as u64);
    let head = scan.get(0..longest.max().unwrap_or(0).min(scan.file_bytes))?;
    let mut at = MAGIC.len();
    let mut next = || -> Result<Pickle<'_>, Stop> {
        let pickle = Pickle::run(head.get(at..).unwrap_or_default());
        let pickle = pickle.map_err(|stop| match stop {
            pickle::Stop::Short => more(scan, head.len() as u64),
            pickle::Stop::Fault(error) => error.into(),
        })?;
        at += pickle.len();
        Ok(pickle)
    };
    let machine = next()?;
    let order = match machine.root() {
        Node::Dict(pairs) => pairs.iter().find(|(key, _)| machine.text(*key) == Some("little_endian")),
        _ => None,
    };
    if !order.is_some_and(|(_, is_little)| matches!(machine.node(*is_little), Node::Bool(true))) {
        return Err(fault("its values are not little-endian".to_owned()));
    }
    let object = next()?;
    let (tensors, storages) = object::state_dict(&object)?;
    let keys = next()?;
    let Node::List(keys_listed) = keys.root() else {
        return Err(fault("the keys of its storages are missing".to_owned()));
    };

    let mut storages: BTreeMap<String, _> =
        storages.into_iter().enumerate().map(|(n, storage)| (storage.key.clone(), (n, storage))).collect();
    let mut placed = Vec::with_capacity(storages.len());
    let mut place = at as u64;
    for key in keys_listed {
        let found = keys.text(*key).and_then(|key| storages.remove(key));
        let Some((number, storage)) = found else {
            return Err(fault("its storages and its tensors do not go together".to_owned()));
        };
        let start = place;
        let end = place.checked_add(8).and_then(|end| end.checked_add(storage.bytes));
        place = end.filter(|end| *end <= scan.file_bytes).ok_or_else(|| {
            let (needed, has) = (storage.bytes, scan.file_bytes);
            fault(format!("a storage of {needed} bytes at {start} is not in its {has}: it is cut off"))
        })?;
        placed.push((number, (storage, Place::Counted(start))));
    }
    if let Some(key) = storages.keys().next() {
        let key: String = key.chars().take(60).collect();
        return Err(fault(format!("its storage {key:?} is missing")));
    }
    if place != scan.file_bytes {
        return Err(fault(format!("it has {} bytes, and its tensors need {place}", scan.file_bytes)));
    }
    placed.sort_by_key(|(number, _)| *number);
    Ok(Contents { tensors, storages: placed.into_iter().map(|(_, storage)| storage).collect() })
}

/// Asks for twice as much of the head as there is.
fn more(scan: &Scan, has: u64) -> Stop {
    if has >= scan.file_bytes {
        return fault("it is cut off in its pickles".to_owned());
    }
    if has >= LIST_LIMIT {
        return fault(format!("its pickles are longer than {LIST_LIMIT} bytes"));
    }
    Stop::Need(0..(has * 2).clamp(FIRST_PIECE, LIST_LIMIT).min(scan.file_bytes))
}

fn fault(why: String) -> Stop {
    Stop::Fault(Error::Torch(why))
}
