use std::fmt::Write as _;
use std::num::NonZeroU32;

use ring::pbkdf2;
use serde::Serialize;
use zeroize::Zeroizing;

use super::Error;

/// How often the password is stirred, by IEEE 802.11i.
const ROUNDS: NonZeroU32 = NonZeroU32::MIN.saturating_add(4095);

/// What a password of WPA2 becomes with the network's name: 64 hexadecimal digits. It opens that network, and
/// does not tell the password, which people use elsewhere, too.
#[derive(Clone, Serialize)]
pub struct Psk(Zeroizing<String>);

impl Psk {
    /// Returns the digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Psk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Psk")
    }
}

/// Derives what opens the network `ssid` from its password, as `wpa_passphrase` does. 64 hexadecimal digits are
/// taken as they are.
///
/// # Errors
/// [`Error::Ssid`] and [`Error::Passphrase`] for what no network has.
pub fn psk(ssid: &str, password: &str) -> Result<Psk, Error> {
    if !(1..=32).contains(&ssid.len()) || ssid.chars().any(char::is_control) {
        return Err(Error::Ssid(ssid.to_owned()));
    }
    if password.len() == 64 && password.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(Psk(Zeroizing::new(password.to_ascii_lowercase())));
    }
    if !(8..=63).contains(&password.len()) || password.bytes().any(|b| !(32..127).contains(&b)) {
        return Err(Error::Passphrase);
    }
    let mut key = Zeroizing::new([0; 32]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA1, ROUNDS, ssid.as_bytes(), password.as_bytes(), &mut *key);
    let mut digits = Zeroizing::new(String::with_capacity(64));
    for byte in *key {
        // writing to a String cannot fail
        let _ = write!(digits, "{byte:02x}");
    }
    Ok(Psk(digits))
}
