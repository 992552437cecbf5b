//! Files that a person names, each read up to a bound: a manifest that is a device, or a lock of a gigabyte that came
//! with a clone, fills no memory.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// The longest manifest; a thousand hosts need a tenth of it.
pub(crate) const LONGEST_MANIFEST: u64 = 1 << 20;
/// The longest lock, with room for more models and files than anybody has.
pub(crate) const LONGEST_LOCK: u64 = 64 << 20;
/// The longest plan that was kept, with room for more hosts than are planned for.
pub(crate) const LONGEST_PLAN: u64 = 256 << 20;

/// Reads a file of at most `most` bytes.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let why = format!("it has more than {most} bytes, which is the most that is read of it");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

/// Reads a text of at most `most` bytes.
pub(crate) fn read_text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read(path, most)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text"))
}
