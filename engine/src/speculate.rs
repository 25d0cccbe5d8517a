//! Speculative decoding by prompt lookup: what a request will say next is guessed from what it said, or was told, before.
//!
//! Where the end of a sequence stands further ahead in it too, the tokens behind that place are proposed as drafts (Saxena, "Prompt
//! lookup decoding", 2023; vLLM's method `ngram`). They are computed in one row with the last token, each position is sampled by the
//! ordinary sampler with the number of its own token, and drafts are accepted as long as they are what was sampled. So tokens are those
//! that would have come without drafts, at any temperature and with any penalty or grammar, and not only of the same distribution.
//!
//! Drafts that fail cost time. So their number follows what was accepted: it doubles where all were, and where few are, the request goes
//! without for a while, longer each time.

/// Most drafts of one row, whatever the configuration.
pub const DRAFTS_MAX: usize = 64;

/// Places of the same end that are looked at, the latest first.
const PLACES_MAX: usize = 16;
/// Drafts of a request's first try, and of one after a failure: few enough to cost little, and more than a late device has in flight.
const FIRST_DRAFTS: usize = 3;
/// Weight of the newest row in the measured acceptance.
const ACCEPTANCE_WEIGHT: f32 = 0.25;
/// Tokens without drafts after the first failure of a series, and after its last.
const PAUSE_TOKENS_MIN: u32 = 8;
const PAUSE_TOKENS_MAX: u32 = 256;

/// vLLM's `speculative_config` with the method `ngram`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speculation {
    /// Most drafts of one row: `num_speculative_tokens`.
    pub tokens: usize,
    /// Fewest and most tokens at the end of a sequence that must stand further ahead: `prompt_lookup_min` and `_max`.
    pub lookup_min: usize,
    pub lookup_max: usize,
    /// Most requests in the running batch for which there are drafts: beyond, a row more costs as much as the token that it may save.
    pub batch_max: usize,
    /// A request whose drafts are accepted more rarely than this goes without for a while; 0 never does.
    pub acceptance_min: f32,
}

impl Speculation {
    /// `tokens` drafts behind what vLLM 0.33 looks for by default, five tokens.
    pub fn ngram(tokens: usize) -> Self {
        Self { tokens, lookup_min: 5, lookup_max: 5, batch_max: 8, acceptance_min: 0.4 }
    }

    /// What cannot be, one sentence each.
    pub fn mistakes(&self) -> Vec<String> {
        let Self { tokens, lookup_min, lookup_max, batch_max, acceptance_min } = *self;
        let relations = [
            ((1..=DRAFTS_MAX).contains(&tokens), format!("num_speculative_tokens is {tokens}; it must be 1 to {DRAFTS_MAX}")),
            (lookup_min >= 1, "prompt_lookup_min is 0; it must be at least 1".to_owned()),
            (
                lookup_max >= lookup_min,
                format!("prompt_lookup_max is {lookup_max}; it must be at least prompt_lookup_min ({lookup_min})"),
            ),
            (batch_max >= 1, "the batch for which there are drafts is empty".to_owned()),
            ((0.0..=1.0).contains(&acceptance_min), format!("the least acceptance is {acceptance_min}; it must be 0 to 1")),
        ];
        relations.into_iter().filter(|(holds, _)| !holds).map(|(_, what)| what).collect()
    }
}

/// What one request's drafts come from, and how they fare.
#[derive(Clone, Debug)]
pub(crate) struct Lookup {
    speculation: Speculation,
    /// By the hash of `lookup_min` tokens: the place behind their latest occurrence; 0 where there is none.
    latest: Vec<u32>,
    /// By place: the place before it with the same hash.
    before: Vec<u32>,
    drafts_max: usize,
    acceptance: f32,
    /// Drafts begin again when the sequence is this long.
    resumes_at: usize,
    pause_tokens: u32,
}

impl Lookup {
    /// A lookup in `prompt`, with room for as many tokens as `capacity`.
    pub fn new(speculation: Speculation, prompt: &[u32], capacity: usize) -> Self {
        let mut lookup = Self {
            speculation,
            latest: vec![0; (capacity * 2).next_power_of_two()],
            before: Vec::with_capacity(capacity + 1),
            drafts_max: FIRST_DRAFTS.min(speculation.tokens),
            acceptance: 1.0,
            resumes_at: 0,
            pause_tokens: PAUSE_TOKENS_MIN,
        };
        lookup.learn(prompt);
        lookup
    }

    /// Takes in what is new of `tokens`: every place that has a token behind it.
    fn learn(&mut self, tokens: &[u32]) {
        let min = self.speculation.lookup_min;
        while self.before.len() < tokens.len() {
            let place = self.before.len();
            let mut before = 0;
            if place >= min {
                let bucket = self.bucket(&tokens[place - min..place]);
                before = std::mem::replace(&mut self.latest[bucket], place as u32);
            }
            self.before.push(before);
        }
    }

    /// FNV-1a over token ids, folded (Fowler, Noll, Vo).
    fn bucket(&self, tokens: &[u32]) -> usize {
        let mix = |hash: u64, token: &u32| (hash ^ u64::from(*token)).wrapping_mul(0x0000_0100_0000_01b3);
        let hash = tokens.iter().fold(0xcbf2_9ce4_8422_2325, mix);
        (hash ^ hash >> 29) as usize & (self.latest.len() - 1)
    }

    /// Fills `drafts`, which is empty, with at most `drafts_max` tokens that may come behind `tokens`.
    pub fn propose(&mut self, tokens: &[u32], drafts_max: usize, drafts: &mut Vec<u32>) {
        self.learn(tokens);
        let Speculation { lookup_min, lookup_max, .. } = self.speculation;
        let drafts_max = drafts_max.min(self.drafts_max);
        if drafts_max == 0 || tokens.len() <= lookup_min || tokens.len() < self.resumes_at {
            return;
        }
        let end = &tokens[tokens.len() - lookup_min..];
        let mut place = self.latest[self.bucket(end)] as usize;
        let (mut best, mut longest) = (0, lookup_min - 1);
        for _ in 0..PLACES_MAX {
            if place == 0 || longest >= lookup_max {
                break;
            }
            let alike =
                tokens[..place].iter().rev().zip(tokens.iter().rev()).take(lookup_max).take_while(|(a, b)| a == b).count();
            if alike > longest {
                (best, longest) = (place, alike);
            }
            place = self.before[place] as usize;
        }
        if best > 0 {
            // What repeats itself until the end goes on repeating itself.
            let period = tokens.len() - best;
            drafts.extend((0..drafts_max).map(|at| tokens[best + at % period]));
        }
    }

    /// Of `drafted` drafts, `accepted` were what was sampled; the sequence now has `length` tokens.
    pub fn learn_outcome(&mut self, drafted: usize, accepted: usize, length: usize) {
        let share = accepted as f32 / drafted as f32;
        self.acceptance += ACCEPTANCE_WEIGHT * (share - self.acceptance);
        if accepted == drafted {
            self.drafts_max = (2 * self.drafts_max).min(self.speculation.tokens);
            self.pause_tokens = PAUSE_TOKENS_MIN;
            return;
        }
        self.drafts_max = (accepted + 1).max(FIRST_DRAFTS).min(self.speculation.tokens);
        if self.acceptance < self.speculation.acceptance_min {
            self.resumes_at = length + self.pause_tokens as usize;
            self.pause_tokens = (2 * self.pause_tokens).min(PAUSE_TOKENS_MAX);
            // The next try decides anew.
            self.acceptance = self.speculation.acceptance_min;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tokens: &[u32], min: usize, max: usize, expected: &[u32]) {
        let speculation = Speculation { tokens: 4, lookup_min: min, lookup_max: max, batch_max: 1, acceptance_min: 0.0 };
        // Learning the whole, or token by token, proposes the same.
        for known in [0, tokens.len()] {
            let mut lookup = Lookup::new(speculation, &tokens[..known], 64);
            lookup.drafts_max = 4;
            for end in known..tokens.len() {
                lookup.propose(&tokens[..end], 4, &mut Vec::new());
            }
            let mut drafts = Vec::new();
            lookup.propose(tokens, 4, &mut drafts);
            assert_eq!(drafts, expected, "{tokens:?} {min}..={max}");
        }
    }

    #[test]
    fn what_stood_behind_the_same_end_is_proposed() {
        check(&[1, 2, 3, 4, 5, 6, 7, 2, 3], 2, 4, &[4, 5, 6, 7]);
        check(&[1, 2, 3, 4, 5, 6, 7, 2, 8], 2, 4, &[]);
        check(&[1, 2, 3, 4, 5, 6, 7, 9, 3], 2, 4, &[]);
        check(&[], 1, 4, &[]);
        check(&[1], 1, 4, &[]);
        // The latest of two that are equally long, and the longer of two.
        check(&[5, 1, 7, 5, 1, 8, 9, 9, 5, 1], 2, 2, &[8, 9, 9, 5]);
        check(&[4, 5, 1, 7, 7, 7, 3, 5, 1, 8, 8, 4, 5, 1], 2, 3, &[7, 7, 7, 3]);
        // Repetition goes on.
        check(&[1, 2, 3, 2, 3], 2, 2, &[2, 3, 2, 3]);
        check(&[1, 6, 6, 6], 2, 2, &[6, 6, 6, 6]);
    }

    #[test]
    fn the_number_of_drafts_follows_what_is_accepted() {
        let speculation = Speculation { tokens: 10, acceptance_min: 0.4, ..Speculation::ngram(10) };
        let tokens = [7; 1000];
        let mut lookup = Lookup::new(speculation, &tokens[..100], 1000);
        let proposed = |lookup: &mut Lookup, length: usize| {
            let mut drafts = Vec::new();
            lookup.propose(&tokens[..length], 10, &mut drafts);
            drafts.len()
        };
        assert_eq!(proposed(&mut lookup, 100), 3);
        lookup.learn_outcome(3, 3, 104);
        assert_eq!(proposed(&mut lookup, 104), 6);
        lookup.learn_outcome(6, 6, 111);
        assert_eq!(proposed(&mut lookup, 111), 10);
        lookup.learn_outcome(10, 4, 116);
        assert_eq!(proposed(&mut lookup, 116), 5);
        // 0.85, 0.64, 0.48, 0.36: the fourth failure begins a pause, and each failure behind a pause a longer one.
        for length in [117, 118, 119] {
            assert!(proposed(&mut lookup, length) > 0, "{length}");
            lookup.learn_outcome(1, 0, length + 1);
        }
        assert_eq!([120, 127, 128].map(|length| proposed(&mut lookup, length)), [0, 0, 3]);
        lookup.learn_outcome(3, 0, 129);
        assert_eq!([129, 144, 145].map(|length| proposed(&mut lookup, length)), [0, 0, 3]);
    }
}
