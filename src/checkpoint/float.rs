//! Floats of 16 and 32 bits, from and to bytes.

use super::Dtype;
use crate::quant::half::{from_bf16, from_f16, to_bf16, to_f16};

/// Decodes `bytes` of `dtype`, appending to `out`. Of what is no float nothing is appended.
pub(crate) fn decode(dtype: Dtype, bytes: &[u8], out: &mut Vec<f32>) {
    let pairs = || bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair));
    match dtype {
        Dtype::F32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four))),
        Dtype::F16 => out.extend(pairs().map(from_f16)),
        Dtype::Bf16 => out.extend(pairs().map(from_bf16)),
        Dtype::Other(_) => {}
    }
}

/// Encodes a value, rounded to nearest, appending to `out`. Of what is no float nothing is appended.
pub(super) fn encode(dtype: Dtype, value: f32, out: &mut Vec<u8>) {
    match dtype {
        Dtype::F32 => out.extend(value.to_le_bytes()),
        Dtype::F16 => out.extend(to_f16(value).to_le_bytes()),
        Dtype::Bf16 => out.extend(to_bf16(value).to_le_bytes()),
        Dtype::Other(_) => {}
    }
}

/// Rounds a value to what `dtype` can hold.
pub(super) fn round(dtype: Dtype, value: f32) -> f32 {
    match dtype {
        Dtype::F16 => from_f16(to_f16(value)),
        Dtype::Bf16 => from_bf16(to_bf16(value)),
        Dtype::F32 | Dtype::Other(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brain_floats_are_read() {
        let mut out = Vec::new();
        decode(Dtype::Bf16, &[0x80, 0x3f, 0x00, 0xc0], &mut out);
        assert_eq!(out, [1.0, -2.0]);
    }
}
