//! Orders the rated engines: highest rating first, ties by a random number.

use crate::filter::Refusal;
use crate::score::Rating;

/// Endpoints that one decision names: the choice, and where to go when it fails.
pub const ENDPOINTS_MAX: usize = 8;

/// Positions of the admitted candidates, best first.
pub fn ordered(standings: &[Result<Rating, Refusal>], tie: u64) -> Vec<usize> {
    let mut rated: Vec<(f64, u64, usize)> = standings
        .iter()
        .enumerate()
        .filter_map(|(at, standing)| standing.as_ref().ok().map(|rating| (rating.total, scatter(tie, at), at)))
        .collect();
    let best_first = |a: &(f64, u64, usize), b: &(f64, u64, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if rated.len() > ENDPOINTS_MAX {
        rated.select_nth_unstable_by(ENDPOINTS_MAX, best_first);
        rated.truncate(ENDPOINTS_MAX);
    }
    rated.sort_unstable_by(best_first);
    rated.into_iter().map(|(_, _, at)| at).collect()
}

/// A number for each position that another `tie` orders otherwise: the finalizer of SplitMix64 (Steele et al., OOPSLA 2014).
fn scatter(tie: u64, at: usize) -> u64 {
    let mut mixed = tie.wrapping_add((at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
