//! How many retries a replica may make: each request adds a tenth of one, so that a failing fleet is never asked much more than its
//! clients ask.

use std::sync::atomic::{AtomicU32, Ordering};

/// Added by each request.
const REFILL_TENTHS: u32 = 1;
const RETRY_TENTHS: u32 = 10;
/// Held at most, and at the start: 256 retries.
pub const BUDGET_TENTHS_MAX: u32 = 2560;

pub struct RetryBudget {
    tenths: AtomicU32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { tenths: AtomicU32::new(BUDGET_TENTHS_MAX) }
    }
}

impl RetryBudget {
    /// A request began.
    pub fn refill(&self) {
        let add = |tenths: u32| (tenths < BUDGET_TENTHS_MAX).then(|| (tenths + REFILL_TENTHS).min(BUDGET_TENTHS_MAX));
        // Full is no error: nothing is added then.
        let _ = self.tenths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Takes one retry; false when there is none left.
    pub fn take(&self) -> bool {
        let take = |tenths: u32| tenths.checked_sub(RETRY_TENTHS);
        self.tenths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    pub fn tenths(&self) -> u32 {
        self.tenths.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_budget_holds_256_retries_and_ten_requests_earn_one() {
        let budget = RetryBudget::default();
        budget.refill();
        assert_eq!((0..1000).filter(|_| budget.take()).count(), 256);
        (0..19).for_each(|_| budget.refill());
        assert!(budget.take());
        assert!(!budget.take());
        budget.refill();
        assert!(budget.take());
    }
}
