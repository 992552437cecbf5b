//! What is checked of a weights file before llama.cpp, which is C++ and trusting, sees it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::Error;
use crate::generation::Weights;

/// Checks that `path` is what `weights` says, as far as its size and the first bytes tell:
/// little-endian GGUF of a version that llama.cpp reads.
pub(super) fn check(path: &Path, weights: &Weights) -> Result<(), Error> {
    let read = |source| Error::ReadWeights { path: path.to_owned(), source };
    let refuse = |reason: String| Err(Error::Weights { path: path.to_owned(), reason });
    let mut file = File::open(path).map_err(read)?;
    let bytes = file.metadata().map_err(read)?.len();
    if weights.digest.is_some() && bytes != weights.bytes.0 {
        return refuse(format!("it has {bytes} bytes where the definition says {}", weights.bytes.0));
    }
    // magic, version, number of tensors, number of metadata entries
    let mut header = [0u8; 24];
    if bytes < header.len() as u64 {
        return refuse(format!("it has {bytes} bytes, less than a GGUF header"));
    }
    file.read_exact(&mut header).map_err(read)?;
    if &header[..4] != b"GGUF" {
        return refuse("it does not begin with GGUF".to_owned());
    }
    let version = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    if !(2..=3).contains(&version) {
        return refuse(format!(
            "its GGUF version is {version}, only 2 and 3 are read, in little-endian order"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use crate::units::Bytes;

    #[test]
    fn a_file_that_is_not_gguf_never_reaches_llama() {
        let good = [b"GGUF".as_slice(), &3u32.to_le_bytes(), &[0; 16]].concat();
        let foreign = [b"GGUF".as_slice(), &3u32.to_be_bytes(), &[0; 16]].concat();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.gguf");
        let mut weights = Weights {
            recipe: Digest::of(b""),
            digest: None,
            bytes: Bytes(24),
            quant: None,
            architecture: "llama".to_owned(),
        };
        let reason = |bytes: &[u8], weights: &Weights| {
            std::fs::write(&path, bytes).unwrap();
            check(&path, weights).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(reason(&good, &weights), "");
        assert!(reason(b"GGUF", &weights).contains("less than a GGUF header"));
        assert!(reason(&[7; 24], &weights).contains("does not begin with GGUF"));
        assert!(reason(&foreign, &weights).contains("version"));
        weights.digest = Some(Digest::of(b"x"));
        assert!(reason(&[good.clone(), vec![0]].concat(), &weights).contains("25 bytes"));
        assert_eq!(reason(&good, &weights), "");
    }
}
