//! The zip archive of torch: every entry stored as it is, `NAME/data.pkl` with the pickle
//! and `NAME/data/KEY` with the values of each storage.
//!
//! PKWARE's APPNOTE 6.3.9 has the records: 4.3.7 the header of an entry, 4.3.12 the list of
//! entries, 4.3.14–16 the end of the list, 4.5.3 the long sizes of files beyond 4 GiB.

use std::collections::BTreeMap;

use super::pickle::{self, Pickle};
use super::{Contents, FIRST_PIECE, LIST_LIMIT, Place, Scan, Stop, object};
use crate::checkpoint::Error;

/// How a file begins: with the header of its first entry.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";

const END_BYTES: u64 = 22;
const END_MAGIC: u32 = 0x0605_4b50;
const LOCATOR_BYTES: u64 = 20;
const LOCATOR_MAGIC: u32 = 0x0706_4b50;
const LONG_END_BYTES: u64 = 56;
const LONG_END_MAGIC: u32 = 0x0606_4b50;
const LISTED_BYTES: usize = 46;
const LISTED_MAGIC: u32 = 0x0201_4b50;
const LOCAL_BYTES: usize = 30;

/// The longest name of an entry; real ones have some 30 bytes.
const NAME_LIMIT: usize = 1024;

/// One entry of the archive.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    name: String,
    /// Where its own header is.
    header: u64,
    bytes: u64,
    /// Where the next entry starts, or the list of all: its data must end before.
    until: u64,
}

pub(super) fn scan(scan: &Scan) -> Result<Contents, Stop> {
    let mut entries = entries(scan)?;
    let is_pickle = |name: &&String| name.split_once('/').is_some_and(|(_, rest)| rest == "data.pkl");
    let names: Vec<&String> = entries.keys().filter(is_pickle).collect();
    let [name] = *names.as_slice() else {
        return Err(fault(format!("it has {} entries called data.pkl, not one", names.len())));
    };
    let folder = name.trim_end_matches("data.pkl").to_owned();
    let order = entries.get(&format!("{folder}byteorder"));
    if let Some(order) = order
        && order.content(scan)? != b"little"
    {
        return Err(fault("its values are not little-endian".to_owned()));
    }
    let text = match entries.get(&format!("{folder}data.pkl")) {
        Some(entry) if entry.bytes <= LIST_LIMIT => entry.content(scan)?,
        _ => return Err(fault(format!("its data.pkl is longer than {LIST_LIMIT} bytes"))),
    };
    let pickle = Pickle::run(text).map_err(|stop| match stop {
        pickle::Stop::Short => fault("its data.pkl is cut off".to_owned()),
        pickle::Stop::Fault(error) => error.into(),
    })?;
    let (tensors, storages) = object::state_dict(&pickle)?;
    let mut placed = Vec::with_capacity(storages.len());
    for storage in storages {
        let name = format!("{folder}data/{}", storage.key);
        let entry = entries.remove(&name);
        let entry = entry.ok_or_else(|| fault(format!("it has no entry {}", shown(&name))))?;
        if entry.bytes != storage.bytes {
            let (has, wants) = (entry.bytes, storage.bytes);
            return Err(fault(format!("its entry {} has {has} bytes, not {wants}", shown(&name))));
        }
        placed.push((storage, Place::Entry(entry)));
    }
    Ok(Contents { tensors, storages: placed })
}

/// Reads the list of all entries, by name.
fn entries(scan: &Scan) -> Result<BTreeMap<String, Entry>, Stop> {
    let (count, list, at_end) = end(scan)?;
    let mut text = scan.get(list.clone())?;
    let mut found: Vec<Entry> = Vec::new();
    for _ in 0..count {
        let (entry, rest) = listed(text)?;
        found.push(entry);
        text = rest;
    }
    if !text.is_empty() || list.end > at_end {
        return Err(fault("its list of entries has another length than it says".to_owned()));
    }
    found.sort_by_key(|entry| entry.header);
    let mut until = list.start;
    for entry in found.iter_mut().rev() {
        let least = (LOCAL_BYTES + entry.name.len()) as u64 + entry.bytes;
        if entry.header.checked_add(least).is_none_or(|end| end > until) {
            return Err(fault(format!("its entry {} reaches into what follows", shown(&entry.name))));
        }
        entry.until = until;
        until = entry.header;
    }
    let mut entries = BTreeMap::new();
    for entry in found {
        if let Some(first) = entries.insert(entry.name.clone(), entry) {
            return Err(fault(format!("its entry {} is there twice", shown(&first.name))));
        }
    }
    Ok(entries)
}

/// Returns the number of entries, where their list is, and where the records of its end start.
fn end(scan: &Scan) -> Result<(u64, std::ops::Range<u64>, u64), Stop> {
    let file = scan.file_bytes;
    let no_end = || fault("the end of its list of entries is missing: it is cut off".to_owned());
    let at = file.checked_sub(END_BYTES).ok_or_else(no_end)?;
    // in one piece with the list itself, mostly
    let tail_start = file.saturating_sub(FIRST_PIECE);
    let tail = scan.get(tail_start..file)?;
    let end = Record(tail.get(tail.len() - 22..).unwrap_or_default());
    // torch writes no comment behind it
    if end.u32(0) != Some(END_MAGIC) || end.u16(20) != Some(0) {
        return Err(no_end());
    }
    let mut count = u64::from(end.u16(10).unwrap_or(0));
    let mut bytes = u64::from(end.u32(12).unwrap_or(0));
    let mut start = u64::from(end.u32(16).unwrap_or(0));
    let mut at_end = at;
    if count == 0xffff || bytes == 0xffff_ffff || start == 0xffff_ffff {
        let bad = || fault("the long form of the end of its list of entries is damaged".to_owned());
        let locator_at = at.checked_sub(LOCATOR_BYTES).ok_or_else(bad)?;
        let locator = Record(scan.get(locator_at..at)?);
        let long_at = locator.u64(8).filter(|_| locator.u32(0) == Some(LOCATOR_MAGIC)).ok_or_else(bad)?;
        let long_end =
            long_at.checked_add(LONG_END_BYTES).filter(|end| *end <= locator_at).ok_or_else(bad)?;
        let long = Record(scan.get(long_at..long_end)?);
        if long.u32(0) != Some(LONG_END_MAGIC) {
            return Err(bad());
        }
        count = long.u64(32).ok_or_else(bad)?;
        bytes = long.u64(40).ok_or_else(bad)?;
        start = long.u64(48).ok_or_else(bad)?;
        at_end = long_at;
    }
    let list_end = start.checked_add(bytes).filter(|end| *end <= at_end);
    let list_end = list_end.ok_or_else(|| fault("its list of entries is not inside it".to_owned()))?;
    if bytes > LIST_LIMIT || count > bytes / LISTED_BYTES as u64 {
        return Err(fault(format!("its list of {count} entries in {bytes} bytes cannot be")));
    }
    Ok((count, start..list_end, at_end))
}

/// Reads the first entry of a list; returns it with the rest of the list.
fn listed(text: &[u8]) -> Result<(Entry, &[u8]), Stop> {
    let cut_off = || fault("its list of entries is cut off".to_owned());
    let record = Record(text.get(..LISTED_BYTES).ok_or_else(cut_off)?);
    let u16_at = |at: usize| record.u16(at).map(usize::from).ok_or_else(cut_off);
    let u32_at = |at: usize| record.u32(at).map(u64::from).ok_or_else(cut_off);
    if record.u32(0) != Some(LISTED_MAGIC) {
        return Err(fault("its list of entries is damaged".to_owned()));
    }
    let (flags, method) = (u16_at(8)?, u16_at(10)?);
    let (name_len, extra_len, comment_len) = (u16_at(28)?, u16_at(30)?, u16_at(32)?);
    let name_end = LISTED_BYTES + name_len;
    let name = text.get(LISTED_BYTES..name_end).ok_or_else(cut_off)?;
    let extra = text.get(name_end..name_end + extra_len).ok_or_else(cut_off)?;
    let rest = text.get(name_end + extra_len + comment_len..).ok_or_else(cut_off)?;
    let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= NAME_LIMIT);
    let name = name.ok_or_else(|| fault("an entry has a name that torch gives none".to_owned()))?.to_owned();
    if method != 0 || flags & 1 != 0 {
        return Err(fault(format!("its entry {} is compressed or encrypted", shown(&name))));
    }
    let mut long = long_sizes(extra);
    let mut size = |short: u64| if short == 0xffff_ffff { long.next() } else { Some(short) };
    // in this order stand those that are too long for their short form
    let (bytes, packed, header) = (size(u32_at(24)?), size(u32_at(20)?), size(u32_at(42)?));
    let (Some(bytes), Some(packed), Some(header)) = (bytes, packed, header) else {
        return Err(fault(format!("its entry {} has no size", shown(&name))));
    };
    if bytes != packed || bytes > i64::MAX as u64 {
        return Err(fault(format!("its entry {} has two sizes: {packed} and {bytes}", shown(&name))));
    }
    Ok((Entry { name, header, bytes, until: 0 }, rest))
}

/// Finds the long sizes among an entry's extra fields.
fn long_sizes(mut extra: &[u8]) -> impl Iterator<Item = u64> {
    let mut found: &[u8] = &[];
    while let (Some(id), Some(len)) = (Record(extra).u16(0), Record(extra).u16(2)) {
        let end = 4 + usize::from(len);
        let Some(body) = extra.get(4..end) else { break };
        if id == 1 {
            found = body;
            break;
        }
        extra = extra.get(end..).unwrap_or_default();
    }
    found.as_chunks::<8>().0.iter().map(|eight| u64::from_le_bytes(*eight))
}

impl Entry {
    /// Returns where its data starts, once `read` has filled its own header.
    pub(super) fn data_start(
        &self,
        read: impl FnOnce(u64, &mut [u8]) -> Result<(), Error>,
    ) -> Result<u64, Error> {
        let mut local = vec![0; LOCAL_BYTES + self.name.len()];
        read(self.header, &mut local)?;
        self.data_start_in(&local)
    }

    fn data_start_in(&self, local: &[u8]) -> Result<u64, Error> {
        let (fixed, name) = local.split_at(LOCAL_BYTES.min(local.len()));
        let lengths = Record(fixed).u16(26).zip(Record(fixed).u16(28));
        let is_same = fixed.starts_with(MAGIC) && name == self.name.as_bytes();
        let Some((name_len, extra_len)) = lengths.filter(|_| is_same) else {
            let why = format!("its entry {} is not where the list has it", shown(&self.name));
            return Err(Error::Torch(why));
        };
        let start = self.header + LOCAL_BYTES as u64 + u64::from(name_len) + u64::from(extra_len);
        if usize::from(name_len) == self.name.len() && start + self.bytes <= self.until {
            Ok(start)
        } else {
            Err(Error::Torch(format!("its entry {} reaches into what follows", shown(&self.name))))
        }
    }

    /// Returns its data.
    fn content<'a>(&self, scan: &'a Scan) -> Result<&'a [u8], Stop> {
        if self.bytes > LIST_LIMIT {
            return Err(fault(format!("its entry {} is too long", shown(&self.name))));
        }
        // one piece for header and data, since the gap between is short
        let local = scan.get(self.header..self.header + (LOCAL_BYTES + self.name.len()) as u64)?;
        let start = self.data_start_in(local)?;
        scan.get(start..start + self.bytes)
    }
}

/// Little-endian numbers at fixed places.
struct Record<'a>(&'a [u8]);

impl Record<'_> {
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk::<N>().copied()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }
}

fn fault(why: String) -> Stop {
    Stop::Fault(Error::Torch(why))
}

/// A name for a message: foreign, so quoted and cut.
fn shown(name: &str) -> String {
    format!("{:?}", name.chars().take(120).collect::<String>())
}
