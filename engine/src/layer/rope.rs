//! Rotary position embedding (Su et al. 2021) with the scalings of frequencies that transformers calls linear, llama3 and yarn.
//!
//! Angles are products in f32, as transformers 5 forms them: at position 2,000 the rounding of the product is worth more than any
//! later error, so an exact angle would be the wrong one. Their cosines and sines are computed in f64 and rounded once.

use std::f32::consts::PI;

use engine_assets::{Rope, RopeScaling};

use crate::device::RotationTable;

/// The table for positions `0 .. positions`.
pub fn table(rope: &Rope, dim: usize, positions: usize) -> RotationTable {
    let frequencies = inverse_frequencies(rope, dim);
    let amplitude = match rope.scaling {
        RopeScaling::Yarn { attention_factor, .. } => attention_factor as f32,
        _ => 1.0,
    };
    let mut cos = Vec::with_capacity(positions * frequencies.len());
    let mut sin = Vec::with_capacity(positions * frequencies.len());
    for position in 0..positions {
        for frequency in &frequencies {
            let angle = f64::from(position as f32 * frequency);
            cos.push(angle.cos() as f32 * amplitude);
            sin.push(angle.sin() as f32 * amplitude);
        }
    }
    RotationTable { cos, sin, dim, pairing: rope.pairing }
}

/// Radians per position of each pair of elements; `dim / 2` of them, falling.
fn inverse_frequencies(rope: &Rope, dim: usize) -> Vec<f32> {
    let periods = (0..dim / 2).map(|pair| {
        let exponent = (2 * pair) as f32 / dim as f32;
        rope.theta.powf(f64::from(exponent)) as f32
    });
    let unscaled = periods.clone().map(|period| 1.0 / period);
    match &rope.scaling {
        RopeScaling::None => unscaled.collect(),
        RopeScaling::Linear { factor } => unscaled.map(|frequency| frequency / *factor as f32).collect(),
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, truncate, .. } => {
            // The pair, of `dim`, that turns so often within the original context.
            let pair = |turns: f64| {
                dim as f64 * (*original_context as f64 / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * rope.theta.ln())
            };
            let (low, high) = (pair(*beta_fast), pair(*beta_slow));
            let (low, high) = if *truncate { (low.floor(), high.ceil()) } else { (low, high) };
            let (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
            let high = if high == low { high + 0.001 } else { high };
            let (low, span, factor) = (low as f32, (high - low) as f32, *factor as f32);
            periods
                .enumerate()
                .map(|(pair, period)| {
                    let kept = 1.0 - ((pair as f32 - low) / span).clamp(0.0, 1.0);
                    1.0 / (factor * period) * (1.0 - kept) + 1.0 / period * kept
                })
                .collect()
        }
        RopeScaling::Factors(factors) => unscaled.zip(factors).map(|(frequency, factor)| frequency / factor).collect(),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => unscaled
            .map(|frequency| {
                let (factor, low, high) = (*factor as f32, *low_freq_factor as f32, *high_freq_factor as f32);
                let original = *original_context as f32;
                let wavelength = 2.0 * PI / frequency;
                if wavelength < original / high {
                    frequency
                } else if wavelength > original / low {
                    frequency / factor
                } else {
                    let kept = (original / wavelength - low) / (high - low);
                    (1.0 - kept) * frequency / factor + kept * frequency
                }
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use engine_assets::RopePairing;

    use super::*;

    fn check(scaling: RopeScaling, expected: &[f32]) {
        let rope = Rope { theta: 10000.0, scaling, pairing: RopePairing::Halves };
        let got = inverse_frequencies(&rope, 8);
        let close = got.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 2e-7 * b.abs());
        assert!(got.len() == expected.len() && close, "{got:?} is not {expected:?}");
    }

    /// By hand: 10000^(-2i/8), and Llama 3.1's rule with wavelengths 6.28, 62.8, 628 and 6283.
    #[test]
    fn inverse_frequencies_follow_the_papers() {
        check(RopeScaling::None, &[1.0, 0.1, 0.01, 0.001]);
        check(RopeScaling::Factors(vec![1.0, 1.0, 2.0, 8.0]), &[1.0, 0.1, 0.005, 0.000125]);
        // original 1024, low 1, high 4: below 256 kept, above 1024 divided by 8, 628.3 between: kept share (1024/628.3185 − 1) / 3.
        let between = {
            let kept: f32 = (1024.0 / 628.318_55 - 1.0) / 3.0;
            (1.0 - kept) * 0.01 / 8.0 + kept * 0.01
        };
        let llama3 = RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 1024 };
        check(llama3, &[1.0, 0.1, between, 0.000125]);
    }

    #[test]
    fn the_table_turns_by_position() {
        let rope = Rope { theta: 10000.0, scaling: RopeScaling::None, pairing: RopePairing::Halves };
        let table = table(&rope, 4, 3);
        assert_eq!(table.cos[..2], [1.0, 1.0]);
        assert_eq!(table.sin[..2], [0.0, 0.0]);
        assert_eq!(table.cos[4], 2f64.cos() as f32);
        assert_eq!(table.sin[4], 2f64.sin() as f32);
    }
}
