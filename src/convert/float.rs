//! Floats as a GGUF holds them, to bytes.

use crate::quant::TensorType;
use crate::quant::half::{to_bf16, to_f16};

/// Encodes `values` as F32, F16 or BF16, appending to `out`; returns the first value that
/// is not finite, or not once it is rounded.
pub(super) fn encode(kind: TensorType, values: &[f32], out: &mut Vec<u8>) -> Result<(), f32> {
    for &value in values {
        let is_kept = match kind {
            TensorType::F16 => {
                let bits = to_f16(value);
                out.extend(bits.to_le_bytes());
                bits & 0x7c00 != 0x7c00
            }
            TensorType::Bf16 => {
                let bits = to_bf16(value);
                out.extend(bits.to_le_bytes());
                bits & 0x7f80 != 0x7f80
            }
            _ => {
                out.extend(value.to_le_bytes());
                value.is_finite()
            }
        };
        if !is_kept {
            return Err(value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_too_large_for_the_type_is_returned() {
        let mut out = Vec::new();
        assert_eq!(encode(TensorType::F16, &[1.0, 70_000.0], &mut out), Err(70_000.0));
        assert!(encode(TensorType::F32, &[f32::NAN], &mut out).is_err());
        assert_eq!(encode(TensorType::Bf16, &[70_000.0], &mut out), Ok(()));
    }
}
