//! Signatures of files, in minisign's form: `minisign -V` verifies them, too.
//!
//! The form only, and the key behind it: what is signed, and whom to believe, is the caller's. The `minisign` crate
//! is not used because it brings an older set of hashes and ciphers a second time, for keys behind a passphrase.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::{Blake2b512, Digest as _};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use zeroize::Zeroizing;

/// What a public key begins with: plain Ed25519.
const KEY_KIND: [u8; 2] = *b"Ed";
/// What a signature begins with: Ed25519 of the file's BLAKE2b-512.
const SIGNATURE_KIND: [u8; 2] = *b"ED";

/// A comment is cut to so many characters: it is shown to people.
const LONGEST_COMMENT: usize = 300;

/// Why something is not signed, or not by whom it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A text is no public key.
    #[error("{0:?} is no public key of minisign's form: use one that begins with RW and has 56 characters")]
    Key(String),
    /// A kept key cannot be used.
    #[error("the signing key is damaged: restore it from a copy, or move it away to have another made")]
    Kept,
    /// A text is no signature.
    #[error("its signature is not of minisign's form: get the file again from where it was made")]
    Form,
    /// Another key has signed it.
    #[error("it is signed by another key, {by}: ask whose that is before you trust it")]
    OtherKey {
        /// The other key's number, as minisign shows it.
        by: String,
    },
    /// It was changed after it was signed.
    #[error("it is not what was signed: get it again from where it was made")]
    Changed,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: run again")]
    Random,
}

/// A key that signatures are verified with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey {
    number: [u8; 8],
    key: [u8; 32],
}

impl FromStr for PublicKey {
    type Err = Error;

    /// Reads one line, or a file of minisign's, whose first line is a comment.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.starts_with("untrusted comment:"));
        let line = lines.next_back().unwrap_or_default();
        let read = || {
            let bytes: [u8; 42] = STANDARD.decode(line).ok()?.try_into().ok()?;
            let (kind, rest) = bytes.split_first_chunk::<2>()?;
            let (number, key) = rest.split_first_chunk::<8>()?;
            (*kind == KEY_KIND).then_some(Self { number: *number, key: key.try_into().ok()? })
        };
        read().ok_or_else(|| Error::Key(line.chars().filter(|c| !c.is_control()).take(80).collect()))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&KEY_KIND[..], &self.number, &self.key].concat();
        f.write_str(&STANDARD.encode(bytes))
    }
}

impl PublicKey {
    /// Verifies that `signature` is of `data` and by this key, and returns the comment that was signed with it.
    ///
    /// # Errors
    /// [`Error::Form`], [`Error::OtherKey`] and [`Error::Changed`].
    pub fn verify(&self, data: &[u8], signature: &str) -> Result<String, Error> {
        let signature = Signature::parse(signature)?;
        if signature.number != self.number {
            return Err(Error::OtherKey { by: shown(signature.number) });
        }
        let key = UnparsedPublicKey::new(&ED25519, &self.key);
        let is_good = |data: &[u8], signature: &[u8]| key.verify(data, signature).map_err(|_| Error::Changed);
        is_good(&Blake2b512::digest(data), &signature.of_data)?;
        let all = [&signature.of_data[..], signature.comment.as_bytes()].concat();
        is_good(&all, &signature.of_all)?;
        Ok(signature.comment)
    }
}

/// Returns a key's number as minisign shows it.
fn shown(number: [u8; 8]) -> String {
    format!("{:016X}", u64::from_le_bytes(number))
}

struct Signature {
    number: [u8; 8],
    of_data: [u8; 64],
    comment: String,
    of_all: [u8; 64],
}

impl Signature {
    fn parse(text: &str) -> Result<Self, Error> {
        let read = || {
            let mut lines = text.lines();
            lines.next()?.strip_prefix("untrusted comment:")?;
            let bytes: [u8; 74] = STANDARD.decode(lines.next()?).ok()?.try_into().ok()?;
            let comment = lines.next()?.strip_prefix("trusted comment: ")?;
            let of_all: [u8; 64] = STANDARD.decode(lines.next()?).ok()?.try_into().ok()?;
            let (kind, rest) = bytes.split_first_chunk::<2>()?;
            let (number, of_data) = rest.split_first_chunk::<8>()?;
            let is_plain =
                comment.chars().count() <= LONGEST_COMMENT && !comment.chars().any(char::is_control);
            (*kind == SIGNATURE_KIND && is_plain).then_some(Self {
                number: *number,
                of_data: of_data.try_into().ok()?,
                comment: comment.to_owned(),
                of_all,
            })
        };
        read().ok_or(Error::Form)
    }
}

/// A key that signs.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    number: [u8; 8],
}

impl SigningKey {
    /// Makes a key, and returns it as text to keep, for its owner alone.
    ///
    /// # Errors
    /// [`Error::Random`].
    pub fn generate() -> Result<(Self, Zeroizing<String>), Error> {
        let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| Error::Random)?;
        let kept = Zeroizing::new(STANDARD.encode(pair.as_ref()));
        Ok((Self::from_kept(&kept)?, kept))
    }

    /// Takes a key up again from the text that was kept of it.
    ///
    /// # Errors
    /// [`Error::Kept`].
    pub fn from_kept(kept: &str) -> Result<Self, Error> {
        let bytes = Zeroizing::new(STANDARD.decode(kept.trim()).map_err(|_| Error::Kept)?);
        let pair = Ed25519KeyPair::from_pkcs8(&bytes).map_err(|_| Error::Kept)?;
        // any eight bytes do, so long as they are the same each time
        let number = *Blake2b512::digest(pair.public_key().as_ref()).first_chunk().ok_or(Error::Kept)?;
        Ok(Self { pair, number })
    }

    /// Returns what others verify with.
    ///
    /// # Errors
    /// [`Error::Kept`].
    pub fn public(&self) -> Result<PublicKey, Error> {
        let key = self.pair.public_key().as_ref().try_into().map_err(|_| Error::Kept)?;
        Ok(PublicKey { number: self.number, key })
    }

    /// Signs `data`, with a comment of one line that is signed, too.
    pub fn sign(&self, data: &[u8], comment: &str) -> String {
        let comment: String = comment.chars().filter(|c| !c.is_control()).take(LONGEST_COMMENT).collect();
        let of_data = self.pair.sign(&Blake2b512::digest(data));
        let of_all = self.pair.sign(&[of_data.as_ref(), comment.as_bytes()].concat());
        let first = [&SIGNATURE_KIND[..], &self.number, of_data.as_ref()].concat();
        format!(
            "untrusted comment: signature of bramble\n{}\ntrusted comment: {comment}\n{}\n",
            STANDARD.encode(first),
            STANDARD.encode(of_all.as_ref())
        )
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", shown(self.number))
    }
}

#[cfg(test)]
mod texts_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_signed_is_told_from_everything_else() {
        let (key, kept) = SigningKey::generate().unwrap();
        let public = key.public().unwrap();
        assert_eq!(SigningKey::from_kept(&kept).unwrap().public(), Ok(public));
        assert_eq!(public.to_string().parse(), Ok(public));
        assert!(public.to_string().starts_with("RW") && public.to_string().len() == 56, "{public}");
        let file = format!("untrusted comment: minisign public key\n{public}\n");
        assert_eq!(file.parse(), Ok(public));

        let signature = key.sign(b"data", "fleet: home\x1b[31m");
        assert_eq!(public.verify(b"data", &signature).as_deref(), Ok("fleet: home[31m"));
        assert_eq!(public.verify(b"dat\0", &signature), Err(Error::Changed));
        assert_eq!(public.verify(b"data", &signature.replace("home", "shed")), Err(Error::Changed));
        let other = SigningKey::generate().unwrap().0;
        assert!(matches!(public.verify(b"data", &other.sign(b"data", "")), Err(Error::OtherKey { .. })));
        for broken in
            ["", "untrusted comment: x\nRW\n", &signature.replace("trusted comment: fleet", "fleet")]
        {
            assert_eq!(public.verify(b"data", broken), Err(Error::Form), "{broken}");
        }
        // a number may be copied; a signature may not
        let forged =
            Signature { number: public.number, ..Signature::parse(&other.sign(b"data", "c")).unwrap() };
        let first = STANDARD.encode([&SIGNATURE_KIND[..], &forged.number, &forged.of_data].concat());
        let all = STANDARD.encode(forged.of_all);
        let text = format!("untrusted comment: x\n{first}\ntrusted comment: c\n{all}\n");
        assert_eq!(public.verify(b"data", &text), Err(Error::Changed));
    }

    #[test]
    fn a_signature_of_minisign_itself_is_verified() {
        // made with minisign 0.11 of the file `test\n`
        let text = include_str!("../tests/formats/minisign.txt");
        let (key, signature) = text.split_once("---\n").unwrap();
        let key: PublicKey = key.parse().unwrap();
        assert_eq!(key.verify(b"test\n", signature).unwrap(), "a comment of minisign's");
        assert_eq!(key.verify(b"tesT\n", signature), Err(Error::Changed));
        for wrong in [
            "",
            "RWQ",
            "RWQf6LRCGA9i59SLOFxz6NxvASXDJeRtuZykwQepbDEGt87ig1BNpWaVWuNrm73YiIiJbq71Wi+dP9eKL8OC351vwIasSSbX",
        ] {
            assert!(matches!(wrong.parse::<PublicKey>(), Err(Error::Key(_))), "{wrong}");
        }
    }
}
