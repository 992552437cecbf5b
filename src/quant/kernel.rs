//! Rows of values to blocks, and back.
//!
//! What a block holds is llama.cpp's to define, so its own functions make it. Floats, `Q8_0`,
//! `Q4_0` and most K-quants are also made here, several times as fast and also in programs that
//! are built without it: bit for bit the same, which `tests/quantize.rs` holds them to.

use super::half::{from_bf16, from_f16, to_bf16, to_f16};
use super::{TensorType, k_quants};

/// Why values could not be encoded or decoded.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Fault {
    /// The type cannot hold a value.
    #[error("{value} does not fit {kind}: take F32, or a quant")]
    TooLarge {
        /// The value.
        value: f32,
        /// The type.
        kind: TensorType,
    },
    /// A block came out with a scale that is not finite.
    #[error("its values are too large for {0}: take F32, BF16 or a quant")]
    NotFinite(TensorType),
    /// The type is llama.cpp's, which this program was built without.
    #[error(
        "{0} needs llama.cpp, and this program was built without it: take Q8_0, or build it with llama.cpp"
    )]
    WithoutLlama(TensorType),
    /// The values are no whole rows, or a row is no whole number of blocks.
    #[error("rows of {row} values can not be {kind}: take another quant")]
    Shape {
        /// Values in a row.
        row: usize,
        /// The type.
        kind: TensorType,
    },
}

const Q8_0_BLOCK: usize = 32;

/// Tells whether this program encodes the type, with importance of columns or without.
pub fn encodes(kind: TensorType, by_importance: bool) -> bool {
    use TensorType::{Bf16, F16, F32, Iq4Nl, Iq4Xs, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    match kind {
        F32 | F16 | Bf16 | Q8_0 => true,
        Q4_0 | Q2K | Q4K | Q5K | Q6K => !by_importance || cfg!(feature = "llama"),
        Q4_1 | Q5_0 | Q5_1 | Q3K | Iq4Nl | Iq4Xs => cfg!(feature = "llama"),
        _ => false,
    }
}

/// Encodes `values`, rows of `row`, and appends them to `out`. The values are finite.
///
/// `importance` tells of each column of a row how much it matters; floats and `Q8_0` do not ask.
pub fn encode(
    kind: TensorType,
    row: usize,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let shape = Fault::Shape { row, kind };
    if row == 0 || !values.len().is_multiple_of(row) || importance.is_some_and(|weights| weights.len() != row)
    {
        return if values.is_empty() { Ok(()) } else { Err(shape) };
    }
    let row_bytes = kind.row_bytes(row as u64).and_then(|bytes| usize::try_from(bytes).ok()).ok_or(shape)?;
    out.reserve(row_bytes.saturating_mul(values.len() / row));
    match kind {
        TensorType::F32 => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        TensorType::F16 => halves(kind, values, out, to_f16, 0x7c00)?,
        TensorType::Bf16 => halves(kind, values, out, to_bf16, 0x7f80)?,
        TensorType::Q8_0 => {
            for block in values.as_chunks::<Q8_0_BLOCK>().0 {
                q8_0(block, out)?;
            }
        }
        TensorType::Q4_0 if importance.is_none() => {
            for block in values.as_chunks().0 {
                q4_0(block, out)?;
            }
        }
        _ if importance.is_none() && k_quants::encodes(kind) => k_quants::encode(kind, values, out)?,
        _ => by_llama(kind, row, values, importance, out)?,
    }
    Ok(())
}

#[cfg(feature = "llama")]
fn by_llama(
    kind: TensorType,
    row: usize,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    if !encodes(kind, importance.is_some()) {
        return Err(Fault::Shape { row, kind });
    }
    super::llama::encode(kind, row, values, importance, out)
}

#[cfg(not(feature = "llama"))]
fn by_llama(kind: TensorType, _: usize, _: &[f32], _: Option<&[f32]>, _: &mut Vec<u8>) -> Result<(), Fault> {
    Err(Fault::WithoutLlama(kind))
}

/// Decodes whole blocks, and appends their values to `out`.
pub fn decode(kind: TensorType, bytes: &[u8], out: &mut Vec<f32>) -> Result<(), Fault> {
    let pairs = || bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair));
    match kind {
        TensorType::F32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four))),
        TensorType::F16 => out.extend(pairs().map(from_f16)),
        TensorType::Bf16 => out.extend(pairs().map(from_bf16)),
        TensorType::Q8_0 => {
            for block in bytes.as_chunks::<{ Q8_0_BLOCK + 2 }>().0 {
                let scale = from_f16(u16::from_le_bytes([block[0], block[1]]));
                out.extend(block[2..].iter().map(|level| f32::from(level.cast_signed()) * scale));
            }
        }
        #[cfg(feature = "llama")]
        _ => super::llama::decode(kind, bytes, out)?,
        #[cfg(not(feature = "llama"))]
        _ => return Err(Fault::WithoutLlama(kind)),
    }
    Ok(())
}

/// Rounds `values` to a 16-bit float, in place.
pub fn round(kind: TensorType, values: &mut [f32]) -> Result<(), Fault> {
    let rounded = |value: f32| match kind {
        TensorType::F16 => from_f16(to_f16(value)),
        TensorType::Bf16 => from_bf16(to_bf16(value)),
        _ => value,
    };
    for value in values {
        let before = *value;
        *value = rounded(before);
        if !value.is_finite() {
            return Err(Fault::TooLarge { value: before, kind });
        }
    }
    Ok(())
}

fn halves(
    kind: TensorType,
    values: &[f32],
    out: &mut Vec<u8>,
    bits: impl Fn(f32) -> u16,
    exponent: u16,
) -> Result<(), Fault> {
    let begun = out.len();
    out.extend(values.iter().flat_map(|value| bits(*value).to_le_bytes()));
    let written = out.get(begun..).unwrap_or_default();
    let is_infinite = |pair: &[u8; 2]| u16::from_le_bytes(*pair) & exponent == exponent;
    match written.as_chunks::<2>().0.iter().position(is_infinite) {
        None => Ok(()),
        Some(at) => Err(Fault::TooLarge { value: values.get(at).copied().unwrap_or_default(), kind }),
    }
}

/// Appends a scale as a half; one that a half cannot hold is a fault.
pub(in crate::quant) fn put_scale(scale: f32, kind: TensorType, out: &mut Vec<u8>) -> Result<(), Fault> {
    let bits = to_f16(scale);
    if bits & 0x7c00 == 0x7c00 {
        return Err(Fault::NotFinite(kind));
    }
    out.extend(bits.to_le_bytes());
    Ok(())
}

/// A scale, then each value in steps of it, halves away from zero (`quantize_row_q8_0_ref`).
#[expect(clippy::cast_possible_truncation, reason = "a level is within ±127")]
fn q8_0(block: &[f32; Q8_0_BLOCK], out: &mut Vec<u8>) -> Result<(), Fault> {
    let largest = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    put_scale(scale, TensorType::Q8_0, out)?;
    out.extend(block.map(|value| ((value * inverse).round() as i8).cast_unsigned()));
    Ok(())
}

/// A scale that makes the value farthest from zero the level -8, and levels of 4 bits, the first
/// half of the values below the second (`quantize_row_q4_0_ref`).
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a level is within 0 and 16")]
fn q4_0(block: &[f32; 32], out: &mut Vec<u8>) -> Result<(), Fault> {
    let farther = |far: f32, value: &f32| if far.abs() < value.abs() { *value } else { far };
    let scale = block.iter().fold(0.0, farther) / -8.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    put_scale(scale, TensorType::Q4_0, out)?;
    let level = |value: f32| ((value * inverse + 8.5) as u8).min(15);
    out.extend((0..16).map(|at| level(block[at]) | level(block[at + 16]) << 4));
    Ok(())
}

#[cfg(test)]
#[path = "kernel_texts_tests.rs"]
mod texts_tests;

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(kind: TensorType, row: usize, values: &[f32]) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::new();
        encode(kind, row, values, None, &mut out).map(|()| out)
    }

    #[test]
    fn a_q8_0_block_has_a_scale_and_levels_rounded_away_from_zero() {
        let mut values = [0.0; 32];
        (values[0], values[1], values[2], values[3]) = (127.0, -63.5, 0.5, -0.25);
        let bytes = encoded(TensorType::Q8_0, 32, &values).unwrap();
        assert_eq!(bytes[..6], [0x00, 0x3c, 127, (-64i8).cast_unsigned(), 1, 0]);
        let mut back = Vec::new();
        decode(TensorType::Q8_0, &bytes, &mut back).unwrap();
        assert_eq!(back[..4], [127.0, -64.0, 1.0, 0.0]);
        assert_eq!(encoded(TensorType::Q8_0, 32, &[0.0; 32]).unwrap(), [0; 34]);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let fault = encoded(TensorType::F16, 2, &[1.0, 70_000.0]).unwrap_err();
        assert_eq!(fault, Fault::TooLarge { value: 70_000.0, kind: TensorType::F16 });
        assert_eq!(encoded(TensorType::Q8_0, 32, &[1e38; 32]), Err(Fault::NotFinite(TensorType::Q8_0)));
        assert_eq!(
            encoded(TensorType::Q8_0, 20, &[0.0; 20]),
            Err(Fault::Shape { row: 20, kind: TensorType::Q8_0 })
        );
        assert!(encoded(TensorType::Bf16, 2, &[70_000.0, -3e38]).is_ok());
        assert!(round(TensorType::F16, &mut [1.0, 65_520.0]).is_err());
    }

    #[test]
    fn rounding_is_what_a_file_between_would_do() {
        let mut values = [1.000_1, -3.3, 1e-9];
        let mut between = Vec::new();
        for kind in [TensorType::F16, TensorType::Bf16] {
            let written = encoded(kind, 3, &values).unwrap();
            between.clear();
            decode(kind, &written, &mut between).unwrap();
            round(kind, &mut values).unwrap();
            assert_eq!(values.as_slice(), between, "{kind}");
        }
    }
}
