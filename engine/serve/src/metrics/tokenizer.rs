//! How much of the prompts' text the tokenizer remembers.

use engine_text::Recall;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};

use super::Maker;

pub struct Tokenizer {
    remembered: IntCounter,
    encoded: IntCounter,
    held_bytes: IntGauge,
}

impl Tokenizer {
    pub fn new(make: &Maker<'_>) -> Self {
        let help = "Bytes of long prompts by whether their token ids were remembered or had to be made.";
        let family = make.held(IntCounterVec::new(Opts::new("trackside_tokenizer_bytes_total", help), &["ids"]));
        Self {
            remembered: family.with_label_values(&["remembered"]),
            encoded: family.with_label_values(&["encoded"]),
            held_bytes: make
                .held(IntGauge::new("trackside_tokenizer_held_bytes", "Bytes of text and token ids that are remembered.")),
        }
    }

    /// The tokenizer counts; the scrape adds what is new.
    pub fn read(&self, recall: Recall) {
        self.remembered.inc_by(recall.hit_bytes.saturating_sub(self.remembered.get()));
        self.encoded.inc_by(recall.miss_bytes.saturating_sub(self.encoded.get()));
        self.held_bytes.set(recall.held_bytes as i64);
    }
}
