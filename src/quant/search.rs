//! Searches for the scale of a sub-block, for sixteen of them side by side.
//!
//! llama.cpp tries a few scales on one sub-block after the other (`make_qkx2_quants`,
//! `make_qx_quants`). Here each lane is a sub-block, and does the same operations in the same
//! order: every sum rounds the same, and the processor's vectors are used.
#![expect(clippy::inline_always, reason = "inlined, it is compiled for the vectors of its caller")]
#![expect(clippy::float_cmp, reason = "what is compared is what llama.cpp compares")]

/// Sub-blocks that are searched at once.
pub(in crate::quant) const LANES: usize = 16;

/// What is below it, llama.cpp takes for zero (`GROUP_MAX_EPS`).
pub(in crate::quant) const ZERO: f32 = 1e-15;

/// A number for each sub-block.
pub(in crate::quant) type Lanes = [f32; LANES];

/// As [`std::array::from_fn`], which is not always inlined.
#[inline(always)]
pub(in crate::quant) fn each<T: Copy + Default>(of: impl Fn(usize) -> T) -> [T; LANES] {
    let mut all = [T::default(); LANES];
    for (lane, own) in all.iter_mut().enumerate() {
        *own = of(lane);
    }
    all
}

/// Rounds to nearest, ties to even; beyond ±2^22 it gives what llama.cpp's `nearest_int` gives.
#[inline(always)]
pub(in crate::quant) fn nearest(value: f32) -> i32 {
    ((value + 12_582_912.0).to_bits() & 0x007f_ffff).cast_signed() - 0x0040_0000
}

/// Turns rows of sub-blocks into columns of lanes.
#[inline(always)]
pub(in crate::quant) fn in_lanes<const N: usize>(values: &[f32]) -> [Lanes; N] {
    let mut columns = [[0.0; LANES]; N];
    for (lane, block) in values.as_chunks::<N>().0.iter().take(LANES).enumerate() {
        for (column, value) in columns.iter_mut().zip(block) {
            column[lane] = *value;
        }
    }
    columns
}

/// What a search found: a value is about `scale * level - min`.
pub(in crate::quant) struct Found {
    pub(in crate::quant) scale: Lanes,
    pub(in crate::quant) min: Lanes,
    /// What gave the levels of the best try: level = nearest(inverse * (value - base)).
    inverse: Lanes,
    base: Lanes,
    is_flat: [bool; LANES],
    lowest: i32,
    highest: i32,
}

impl Found {
    /// Returns the level, from 0, that the search itself gave to a value of a lane.
    pub(in crate::quant) fn level(&self, lane: usize, value: f32) -> i32 {
        if self.is_flat[lane] {
            return 0;
        }
        nearest(self.inverse[lane] * (value - self.base[lane])).min(self.highest).max(self.lowest)
            - self.lowest
    }
}

/// How scale and minimum are searched together.
pub(in crate::quant) struct Grid {
    /// The highest level; the lowest is 0.
    pub(in crate::quant) top: u8,
    /// Tries are at `top + first`, then 0.1 further each.
    pub(in crate::quant) first: f32,
    /// Tries after the first.
    pub(in crate::quant) steps: u8,
    /// Whether errors count as they are; else their squares.
    pub(in crate::quant) is_absolute: bool,
}

/// Searches scale and minimum of `values`, whose errors count by `weights` (`make_qkx2_quants`).
#[inline(always)]
pub(in crate::quant) fn scale_and_min<const N: usize>(
    values: &[Lanes; N],
    weights: &[Lanes; N],
    grid: &Grid,
) -> Found {
    let highest = i32::from(grid.top);
    let top = f32::from(grid.top);
    let (mut min, mut max, mut sum_w) = (values[0], values[0], weights[0]);
    let mut sum_x: Lanes = each(|i| weights[0][i] * values[0][i]);
    for (x, w) in values.iter().zip(weights).skip(1) {
        min = each(|i| if x[i] < min[i] { x[i] } else { min[i] });
        max = each(|i| if x[i] > max[i] { x[i] } else { max[i] });
        sum_w = each(|i| sum_w[i] + w[i]);
        sum_x = each(|i| sum_x[i] + w[i] * x[i]);
    }
    min = each(|i| if min[i] > 0.0 { 0.0 } else { min[i] });
    let is_flat = each(|i| max[i] == min[i]);
    let mut inverse: Lanes = each(|i| top / (max[i] - min[i]));
    let mut base = min;
    let mut scale = each(|i| 1.0 / inverse[i]);
    let mut levels = [[0.0; LANES]; N];
    let mut least = [0.0; LANES];
    for (x, w) in values.iter().zip(weights) {
        least = each(|i| {
            let level = as_float(nearest(inverse[i] * (x[i] - min[i])).min(highest).max(0));
            least[i] + w[i] * counted(scale[i] * level + min[i] - x[i], grid)
        });
    }
    for step in 0..=grid.steps {
        let tried: Lanes = each(|i| (grid.first + 0.1 * f32::from(step) + top) / (max[i] - min[i]));
        let (mut sum_levels, mut sum_squares, mut sum_products) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for ((x, w), levels) in values.iter().zip(weights).zip(&mut levels) {
            let level = each(|i| as_float(nearest(tried[i] * (x[i] - min[i])).min(highest).max(0)));
            let weighed: Lanes = each(|i| w[i] * level[i]);
            sum_levels = each(|i| sum_levels[i] + weighed[i]);
            sum_squares = each(|i| sum_squares[i] + weighed[i] * level[i]);
            sum_products = each(|i| sum_products[i] + weighed[i] * x[i]);
            *levels = level;
        }
        let divisor: Lanes = each(|i| sum_w[i] * sum_squares[i] - sum_levels[i] * sum_levels[i]);
        let free_min: Lanes =
            each(|i| (sum_squares[i] * sum_x[i] - sum_levels[i] * sum_products[i]) / divisor[i]);
        let new_min = each(|i| if free_min[i] > 0.0 { 0.0 } else { free_min[i] });
        let new_scale: Lanes = each(|i| {
            let free = (sum_w[i] * sum_products[i] - sum_x[i] * sum_levels[i]) / divisor[i];
            if free_min[i] > 0.0 { sum_products[i] / sum_squares[i] } else { free }
        });
        let mut error = [0.0; LANES];
        for ((x, w), level) in values.iter().zip(weights).zip(&levels) {
            error = each(|i| error[i] + w[i] * counted(new_scale[i] * level[i] + new_min[i] - x[i], grid));
        }
        let is_better: [bool; LANES] = each(|i| divisor[i] > 0.0 && error[i] < least[i]);
        inverse = chosen(is_better, &tried, &inverse);
        base = chosen(is_better, &min, &base);
        least = chosen(is_better, &error, &least);
        scale = chosen(is_better, &new_scale, &scale);
        min = chosen(is_better, &new_min, &min);
    }
    scale = each(|i| if is_flat[i] { 0.0 } else { scale[i] });
    Found { scale, min: each(|i| -min[i]), inverse, base, is_flat, lowest: 0, highest }
}

/// Searches the scale of `values` around zero, with levels from `-half` to `half - 1`; errors
/// count by the square of the value (`make_qx_quants` with `rmse_type` 1).
#[inline(always)]
pub(in crate::quant) fn scale_alone<const N: usize>(values: &[Lanes; N], half: u8) -> Found {
    let (lowest, highest) = (-i32::from(half), i32::from(half) - 1);
    let (mut largest, mut peak) = ([0.0f32; LANES], [0.0f32; LANES]);
    for x in values {
        peak = each(|i| if x[i].abs() > largest[i] { x[i] } else { peak[i] });
        largest = each(|i| if x[i].abs() > largest[i] { x[i].abs() } else { largest[i] });
    }
    let is_flat = each(|i| largest[i] < ZERO);
    let mut inverse: Lanes = each(|i| -f32::from(half) / peak[i]);
    let (sum_products, sum_squares) = sums(values, &inverse, half);
    let mut scale: Lanes =
        each(|i| if sum_squares[i] == 0.0 { 0.0 } else { sum_products[i] / sum_squares[i] });
    let mut best: Lanes = each(|i| scale[i] * sum_products[i]);
    for step in -9..=9i8 {
        if step == 0 {
            continue;
        }
        let tried = each(|i| -(f32::from(half) + 0.1 * f32::from(step)) / peak[i]);
        let (sum_products, sum_squares) = sums(values, &tried, half);
        let is_better: [bool; LANES] =
            each(|i| sum_squares[i] > 0.0 && sum_products[i] * sum_products[i] > best[i] * sum_squares[i]);
        let new_scale: Lanes = each(|i| sum_products[i] / sum_squares[i]);
        best = chosen(is_better, &each(|i| new_scale[i] * sum_products[i]), &best);
        scale = chosen(is_better, &new_scale, &scale);
        inverse = chosen(is_better, &tried, &inverse);
    }
    scale = each(|i| if is_flat[i] { 0.0 } else { scale[i] });
    Found { scale, min: [0.0; LANES], inverse, base: [0.0; LANES], is_flat, lowest, highest }
}

/// Sums value * level and level * level, both by the square of the value.
#[inline(always)]
fn sums<const N: usize>(values: &[Lanes; N], inverse: &Lanes, half: u8) -> (Lanes, Lanes) {
    let (lowest, highest) = (-i32::from(half), i32::from(half) - 1);
    let (mut sum_products, mut sum_squares) = ([0.0; LANES], [0.0; LANES]);
    for x in values {
        let level = each(|i| as_float(nearest(inverse[i] * x[i]).min(highest).max(lowest)));
        sum_products = each(|i| sum_products[i] + x[i] * x[i] * x[i] * level[i]);
        sum_squares = each(|i| sum_squares[i] + x[i] * x[i] * level[i] * level[i]);
    }
    (sum_products, sum_squares)
}

#[inline(always)]
fn counted(error: f32, grid: &Grid) -> f32 {
    if grid.is_absolute { error.abs() } else { error * error }
}

#[inline(always)]
fn chosen(is_new: [bool; LANES], new: &Lanes, old: &Lanes) -> Lanes {
    each(|i| if is_new[i] { new[i] } else { old[i] })
}

#[inline(always)]
#[expect(clippy::cast_precision_loss, reason = "levels are below 64")]
fn as_float(level: i32) -> f32 {
    level as f32
}
