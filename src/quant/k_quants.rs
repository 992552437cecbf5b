//! Blocks of the K-quants, byte for byte as llama.cpp makes them without an importance matrix
//! (`quantize_row_q4_K_ref` and its like), several times as fast.
#![expect(clippy::inline_always, reason = "inlined, it is compiled for the vectors of its caller")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "levels and scales are cut as llama.cpp cuts them"
)]

use super::TensorType;
use super::half::{from_f16, to_f16};
use super::kernel::{Fault, put_scale};
use super::search::{Grid, LANES, ZERO, each, in_lanes, nearest, scale_alone, scale_and_min};

/// Values of a block.
const BLOCK: usize = 256;

/// Tells whether blocks of the type are made here.
pub(in crate::quant) fn encodes(kind: TensorType) -> bool {
    use TensorType::{Q2K, Q4K, Q5K, Q6K};
    matches!(kind, Q2K | Q4K | Q5K | Q6K)
}

/// Encodes whole blocks of a type that [`encodes`] names, appending to `out`.
pub(in crate::quant) fn encode(kind: TensorType, values: &[f32], out: &mut Vec<u8>) -> Result<(), Fault> {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "the compiler cannot see which processor this is")]
        // SAFETY: this processor has AVX2, which is all that the function asks for.
        return unsafe { by_avx2(kind, values, out) };
    }
    by_any(kind, values, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn by_avx2(kind: TensorType, values: &[f32], out: &mut Vec<u8>) -> Result<(), Fault> {
    by_any(kind, values, out)
}

#[inline(always)]
fn by_any(kind: TensorType, values: &[f32], out: &mut Vec<u8>) -> Result<(), Fault> {
    match kind {
        TensorType::Q2K => {
            for block in values.as_chunks().0 {
                q2_k(block, out)?;
            }
        }
        TensorType::Q6K => {
            for block in values.as_chunks().0 {
                q6_k(block, out)?;
            }
        }
        TensorType::Q4K => q4_or_q5_k::<15>(values, out)?,
        TensorType::Q5K => q4_or_q5_k::<31>(values, out)?,
        _ => return Err(Fault::WithoutLlama(kind)),
    }
    Ok(())
}

/// `Q4_K` with levels up to 15, `Q5_K` with levels up to 31: eight sub-blocks of 32 values, each
/// with a scale and a minimum of 6 bits.
#[inline(always)]
fn q4_or_q5_k<const TOP: u8>(values: &[f32], out: &mut Vec<u8>) -> Result<(), Fault> {
    let (pairs, rest) = values.as_chunks();
    for pair in pairs {
        pair_of_q4_or_q5_k::<TOP>(pair, 2, out)?;
    }
    if rest.is_empty() {
        return Ok(());
    }
    let mut last = [0.0; 2 * BLOCK];
    last[..rest.len()].copy_from_slice(rest);
    pair_of_q4_or_q5_k::<TOP>(&last, 1, out)
}

/// Appends the first `count` of two blocks.
#[inline(always)]
fn pair_of_q4_or_q5_k<const TOP: u8>(
    values: &[f32; 2 * BLOCK],
    count: usize,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let kind = if TOP == 15 { TensorType::Q4K } else { TensorType::Q5K };
    let (first, steps) = if TOP == 15 { (-1.0, 20) } else { (-0.5, 15) };
    let columns = in_lanes::<32>(values);
    let mut squares = [0.0; LANES];
    for column in &columns {
        squares = each(|i| squares[i] + column[i] * column[i]);
    }
    let mean = each(|i| f32::sqrt(squares[i] / 32.0));
    let mut weights = columns;
    for column in &mut weights {
        *column = each(|i| mean[i] + column[i].abs());
    }
    let grid = Grid { top: TOP, first, steps, is_absolute: false };
    let found = scale_and_min(&columns, &weights, &grid);
    for (number, block) in values.as_chunks::<BLOCK>().0.iter().enumerate().take(count) {
        let own = number * 8..number * 8 + 8;
        let (scale, scales) = in_steps(&found.scale[own.clone()], 63);
        let (min, mins) = in_steps(&found.min[own.clone()], 63);
        put_scale(scale, kind, out)?;
        put_scale(min, kind, out)?;
        out.extend(packed(scales, mins));
        let mut all = [0; BLOCK];
        let parts = all.as_chunks_mut::<32>().0.iter_mut().zip(block.as_chunks::<32>().0);
        for (part, (levels_of, values)) in parts.enumerate() {
            let steps = (rounded(scale) * f32::from(scales[part]), rounded(min) * f32::from(mins[part]));
            *levels_of = levels(values, steps, (0, TOP.into()), |value| found.level(own.start + part, value));
        }
        if TOP == 31 {
            let bit = |at: usize, part: usize| all[part * 32 + at] >> 4 << part;
            out.extend((0..32).map(|at| (0..8).fold(0, |bits, part| bits | bit(at, part))));
        }
        for two in all.as_chunks::<64>().0 {
            out.extend((0..32).map(|at| two[at] & 15 | (two[at + 32] & 15) << 4));
        }
    }
    Ok(())
}

/// Six bits each for eight scales and minimums: the first four as they are, the low halves of the
/// others together, and their high bits above the first four.
fn packed(scales: [u8; 8], mins: [u8; 8]) -> [u8; 12] {
    let mut out = [0; 12];
    for at in 0..4 {
        out[at] = scales[at] | scales[at + 4] >> 4 << 6;
        out[at + 4] = mins[at] | mins[at + 4] >> 4 << 6;
        out[at + 8] = scales[at + 4] & 15 | (mins[at + 4] & 15) << 4;
    }
    out
}

/// Sixteen sub-blocks of 16 values, with levels of 6 bits around zero and a scale of 8 bits each.
#[inline(always)]
fn q6_k(block: &[f32; BLOCK], out: &mut Vec<u8>) -> Result<(), Fault> {
    let found = scale_alone(&in_lanes::<16>(block), 32);
    let (mut largest, mut peak) = (0.0, 0.0);
    for scale in found.scale {
        if scale.abs() > largest {
            (largest, peak) = (scale.abs(), scale);
        }
    }
    if largest < ZERO {
        out.resize(out.len() + 210, 0);
        return Ok(());
    }
    let inverse = -128.0 / peak;
    let scale = 1.0 / inverse;
    let scales = found.scale.map(|scale| nearest(inverse * scale).min(127) as i8);
    let mut all = [0; BLOCK];
    let parts = all.as_chunks_mut::<16>().0.iter_mut().zip(block.as_chunks::<16>().0);
    for (lane, (levels_of, values)) in parts.enumerate() {
        let step = (rounded(scale) * f32::from(scales[lane]), 0.0);
        *levels_of = levels(values, step, (-32, 31), |value| found.level(lane, value));
    }
    let (halves, _) = all.as_chunks::<128>();
    for half in halves {
        out.extend((0..64).map(|at| half[at] & 15 | (half[at + 64] & 15) << 4));
    }
    for half in halves {
        let bits = |at: usize, part: usize| half[part * 32 + at] >> 4 << (2 * part);
        out.extend((0..32).map(|at| (0..4).fold(0, |all, part| all | bits(at, part))));
    }
    out.extend(scales.map(i8::cast_unsigned));
    put_scale(scale, TensorType::Q6K, out)
}

/// Sixteen sub-blocks of 16 values, each with a scale and a minimum of 4 bits, and levels of 2.
#[inline(always)]
fn q2_k(block: &[f32; BLOCK], out: &mut Vec<u8>) -> Result<(), Fault> {
    let columns = in_lanes::<16>(block);
    let mut weights = columns;
    for column in &mut weights {
        *column = each(|i| column[i].abs());
    }
    let grid = Grid { top: 3, first: -0.5, steps: 15, is_absolute: true };
    let found = scale_and_min(&columns, &weights, &grid);
    let (scale, scales) = in_steps::<LANES>(&found.scale, 15);
    let (min, mins) = in_steps::<LANES>(&found.min, 15);
    let mut all = [0; BLOCK];
    let parts = all.as_chunks_mut::<16>().0.iter_mut().zip(block.as_chunks::<16>().0);
    for (lane, (levels_of, values)) in parts.enumerate() {
        let steps = (rounded(scale) * f32::from(scales[lane]), rounded(min) * f32::from(mins[lane]));
        *levels_of = levels(values, steps, (0, 3), |value| found.level(lane, value));
    }
    out.extend((0..LANES).map(|lane| scales[lane] | mins[lane] << 4));
    for half in all.as_chunks::<128>().0 {
        let bits = |at: usize, part: usize| half[part * 32 + at] << (2 * part);
        out.extend((0..32).map(|at| (0..4).fold(0, |all, part| all | bits(at, part))));
    }
    put_scale(scale, TensorType::Q2K, out)?;
    put_scale(min, TensorType::Q2K, out)
}

/// Returns a step, and `found` in such steps, of which the largest is `top`.
#[inline(always)]
fn in_steps<const N: usize>(found: &[f32], top: u8) -> (f32, [u8; N]) {
    let largest = found.iter().fold(0.0, |largest, value| if *value > largest { *value } else { largest });
    let inverse = if largest > 0.0 { f32::from(top) / largest } else { 0.0 };
    let mut steps = [0; N];
    for (step, value) in steps.iter_mut().zip(found) {
        *step = (nearest(inverse * value) as u8).min(top);
    }
    (largest / f32::from(top), steps)
}

/// Returns the levels of a sub-block's values with its final scale and minimum; where the scale
/// came out as zero, those of the search.
#[inline(always)]
fn levels<const N: usize>(
    values: &[f32; N],
    (scale, min): (f32, f32),
    (lowest, highest): (i32, i32),
    searched: impl Fn(f32) -> i32,
) -> [u8; N] {
    let mut all = [0; N];
    if scale == 0.0 {
        for (level, value) in all.iter_mut().zip(values) {
            *level = searched(*value) as u8;
        }
        return all;
    }
    for (level, value) in all.iter_mut().zip(values) {
        *level = (nearest((value + min) / scale).min(highest).max(lowest) - lowest) as u8;
    }
    all
}

/// Returns what is left of a value that is stored as a half.
fn rounded(value: f32) -> f32 {
    from_f16(to_f16(value))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::ids::Digest;
    use crate::quant::kernel;

    /// Values as weights have them, and sub-blocks that are hard: zeros, one value, one outlier, all
    /// of one sign, so small that sums underflow, so close together that the scale comes out as 0.
    fn hard_values(count: usize) -> Vec<f32> {
        let mut seed = 7u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 40) as f32 / (1u32 << 24) as f32
        };
        let mut kind = 0;
        let value = |at: usize| {
            if at.is_multiple_of(16) {
                kind = (next() * 20.0) as u32;
            }
            let bell = (next() + next() + next() + next() - 2.0) * 0.05;
            match kind {
                0 => 0.0,
                1 => 0.03,
                2 if at % 16 == 5 => 3.0,
                3 => bell.abs(),
                4 => -bell.abs() - 0.01,
                5 => -0.5 + bell * 1e-6,
                6 => bell * 1e-6,
                7 => bell * 1e-14,
                8 if at.is_multiple_of(2) => 1e-20,
                9 => (bell * 100.0).round() * 0.01,
                10 => bell * 1e4,
                _ => bell,
            }
        };
        (0..count).map(value).collect()
    }

    /// The digests are those of what llama.cpp made.
    #[test]
    fn blocks_are_as_llama_cpp_made_them() {
        // an odd number of blocks: the last has no other beside it
        let values = hard_values(BLOCK * 401);
        let mut digests = String::new();
        for kind in [TensorType::Q4_0, TensorType::Q2K, TensorType::Q4K, TensorType::Q5K, TensorType::Q6K] {
            let mut out = Vec::new();
            kernel::encode(kind, BLOCK, &values, None, &mut out).unwrap();
            writeln!(digests, "{kind} {}", Digest::of(&out)).unwrap();
            #[cfg(feature = "llama")]
            {
                let mut by_llama = Vec::new();
                crate::quant::llama::encode(kind, BLOCK, &values, None, &mut by_llama).unwrap();
                assert!(out == by_llama, "{kind}");
            }
            if encodes(kind) {
                let mut without_vectors = Vec::new();
                by_any(kind, &values, &mut without_vectors).unwrap();
                assert!(out == without_vectors, "{kind}");
            }
        }
        insta::assert_snapshot!(digests);
    }

    #[test]
    fn a_scale_beyond_the_halves_is_refused() {
        for kind in [TensorType::Q4_0, TensorType::Q2K, TensorType::Q4K, TensorType::Q5K, TensorType::Q6K] {
            let mut values = [1.0; BLOCK];
            values[3] = 1e10;
            let fault = kernel::encode(kind, BLOCK, &values, None, &mut Vec::new()).unwrap_err();
            assert_eq!(fault, Fault::NotFinite(kind));
        }
    }
}
