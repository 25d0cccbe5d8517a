//! Passes over all logits of a vocabulary, written so that the compiler makes vector instructions of them: blocks of a fixed length,
//! lanes that are summed in a fixed order. A result depends on the logits alone.

use crate::backend::NoToken;

/// Logits whose maximum, or sum, is kept.
pub(super) const BLOCK: usize = 128;
pub(super) const LANES: usize = 16;

/// Fills `maxima` with the largest logit of each block and returns the largest of all: finite, and all others are numbers.
pub(super) fn scan(logits: &[f32], maxima: &mut Vec<f32>) -> Result<f32, NoToken> {
    maxima.clear();
    let mut numbers = !logits.is_empty();
    for block in logits.chunks(BLOCK) {
        let (max, block_numbers) = block_max(block);
        numbers &= block_numbers;
        maxima.push(max);
    }
    match maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max) {
        _ if !numbers => Err(NoToken::NotANumber),
        f32::NEG_INFINITY => Err(NoToken::NothingAllowed),
        f32::INFINITY => Err(NoToken::NotANumber),
        max => Ok(max),
    }
}

fn block_max(block: &[f32]) -> (f32, bool) {
    let (mut max, mut none) = ([f32::NEG_INFINITY; LANES], [0u32; LANES]);
    let (whole, rest) = block.as_chunks::<LANES>();
    for lanes in whole {
        for lane in 0..LANES {
            let logit = lanes[lane];
            max[lane] = if logit > max[lane] { logit } else { max[lane] };
            none[lane] |= u32::from(logit.is_nan());
        }
    }
    let largest = max.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &logit| if logit > max { logit } else { max });
    (largest, none.iter().all(|&none| none == 0) && !rest.iter().any(|logit| logit.is_nan()))
}

/// How a logit weighs in a draw: `exp((logit - max) / temperature)`, 1 for the largest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weigh {
    pub max: f32,
    /// 1 / temperature.
    pub inverse: f32,
}

impl Weigh {
    #[inline(always)]
    pub fn weight(self, logit: f32) -> f32 {
        exp((logit - self.max) * self.inverse)
    }

    /// Fills `sums` with each block's weight and returns the weight of all.
    pub fn sums(self, logits: &[f32], sums: &mut Vec<f64>) -> f64 {
        sums.clear();
        sums.extend(logits.chunks(BLOCK).map(|block| self.block_sum(block)));
        sums.iter().sum()
    }

    fn block_sum(self, block: &[f32]) -> f64 {
        let mut sum = [0.0f32; LANES];
        let (whole, rest) = block.as_chunks::<LANES>();
        for lanes in whole {
            for lane in 0..LANES {
                sum[lane] += self.weight(lanes[lane]);
            }
        }
        let rest: f64 = rest.iter().map(|&logit| f64::from(self.weight(logit))).sum();
        sum.iter().map(|&sum| f64::from(sum)).sum::<f64>() + rest
    }
}

/// Logits that are at least `least`.
pub(super) fn count_from(logits: &[f32], least: f32) -> u32 {
    logits.iter().map(|&logit| u32::from(logit >= least)).sum()
}

/// e to the power of `x` ≤ 0 within two units in the last place; 0 below -87. The reduction and the polynomial are those of `expf` in
/// Moshier's Cephes library; the exponent is made of the bits that rounding by a large number leaves.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.0;
    /// 1.5 · 2^23, which rounds to whole numbers, and the exponent's bias.
    const ROUNDING: f32 = 12_582_912.0 + 127.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > LOWEST { x } else { LOWEST };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUNDING;
    let whole = rounded - ROUNDING;
    let r = clamped - whole * LN_2_HIGH - whole * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    p = p * (r * r) + r + 1.0;
    let power = f32::from_bits(rounded.to_bits() << 23);
    if x > LOWEST { p * power } else { 0.0 }
}

/// The first logit of the block at which the running sum of the blocks' `sums` passes `target`, and what the blocks before it weigh.
/// `None`: nothing weighs anything.
pub(super) fn reach(sums: &[f64], target: f64) -> Option<(usize, f64)> {
    let (mut before, mut reached) = (0.0, None);
    for (block, sum) in sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
        // Rounding may leave the last sum just below the target: then the last block that weighs anything is it.
        reached = Some((block * BLOCK, before));
        if before + sum > target {
            break;
        }
        before += sum;
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_one() {
        let mut worst = 0.0f64;
        for step in 0..870_000 {
            let x = -(step as f32) * 1e-4;
            let expected = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - expected).abs() / expected);
        }
        assert!(worst < 2.5e-7, "{worst}");
        assert_eq!([0.0, -87.0, -1e30, f32::NEG_INFINITY].map(exp), [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn maxima_and_sums_are_those_of_the_blocks() {
        for len in [1, 15, 16, 17, 127, 128, 129, 1000] {
            let logits: Vec<f32> = (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect();
            let mut maxima = Vec::new();
            let max = scan(&logits, &mut maxima).expect("all are numbers");
            assert_eq!(max, logits.iter().copied().fold(f32::MIN, f32::max));
            let expected: Vec<f32> = logits.chunks(BLOCK).map(|block| block.iter().copied().fold(f32::MIN, f32::max)).collect();
            assert_eq!(maxima, expected);
            let weigh = Weigh { max, inverse: 0.5 };
            let total = weigh.sums(&logits, &mut Vec::new());
            let expected: f64 = logits.iter().map(|&logit| (f64::from(logit - max) * 0.5).exp()).sum();
            assert!((total / expected - 1.0).abs() < 1e-6, "{total} for {expected}");
            // One that is none, anywhere.
            for at in [0, len / 2, len - 1] {
                let mut broken = logits.clone();
                broken[at] = f32::NAN;
                assert_eq!(scan(&broken, &mut maxima), Err(NoToken::NotANumber));
            }
        }
    }
}
