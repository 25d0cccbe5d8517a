//! Stop strings over text that arrives in pieces.
//!
//! Each string is a Knuth-Morris-Pratt automaton over bytes, so that a piece costs its length, however the pieces are cut, and the
//! state itself says how much of the text may yet become a stop string and has to wait. Since bytes are fed in order, the match
//! that *ends* first wins (as in vLLM 0.33); of those that end together, the longest. UTF-8 is self-synchronising: strings that are
//! whole characters match only at characters.

/// Looks for stop strings in a growing text.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    automata: Vec<Automaton>,
    include_in_output: bool,
    /// The end of the text that has not been given yet: what may be the beginning of a stop string.
    held: String,
    stopped: bool,
}

/// What a piece of text led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopStep {
    /// Text that is certain now, and may be sent.
    pub text: String,
    /// Index of the stop string that was met: `text` ends the output, and nothing more is to be pushed.
    pub stop: Option<usize>,
}

#[derive(Debug, Clone)]
struct Automaton {
    /// Index in the caller's list.
    index: usize,
    pattern: Vec<u8>,
    /// By length of a matched prefix: the longest shorter prefix that is its suffix.
    fallback: Vec<usize>,
    /// Length of the longest prefix of the pattern that the text ends with.
    matched: usize,
}

impl StopMatcher {
    /// A matcher for `stops`; empty ones are ignored. With `include_in_output` the stop string stays in the text.
    pub fn new<S: AsRef<str>>(stops: &[S], include_in_output: bool) -> Self {
        let automata = stops
            .iter()
            .enumerate()
            .filter(|(_, stop)| !stop.as_ref().is_empty())
            .map(|(index, stop)| Automaton::new(index, stop.as_ref()));
        Self { automata: automata.collect(), include_in_output, held: String::new(), stopped: false }
    }

    /// Adds a piece of text and looks for stop strings that end in it.
    pub fn push(&mut self, text: &str) -> StopStep {
        self.advance(text, true)
    }

    /// Adds a piece of text that may not stop yet (`min_tokens`): a stop string that ends in it passes, one that only begins in
    /// it can still be met.
    pub fn push_unarmed(&mut self, text: &str) -> StopStep {
        self.advance(text, false)
    }

    /// The text that was held back. To be sent when the output ends for another reason than a stop string.
    pub fn finish(&mut self) -> String {
        self.automata.iter_mut().for_each(|automaton| automaton.matched = 0);
        std::mem::take(&mut self.held)
    }

    fn advance(&mut self, text: &str, armed: bool) -> StopStep {
        if self.stopped || self.automata.is_empty() {
            let text = if self.stopped { String::new() } else { text.to_owned() };
            return StopStep { text, stop: None };
        }
        for (at, byte) in text.bytes().enumerate() {
            let mut met: Option<&Automaton> = None;
            for automaton in &mut self.automata {
                if automaton.step(byte) && armed && met.is_none_or(|met| automaton.pattern.len() > met.pattern.len()) {
                    met = Some(automaton);
                }
            }
            if let Some(met) = met {
                let (index, length) = (met.index, met.pattern.len());
                return self.stop(&text[..=at], index, length);
            }
        }
        self.held.push_str(text);
        let wait = self.automata.iter().map(|automaton| automaton.matched).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - wait);
        StopStep { text: std::mem::replace(&mut self.held, rest), stop: None }
    }

    fn stop(&mut self, text: &str, index: usize, length: usize) -> StopStep {
        self.stopped = true;
        let mut text = std::mem::take(&mut self.held) + text;
        if !self.include_in_output {
            text.truncate(text.len() - length);
        }
        StopStep { text, stop: Some(index) }
    }
}

impl Automaton {
    fn new(index: usize, pattern: &str) -> Self {
        let pattern = pattern.as_bytes().to_vec();
        let mut fallback = vec![0; pattern.len() + 1];
        let mut matched = 0;
        for (at, byte) in pattern.iter().enumerate().skip(1) {
            while matched > 0 && pattern[matched] != *byte {
                matched = fallback[matched];
            }
            matched += usize::from(pattern[matched] == *byte);
            fallback[at + 1] = matched;
        }
        Self { index, pattern, fallback, matched: 0 }
    }

    /// Feeds one byte. True: the pattern ends here; it is left as if the text went on.
    fn step(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.pattern[self.matched] != byte {
            self.matched = self.fallback[self.matched];
        }
        self.matched += usize::from(self.pattern[self.matched] == byte);
        let whole = self.matched == self.pattern.len();
        if whole {
            self.matched = self.fallback[self.matched];
        }
        whole
    }
}
