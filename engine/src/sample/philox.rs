//! Random numbers without state: the same (seed, index) gives the same number, wherever and whenever it is drawn.

/// A number in 0 ≤ u < 1 with 53 random bits, the same for the same (seed, index).
pub(crate) fn uniform(seed: u64, index: u32) -> f64 {
    let [a, b, ..] = philox4x32_10([index, 0, 0, 0], [seed as u32, (seed >> 32) as u32]);
    let bits = (u64::from(a) << 32 | u64::from(b)) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

/// Philox4x32 with ten rounds (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
pub(crate) fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let mut state = counter;
    let mut key = key;
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
        }
        let low = u64::from(state[0]) * 0xd251_1f53;
        let high = u64::from(state[2]) * 0xcd9e_8d57;
        state = [(high >> 32) as u32 ^ state[1] ^ key[0], high as u32, (low >> 32) as u32 ^ state[3] ^ key[1], low as u32];
    }
    state
}
