//! Where the header of a weights file ends, from its first bytes. It only measures:
//! what a header says is read by the rooms of the formats.

use crate::units::Bytes;

/// The longest header of a safetensors file: the format's own limit, which the
/// `safetensors` crate enforces too. Real ones have some 100 bytes for each tensor.
pub(super) const SAFETENSORS_MAX: u64 = 100_000_000;

/// The longest header of a GGUF. The largest vocabularies in use, with their merges, have some 10 MiB.
pub(super) const GGUF_MAX: u64 = 128 << 20;

/// What the first bytes of a file say of its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scan {
    /// It is all there: so many bytes from the start of the file.
    Whole(u64),
    /// At least this many bytes of the file are needed to go on.
    More(u64),
    /// It is no header.
    Bad(String),
}

/// Measures the header of a safetensors file of `file` bytes.
pub(super) fn safetensors(head: &[u8], file: Bytes) -> Scan {
    let Some(length) = head.first_chunk::<8>() else { return more(8, file, SAFETENSORS_MAX) };
    let length = u64::from_le_bytes(*length);
    if length > SAFETENSORS_MAX {
        return Scan::Bad(format!("it claims {length} bytes, and {SAFETENSORS_MAX} are allowed"));
    }
    let whole = length + 8;
    if whole > head.len() as u64 {
        return more(whole, file, SAFETENSORS_MAX + 8);
    }
    Scan::Whole(whole)
}

/// Measures the header of a GGUF of `file` bytes: up to the end of the tensor list.
pub(super) fn gguf(head: &[u8], file: Bytes) -> Scan {
    let mut cursor = Cursor { head, at: 0 };
    match cursor.header() {
        Ok(()) => Scan::Whole(cursor.at as u64),
        Err(Stop::More(need)) => more(need, file, GGUF_MAX),
        Err(Stop::Bad(why)) => Scan::Bad(why.to_owned()),
    }
}

fn more(need: u64, file: Bytes, max: u64) -> Scan {
    if need > file.0 {
        return Scan::Bad(format!("it claims {need} bytes, and the file has {}", file.0));
    }
    if need > max {
        return Scan::Bad(format!("it claims {need} bytes, and {max} are allowed"));
    }
    Scan::More(need)
}

enum Stop {
    More(u64),
    Bad(&'static str),
}

struct Cursor<'a> {
    head: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn take(&mut self, n: u64) -> Result<&[u8], Stop> {
        let end = (self.at as u64).checked_add(n).ok_or(Stop::Bad("a length overflows"))?;
        let from = self.at;
        let to = usize::try_from(end).map_err(|_| Stop::Bad("a length overflows"))?;
        let taken = self.head.get(from..to).ok_or(Stop::More(end))?;
        self.at = to;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, Stop> {
        Ok(self.take(4)?.try_into().map_or(0, u32::from_le_bytes))
    }

    fn u64(&mut self) -> Result<u64, Stop> {
        Ok(self.take(8)?.try_into().map_or(0, u64::from_le_bytes))
    }

    fn string(&mut self) -> Result<&[u8], Stop> {
        let length = self.u64()?;
        self.take(length)
    }

    /// Walks over the header.
    fn header(&mut self) -> Result<(), Stop> {
        if self.take(4)? != b"GGUF" {
            return Err(Stop::Bad("it does not begin with GGUF"));
        }
        if !matches!(self.u32()?, 2 | 3) {
            return Err(Stop::Bad("it is of another version than 2 and 3, or big-endian"));
        }
        let (tensors, pairs) = (self.u64()?, self.u64()?);
        // every round takes bytes or ends: a hostile count cannot keep it busy for long
        for _ in 0..pairs {
            self.string()?;
            let kind = self.u32()?;
            self.value(kind, 0)?;
        }
        for _ in 0..tensors {
            self.string()?;
            let dimensions = self.u32()?;
            if dimensions > 8 {
                return Err(Stop::Bad("a tensor has more than 8 dimensions"));
            }
            self.take(u64::from(dimensions) * 8 + 4 + 8)?;
        }
        Ok(())
    }

    fn value(&mut self, kind: u32, depth: u32) -> Result<(), Stop> {
        match kind {
            8 => self.string().map(drop),
            9 => {
                let (inner, length) = (self.u32()?, self.u64()?);
                if depth > 2 {
                    return Err(Stop::Bad("its arrays are nested too deeply"));
                }
                match width(inner) {
                    Some(width) => {
                        let bytes = length.checked_mul(width).ok_or(Stop::Bad("a length overflows"))?;
                        self.take(bytes).map(drop)
                    }
                    None => (0..length).try_for_each(|_| self.value(inner, depth + 1)),
                }
            }
            other => {
                let width = width(other).ok_or(Stop::Bad("a value has an unknown type"))?;
                self.take(width).map(drop)
            }
        }
    }
}

/// Returns the bytes of a value of fixed size, by GGUF's number for its type.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn sample() -> Vec<u8> {
        let mut out = [b"GGUF".as_slice(), &3u32.to_le_bytes(), &1u64.to_le_bytes()].concat();
        out.extend(3u64.to_le_bytes());
        out.extend([string("general.name"), 8u32.to_le_bytes().into(), string("tiny")].concat());
        out.extend([string("n"), 10u32.to_le_bytes().into(), 7u64.to_le_bytes().into()].concat());
        out.extend([string("tokens"), 9u32.to_le_bytes().into(), 8u32.to_le_bytes().into()].concat());
        out.extend(2u64.to_le_bytes());
        out.extend([string("a"), string("bc")].concat());
        out.extend([string("w"), 2u32.to_le_bytes().into()].concat());
        out.extend([4u64.to_le_bytes(), 2u64.to_le_bytes()].concat());
        out.extend([&0u32.to_le_bytes()[..], &0u64.to_le_bytes()].concat());
        out
    }

    #[test]
    fn the_end_of_a_gguf_header_is_found_however_little_comes_at_a_time() {
        let header = sample();
        let file = [header.as_slice(), &[0; 64]].concat();
        let size = Bytes(file.len() as u64);
        for n in 0..header.len() {
            let Scan::More(need) = gguf(&file[..n], size) else { panic!("{n}") };
            assert!(need > n as u64 && need <= header.len() as u64, "{n} {need}");
        }
        let whole = Scan::Whole(header.len() as u64);
        assert_eq!(gguf(&file, size), whole);
        assert_eq!(gguf(&file[..header.len()], size), whole);
    }

    #[test]
    fn hostile_lengths_are_refused_before_anything_is_asked_for() {
        let size = Bytes(1 << 40);
        let head = |pairs: u64, rest: &[u8]| {
            let start = [b"GGUF".as_slice(), &3u32.to_le_bytes(), &0u64.to_le_bytes()].concat();
            [start, pairs.to_le_bytes().into(), rest.into()].concat()
        };
        let bad = |bytes: &[u8], size| matches!(gguf(bytes, size), Scan::Bad(_));
        assert!(bad(&head(1, &u64::MAX.to_le_bytes()), size), "a key without end");
        assert!(bad(&head(1, &(GGUF_MAX + 1).to_le_bytes()), size), "a key beyond the limit");
        assert!(bad(&head(1, &1000u64.to_le_bytes()), Bytes(500)), "a key beyond the file");
        let array = [string("k"), 9u32.to_le_bytes().into(), 12u32.to_le_bytes().into()].concat();
        assert!(bad(&head(1, &[array, (u64::MAX / 4).to_le_bytes().into()].concat()), size));
        assert!(bad(&head(1, &[string("k"), 99u32.to_le_bytes().into()].concat()), size));
        assert!(bad(b"GGML0000000000000000000000", size));
        let nested = [9u32.to_le_bytes().as_slice(), &1u64.to_le_bytes()].concat().repeat(100);
        assert!(bad(&head(1, &[string("k"), 9u32.to_le_bytes().into(), nested].concat()), size));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_ask_for_too_much(
            at in 0usize..200, junk in proptest::collection::vec(proptest::num::u8::ANY, 0..64), size in 0u64..1 << 41,
        ) {
            let mut bytes = sample();
            let at = at.min(bytes.len());
            let end = (at + junk.len()).min(bytes.len());
            bytes.splice(at..end, junk);
            for (scan, max) in [(gguf(&bytes, Bytes(size)), GGUF_MAX), (safetensors(&bytes, Bytes(size)), SAFETENSORS_MAX + 8)] {
                match scan {
                    Scan::More(need) => proptest::prop_assert!(need > bytes.len() as u64 && need <= max.min(size)),
                    Scan::Whole(whole) => proptest::prop_assert!(whole <= bytes.len() as u64),
                    Scan::Bad(why) => proptest::prop_assert!(!why.is_empty()),
                }
            }
        }
    }

    #[test]
    fn the_length_of_a_safetensors_header_is_bounded() {
        let file = Bytes(1 << 30);
        assert_eq!(safetensors(&[], file), Scan::More(8));
        assert_eq!(safetensors(&100u64.to_le_bytes(), file), Scan::More(108));
        let whole = [&2u64.to_le_bytes()[..], b"{}rest"].concat();
        assert_eq!(safetensors(&whole, file), Scan::Whole(10));
        for (length, size) in [(u64::MAX, file), (SAFETENSORS_MAX + 1, file), (100, Bytes(50))] {
            assert!(matches!(safetensors(&length.to_le_bytes(), size), Scan::Bad(_)), "{length}");
        }
    }
}
