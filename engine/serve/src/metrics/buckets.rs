//! Bucket bounds of vLLM 0.33 (`v1/metrics/buckets.py`), in seconds or counts.

pub const FIRST_TOKEN: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0,
    2560.0,
];
pub const PER_TOKEN: [f64; 19] =
    [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
pub const REQUEST: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
];
pub const ITERATION: [f64; 13] = [1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
pub const N: [f64; 5] = [1.0, 2.0, 5.0, 10.0, 20.0];
pub const PREEMPTIONS: [f64; 7] = [1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0];

pub const RESIDENCY: [f64; 21] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0,
    1800.0,
];

/// 1, 2, 5, 10, 20, 50 … up to `max`.
pub fn one_two_five(max: usize) -> Vec<f64> {
    let decades = (0..).map_while(|exponent| 10usize.checked_pow(exponent));
    let steps = decades.flat_map(|decade| [1usize, 2, 5].into_iter().filter_map(move |mantissa| mantissa.checked_mul(decade)));
    steps.take_while(|step| *step <= max.max(1)).map(|step| step as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_end_at_the_longest_context() {
        let check = |max, expected: &[f64]| assert_eq!(one_two_five(max), expected, "{max}");
        check(0, &[1.0]);
        check(64, &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
        check(200, &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0]);
        assert_eq!(one_two_five(usize::MAX).len(), 58, "the series ends before it overflows");
    }
}
