//! Names and numbers that are parsed once and then trusted.
//!
//! Names become paths and unit names on hosts, so a value of these types is proof
//! that the text is harmless there: `[a-z0-9][a-z0-9-]{0,62}`, nothing else.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a text is not a name, a digest or a number of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is not a name.
    #[error("{0:?} is not a name: use a-z, 0-9 and '-', at most 63 characters, not starting with '-'")]
    Name(String),
    /// The text is not 64 lower-case hexadecimal digits.
    #[error("{0:?} is not a SHA-256 digest: use 64 digits of 0-9a-f")]
    Digest(String),
    /// The text is not a generation number.
    #[error("{0:?} is not a generation number: use 1 or more")]
    Generation(String),
    /// The text is not six pairs of hexadecimal digits.
    #[error("{0:?} is not a hardware address: write it as aa:bb:cc:dd:ee:ff")]
    Mac(String),
}

/// Returns whether `text` is `[a-z0-9][a-z0-9-]{0,62}`.
pub fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= 63 && !text.starts_with('-') && text.bytes().all(inner)
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(with = "String")]
        pub struct $type(String);

        impl $type {
            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                if is_name(text) { Ok(Self(text.to_owned())) } else { Err(Error::Name(text.to_owned())) }
            }
        }
        impl TryFrom<String> for $type {
            type Error = Error;
            fn try_from(text: String) -> Result<Self, Error> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// The fleet that hosts belong to.
    FleetName
}
name! {
    /// A machine of the fleet, as the manifest names it.
    HostName
}
name! {
    /// A model, as the manifest names it and as clients ask for it.
    ModelName
}

/// The SHA-256 of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Wraps a finished SHA-256.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Hashes `bytes`, which are in memory.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Returns the first 12 hexadecimal digits, enough for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}
impl FromStr for Digest {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::Digest(text.chars().take(80).collect());
        let digit = |b: u8| match b {
            b'0'..=b'9' => Ok(b - b'0'),
            b'a'..=b'f' => Ok(b - b'a' + 10),
            _ => Err(bad()),
        };
        let text_bytes = text.as_bytes();
        if text_bytes.len() != 64 {
            return Err(bad());
        }
        let mut out = [0u8; 32];
        for (byte, pair) in out.iter_mut().zip(text_bytes.chunks_exact(2)) {
            *byte = (digit(pair[0])? << 4) | digit(pair[1])?;
        }
        Ok(Self(out))
    }
}
impl TryFrom<String> for Digest {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}
impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// A numbered install on a host; numbers only rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Generation(u64);

impl Generation {
    /// The first install on a host.
    pub const FIRST: Self = Self(1);

    /// Wraps a number that is known to be 1 or more.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Returns the generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}
impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl FromStr for Generation {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        match text.parse::<u64>() {
            Ok(number) if number > 0 => Ok(Self(number)),
            _ => Err(Error::Generation(text.to_owned())),
        }
    }
}

/// The hardware address of a network card (EUI-48), as `aa:bb:cc:dd:ee:ff`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// Returns the six bytes, as they stand in a frame.
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
}
impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&pairs.join(":"))
    }
}
impl FromStr for Mac {
    type Err = Error;
    /// Reads six pairs of digits of either case, with colons between them.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Mac(text.to_owned());
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next().ok_or_else(wrong)?;
            let is_pair = pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
            *byte = is_pair.then(|| u8::from_str_radix(pair, 16).ok()).flatten().ok_or_else(wrong)?;
        }
        if pairs.next().is_some() { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}
impl TryFrom<String> for Mac {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}
impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod texts_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_harmless_in_a_path_and_in_a_shell() {
        let good = ["a", "pi-4", "0", &"x".repeat(63)];
        let bad = ["", "-a", "A", "a_b", "a.b", "a b", "../x", "a/b", "é", "a;b", &"x".repeat(64)];
        assert!(good.iter().all(|text| text.parse::<HostName>().is_ok()));
        assert!(bad.iter().all(|text| text.parse::<HostName>().is_err()));
        assert!(serde_json::from_str::<ModelName>("\"../x\"").is_err());
    }

    #[test]
    fn a_digest_survives_the_round_trip() {
        let digest = Digest::of(b"");
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse::<Digest>(), Ok(digest));
        assert!(text.to_uppercase().parse::<Digest>().is_err());
        assert!(text[1..].parse::<Digest>().is_err());
        assert!("é".repeat(32).parse::<Digest>().is_err());
    }

    #[test]
    fn a_hardware_address_is_six_pairs_of_digits_in_either_case() {
        let mac: Mac = "AA:bb:00:dd:ee:0F".parse().unwrap();
        assert_eq!(
            (mac.bytes(), mac.to_string().as_str()),
            ([170, 187, 0, 221, 238, 15], "aa:bb:00:dd:ee:0f")
        );
        let bad = [
            "",
            "aa:bb:cc:dd:ee",
            "aa:bb:cc:dd:ee:ff:00",
            "aa-bb-cc-dd-ee-ff",
            "aa:bb:cc:dd:ee:+f",
            "a:bb:cc:dd:ee:ff",
        ];
        assert!(bad.iter().all(|text| text.parse::<Mac>().is_err()));
    }
}
