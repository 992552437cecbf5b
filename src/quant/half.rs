//! Floats of 16 bits, as bits.

/// Returns what a half stands for.
pub(crate) fn from_f16(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent = u32::from(bits >> 10 & 0x1f);
    let fraction = u32::from(bits & 0x3ff);
    let magnitude = match exponent {
        // subnormal: the fraction counts steps of 2^-24
        0 => (f32::from(bits & 0x3ff) * f32::from_bits(0x3380_0000)).to_bits(),
        0x1f => 0x7f80_0000 | fraction << 13,
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// Rounds to nearest, ties to even, as numpy and llama.cpp do; too large gives infinity.
#[expect(clippy::cast_possible_truncation, reason = "each value is below 2^16 where it is cut")]
pub(crate) fn to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    let half = if magnitude >= 0x7f80_0000 {
        if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 }
    } else if magnitude < 0x3880_0000 {
        // below 2^-14: adding 0.5 leaves the fraction in steps of 2^-24, rounded by the addition
        ((f32::from_bits(magnitude) + 0.5).to_bits() - 0x3f00_0000) as u16
    } else {
        let odd = magnitude >> 13 & 1;
        let rounded = (magnitude - (112 << 23) + 0xfff + odd) >> 13;
        rounded.min(0x7c00) as u16
    };
    sign | half
}

/// Rounds to nearest, ties to even.
pub(crate) fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// Returns what a brain float stands for.
pub(crate) fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_survives_the_round_trip() {
        for bits in 0..=u16::MAX {
            let value = from_f16(bits);
            if value.is_nan() {
                assert!(bits & 0x7c00 == 0x7c00 && bits & 0x3ff != 0);
            } else {
                assert_eq!(to_f16(value), bits, "{value}");
            }
        }
    }

    #[test]
    fn halves_are_rounded_to_nearest_and_ties_to_even() {
        // between each two neighbours: the middle goes to the even one, a hair off the middle does not
        for bits in 0..0x7bff_u16 {
            let middle = f32::midpoint(from_f16(bits), from_f16(bits + 1));
            let even = bits + (bits & 1);
            assert_eq!(to_f16(middle), even, "{middle}");
            assert_eq!(to_f16(middle.next_up()), bits + 1);
            assert_eq!(to_f16(middle.next_down()), bits);
        }
        assert_eq!(to_f16(65_519.0), 0x7bff);
        assert_eq!(to_f16(65_520.0), 0x7c00);
        assert_eq!(to_f16(-1.0), 0xbc00);
    }

    #[test]
    fn brain_floats_are_rounded_too() {
        assert_eq!(to_bf16(1.0), 0x3f80);
        assert_eq!(to_bf16(f32::from_bits(0x3f80_8000)), 0x3f80, "a tie goes to the even");
        assert_eq!(to_bf16(f32::from_bits(0x3f81_8000)), 0x3f82);
        assert_eq!(from_bf16(0xc000).to_bits(), (-2.0f32).to_bits());
    }
}
