//! How a step's tokens are divided: every decode first, then the prompts in equal parts.
//!
//! A prompt of 100k tokens is in no hurry: whoever waits for his next token is, and so is a short prompt behind the long one. So each
//! running request that has one token to compute gets it, the prompts share what is left of the budget, and one that needs less than
//! its part leaves the rest to the others (max-min fairness). Requests that wait and fit count as prompts, so that a long one does not
//! keep them waiting. In a step with decodes, prompts get no more tokens than the measured speed lets into the step's time.

use super::Schedule;

/// Waiting requests that a running prompt leaves a part to.
const WAITING_MAX: usize = 4;

/// What the prompts of one step get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// All prompts together.
    pub tokens: usize,
    /// Each of them, at most.
    pub each: usize,
}

impl Schedule {
    /// Divides `budget` tokens. `prefill_tokens_max`: all prompts together, where decodes are in the step.
    pub(super) fn share(&mut self, budget: usize) -> Share {
        let mut rests = std::mem::take(&mut self.rests);
        rests.clear();
        // Most steps compute no prompt: then nobody need be asked.
        if self.prompts_run {
            let all = self.running.iter().map(|&key| self.table.get(key).progress.rest() as usize);
            rests.extend(all.filter(|&rest| rest > 1));
        }
        let decodes = self.running.len() - rests.len();
        let tokens = match decodes {
            0 => budget,
            // A prompt that runs is no decode, and the budget has a token for each slot: one is left for it.
            _ => (budget - decodes.min(budget)).min(self.prefill_tokens_max),
        };
        let next = if rests.is_empty() { None } else { self.waiting.first() };
        if next.is_some_and(|key| self.fits(key)) {
            let waiting = self.waiting.iter().take(self.slots.len().min(WAITING_MAX));
            rests.extend(waiting.map(|key| self.table.get(key).tokens.len()));
        }
        let each = level(&mut rests, tokens);
        self.rests = rests;
        Share { tokens, each }
    }
}

/// The largest part such that all together, each taking no more than it needs, take no more than `tokens`.
fn level(rests: &mut [usize], tokens: usize) -> usize {
    rests.sort_unstable();
    let mut left = tokens;
    for (i, &rest) in rests.iter().enumerate() {
        let part = left / (rests.len() - i);
        if rest > part {
            return part.max(1);
        }
        left -= rest;
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::level;

    #[test]
    fn small_ones_get_all_and_large_ones_the_same() {
        let check = |mut rests: Vec<usize>, tokens, expected| assert_eq!(level(&mut rests, tokens), expected, "{rests:?}");
        check(vec![], 10, usize::MAX);
        check(vec![100_000], 512, 512);
        check(vec![100_000, 200], 512, 312);
        check(vec![100_000, 100_000, 100], 512, 206);
        check(vec![200, 300], 512, usize::MAX);
        check(vec![9, 9, 9], 2, 1);
    }
}
