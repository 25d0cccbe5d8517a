//! Which tokens a request has seen, for its penalties: a table of those alone, so that only their logits are visited.

use crate::request::SamplingExtras;

/// Places of the hash table per entry, at least.
const SPARE: usize = 2;
/// Output tokens that there is room for from the beginning.
const OUTPUT_TOKENS_USUAL: usize = 1024;
const VACANT: u32 = u32::MAX;

#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    entries: Vec<Entry>,
    /// Open addressing: index into `entries`. Its length is a power of two, or 0.
    places: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    token: u32,
    /// How often the token was generated.
    output: u32,
}

impl Counts {
    /// Makes room for `tokens` further tokens, as far as that is usual.
    pub fn reserve(&mut self, tokens: usize) {
        let tokens = tokens.min(OUTPUT_TOKENS_USUAL);
        self.entries.reserve(tokens);
        self.grow(self.entries.len() + tokens);
    }

    pub fn add_prompt(&mut self, token: u32) {
        self.entry(token);
    }

    pub fn add_output(&mut self, token: u32) {
        self.entry(token).output += 1;
    }

    fn entry(&mut self, token: u32) -> &mut Entry {
        if (self.entries.len() + 1) * SPARE > self.places.len() {
            self.grow((self.entries.len() + 1) * 2);
        }
        let mut place = self.place(token);
        loop {
            match self.places[place] {
                VACANT => {
                    self.places[place] = self.entries.len() as u32;
                    self.entries.push(Entry { token, output: 0 });
                    let last = self.entries.len() - 1;
                    return &mut self.entries[last];
                }
                at if self.entries[at as usize].token == token => return &mut self.entries[at as usize],
                _ => place = (place + 1) & (self.places.len() - 1),
            }
        }
    }

    /// Where the search for `token` begins (Fibonacci hashing, Knuth 6.4).
    fn place(&self, token: u32) -> usize {
        let hash = token.wrapping_mul(0x9e37_79b9) as usize;
        (hash >> 7) & (self.places.len() - 1)
    }

    fn grow(&mut self, entries: usize) {
        let len = (entries * SPARE).next_power_of_two();
        if len <= self.places.len() {
            return;
        }
        self.places.clear();
        self.places.resize(len, VACANT);
        for (at, entry) in (0..).zip(&self.entries) {
            let mut place = self.place(entry.token);
            while self.places[place] != VACANT {
                place = (place + 1) & (len - 1);
            }
            self.places[place] = at;
        }
    }

    /// Repetition first, then frequency and presence, as vLLM 0.33 (`model_executor/layers/utils.py`, `apply_penalties`): the first
    /// counts prompt and output, the others the output alone.
    pub fn penalise(&self, logits: &mut [f32], extras: &SamplingExtras) {
        let SamplingExtras { presence_penalty, frequency_penalty, repetition_penalty, .. } = *extras;
        let inverse = 1.0 / repetition_penalty;
        for &Entry { token, output } in &self.entries {
            let logit = &mut logits[token as usize];
            *logit *= if *logit > 0.0 { inverse } else { repetition_penalty };
            if output > 0 {
                *logit -= frequency_penalty * output as f32;
                *logit -= presence_penalty;
            }
        }
    }
}
