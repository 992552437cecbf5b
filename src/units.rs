//! Quantities with their units, and how they are shown.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul, Sub};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A number of bytes. Subtraction saturates at zero.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct Bytes(pub u64);

impl Bytes {
    /// No bytes.
    pub const ZERO: Self = Self(0);

    /// Returns `n` binary kilobytes.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// Returns `n` binary megabytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// Returns `n` binary gigabytes.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// Returns the amount in MiB, with its fraction.
    pub fn as_mib(self) -> f64 {
        self.0 as f64 / f64::from(1 << 20)
    }
}

impl fmt::Display for Bytes {
    /// Shows three significant digits or so: `512 B`, `1.5 KiB`, `220 MiB`, `4.5 GiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut value = self.0 as f64;
        let mut name = NAMES[0];
        for next in &NAMES[1..] {
            // 999.5 would be shown as 1000: take the larger unit a little early
            if value < 999.5 {
                break;
            }
            value /= 1024.0;
            name = next;
        }
        let text = if name == "B" || value >= 99.95 {
            format!("{value:.0} {name}")
        } else {
            format!("{value:.1} {name}")
        };
        f.pad(&text)
    }
}

/// A text that is no amount of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an amount is a number and MiB, GiB, MB or GB: write it as `7.2 GiB`")]
pub struct NoAmount;

impl std::str::FromStr for Bytes {
    type Err = NoAmount;

    /// Reads `900 MiB`, `7.2 GiB`, `8 GB`: digits, at most three of a fraction, and a unit.
    fn from_str(text: &str) -> Result<Self, NoAmount> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(NoAmount)?;
        let (number, name) = (&text[..end], text[end..].trim_start());
        let unit: u64 = match name {
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            _ => return Err(NoAmount),
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || whole.len() > 6 || part.is_empty() || part.len() > 3 {
            return Err(NoAmount);
        }
        let whole: u64 = whole.parse().map_err(|_| NoAmount)?;
        let thousandths: u64 = format!("{part:0<3}").parse().map_err(|_| NoAmount)?;
        Ok(Self(whole * unit + thousandths * unit / 1000))
    }
}

impl Add for Bytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}
impl AddAssign for Bytes {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
impl Sub for Bytes {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}
impl Mul<u64> for Bytes {
    type Output = Self;
    fn mul(self, times: u64) -> Self {
        Self(self.0.saturating_mul(times))
    }
}
impl Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::ZERO, Add::add)
    }
}

/// Tokens per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
pub struct TokensPerSec(pub f64);

impl fmt::Display for TokensPerSec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text =
            if self.0 >= 10.0 { format!("{:.0} tok/s", self.0) } else { format!("{:.1} tok/s", self.0) };
        f.pad(&text)
    }
}

/// Bytes per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
pub struct BytesPerSec(pub f64);

impl std::str::FromStr for BytesPerSec {
    type Err = NoAmount;

    /// Reads `48 GB/s`: an amount as of [`Bytes`], and `/s`.
    fn from_str(text: &str) -> Result<Self, NoAmount> {
        let amount: Bytes = text.strip_suffix("/s").ok_or(NoAmount)?.parse()?;
        Ok(Self(amount.0 as f64))
    }
}

impl fmt::Display for BytesPerSec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "shown, not computed with"
        )]
        let bytes = Bytes(self.0.max(0.0) as u64);
        f.pad(&format!("{bytes}/s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_with_about_three_digits() {
        let shown: Vec<String> =
            [0, 512, 1536, 1_048_575, 230_686_720, 4_831_838_208].map(|n| Bytes(n).to_string()).into();
        assert_eq!(shown, ["0 B", "512 B", "1.5 KiB", "1.0 MiB", "220 MiB", "4.5 GiB"]);
    }

    #[test]
    fn what_is_no_amount_is_told_what_one_is() {
        let told = "7.2".parse::<Bytes>().unwrap_err().to_string();
        assert_eq!(told, "an amount is a number and MiB, GiB, MB or GB: write it as `7.2 GiB`");
    }

    #[test]
    fn amounts_are_read_with_their_units() {
        let read = |text: &str| text.parse::<Bytes>().map(|bytes| bytes.0);
        assert_eq!(read("900 MiB"), Ok(900 << 20));
        assert_eq!(read("7.5GiB"), Ok(15 << 29));
        assert_eq!(read("8 GB"), Ok(8_000_000_000));
        assert_eq!(read("0.25 MB"), Ok(250_000));
        for bad in
            ["", "GiB", "7", "7 TB", ".5 GiB", "7. GiB", "1.2345 GiB", "-1 GiB", "1234567 GiB", "1.2.3 GB"]
        {
            assert_eq!(read(bad), Err(NoAmount), "{bad}");
        }
        assert_eq!("48.5 GB/s".parse(), Ok(BytesPerSec(48.5e9)));
        assert_eq!("48.5 GB".parse::<BytesPerSec>(), Err(NoAmount));
    }

    #[test]
    fn taking_away_too_much_leaves_nothing() {
        assert_eq!(Bytes::mib(1) - Bytes::mib(2), Bytes::ZERO);
    }
}
