//! Everything that is kept of a fleet in one file behind a passphrase, in age's format
//! (<https://age-encryption.org/v1>), so that other programs open it, too: `age -d FILE`.
//!
//! Written here rather than taken from the `age` crate: of its 180 dependencies this needs one, scrypt;
//! HKDF, HMAC and ChaCha20-Poly1305 are ring's, which TLS brings.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::{hkdf, hmac};
use zeroize::Zeroizing;

use super::Error;

const VERSION: &str = "age-encryption.org/v1";
const SALT_LABEL: &[u8] = b"age-encryption.org/v1/scrypt";
const SALT: usize = 16;
const FILE_KEY: usize = 16;
const TAG: usize = 16;
const NONCE: usize = 16;
/// What one part of the payload holds.
const CHUNK: usize = 64 << 10;

/// The work for one guess of the passphrase, as a power of two: a second or so, and 256 MiB of memory.
pub(super) const WORK: u8 = 18;

/// No file that asks for more is opened: 4 GiB of memory.
const MOST_WORK: u8 = 22;

/// Seals `plain` behind a passphrase, with `2^work` as the work for one guess.
pub(super) fn seal(plain: &[u8], passphrase: &str, work: u8) -> Result<Vec<u8>, Error> {
    let salt: [u8; SALT] = random()?;
    let file_key: Zeroizing<[u8; FILE_KEY]> = Zeroizing::new(random()?);
    let mut wrapped = file_key.to_vec();
    aead(&*wrapping_key(passphrase, &salt, work)?, [0; 12])
        .and_then(|(key, nonce)| key.seal_in_place_append_tag(nonce, Aad::empty(), &mut wrapped).ok())
        .ok_or(Error::Sealed)?;
    let mut sealed =
        format!("{VERSION}\n-> scrypt {} {work}\n{}\n---", BASE64.encode(salt), BASE64.encode(wrapped))
            .into_bytes();
    let mac = hmac::sign(&header_key(&file_key)?, &sealed);
    sealed.extend_from_slice(format!(" {}\n", BASE64.encode(mac)).as_bytes());
    let nonce: [u8; NONCE] = random()?;
    sealed.extend_from_slice(&nonce);
    let key = payload_key(&file_key, &nonce)?;
    let chunks = plain.chunks(CHUNK).collect::<Vec<_>>();
    let chunks = if chunks.is_empty() { vec![&[][..]] } else { chunks };
    for (at, chunk) in chunks.iter().enumerate() {
        let mut part = Zeroizing::new(chunk.to_vec());
        part.reserve_exact(TAG);
        aead(&key, counter(at, at + 1 == chunks.len()))
            .and_then(|(key, nonce)| key.seal_in_place_append_tag(nonce, Aad::empty(), &mut *part).ok())
            .ok_or(Error::Sealed)?;
        sealed.extend_from_slice(&part);
    }
    Ok(sealed)
}

/// Opens what [`seal`] or age has sealed. Every byte of it is foreign.
pub(super) fn open(sealed: &[u8], passphrase: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let end = sealed.windows(5).position(|window| window == b"\n--- ").ok_or(Error::Sealed)?;
    let (head, rest) = sealed.split_at_checked(end + 4).ok_or(Error::Sealed)?;
    let line = rest.iter().position(|byte| *byte == b'\n').ok_or(Error::Sealed)?;
    let (mac, payload) = (rest.get(1..line).ok_or(Error::Sealed)?, &rest[line + 1..]);
    let text = std::str::from_utf8(head).map_err(|_| Error::Sealed)?;
    let mut lines = text.lines();
    let (Some(VERSION), Some(stanza), Some(wrapped), Some("---"), None) =
        (lines.next(), lines.next(), lines.next(), lines.next(), lines.next())
    else {
        return Err(Error::Sealed);
    };
    let mut words = stanza.split(' ');
    let (Some("->"), Some("scrypt"), Some(salt), Some(work), None) =
        (words.next(), words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Error::Sealed);
    };
    let work: u8 = work.parse().ok().filter(|work| (1..=MOST_WORK).contains(work)).ok_or(Error::Sealed)?;
    let salt: [u8; SALT] = decode(salt.as_bytes())?;
    let mut wrapped: [u8; FILE_KEY + TAG] = decode(wrapped.as_bytes())?;
    let file_key = aead(&*wrapping_key(passphrase, &salt, work)?, [0; 12])
        .and_then(|(key, nonce)| Some(&*key.open_in_place(nonce, Aad::empty(), &mut wrapped).ok()?))
        .and_then(|key| <[u8; FILE_KEY]>::try_from(key).ok())
        .map(Zeroizing::new)
        .ok_or(Error::Passphrase)?;
    let mac: [u8; 32] = decode(mac)?;
    hmac::verify(&header_key(&file_key)?, head, &mac).map_err(|_| Error::Sealed)?;
    let (nonce, mut payload) = payload.split_first_chunk::<NONCE>().ok_or(Error::Sealed)?;
    let key = payload_key(&file_key, nonce)?;
    let mut plain = Zeroizing::new(Vec::with_capacity(payload.len()));
    for at in 0.. {
        let length = payload.len().min(CHUNK + TAG);
        let (part, rest) = payload.split_at(length);
        let is_last = rest.is_empty();
        let mut part = Zeroizing::new(part.to_vec());
        let opened = aead(&key, counter(at, is_last))
            .and_then(|(key, nonce)| Some(&*key.open_in_place(nonce, Aad::empty(), &mut part).ok()?))
            .ok_or(Error::Sealed)?;
        // only a file without anything in it ends with a part without anything in it
        if opened.is_empty() && at > 0 {
            return Err(Error::Sealed);
        }
        plain.extend_from_slice(opened);
        if is_last {
            break;
        }
        payload = rest;
    }
    Ok(plain)
}

fn wrapping_key(passphrase: &str, salt: &[u8; SALT], work: u8) -> Result<Zeroizing<[u8; 32]>, Error> {
    let mut key = Zeroizing::new([0; 32]);
    let params = scrypt::Params::new(work, 8, 1).map_err(|_| Error::Sealed)?;
    let salt = [SALT_LABEL, salt].concat();
    scrypt::scrypt(passphrase.as_bytes(), &salt, &params, &mut *key).map_err(|_| Error::Sealed)?;
    Ok(key)
}

fn header_key(file_key: &[u8; FILE_KEY]) -> Result<hmac::Key, Error> {
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &*derived(file_key, &[], b"header")?))
}

fn payload_key(file_key: &[u8; FILE_KEY], nonce: &[u8; NONCE]) -> Result<Zeroizing<[u8; 32]>, Error> {
    derived(file_key, nonce, b"payload")
}

fn derived(file_key: &[u8; FILE_KEY], salt: &[u8], what: &[u8]) -> Result<Zeroizing<[u8; 32]>, Error> {
    let mut key = Zeroizing::new([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(file_key)
        .expand(&[what], hkdf::HKDF_SHA256)
        .and_then(|material| material.fill(&mut *key))
        .map_err(|_| Error::Sealed)?;
    Ok(key)
}

fn aead(key: &[u8; 32], nonce: [u8; 12]) -> Option<(LessSafeKey, Nonce)> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key).ok()?;
    Some((LessSafeKey::new(key), Nonce::assume_unique_for_key(nonce)))
}

/// Returns the nonce of a part: its number, and whether it is the last.
fn counter(at: usize, is_last: bool) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[3..11].copy_from_slice(&(at as u64).to_be_bytes());
    nonce[11] = u8::from(is_last);
    nonce
}

fn decode<const N: usize>(text: &[u8]) -> Result<[u8; N], Error> {
    let bytes = BASE64.decode(text).map_err(|_| Error::Sealed)?;
    bytes.try_into().map_err(|_| Error::Sealed)
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    Ok(bytes)
}
