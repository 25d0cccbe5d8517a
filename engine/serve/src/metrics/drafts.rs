//! `vllm:spec_decode_*`: what became of drafts. Registered where there can be any.

use engine::observe::DraftReport;
use prometheus::{IntCounter, IntCounterVec};

use super::Maker;

pub struct Drafts {
    rows: IntCounter,
    drafted: IntCounter,
    accepted: IntCounter,
    /// Accepted drafts by their number in the row, from 0.
    accepted_at: Vec<IntCounter>,
}

impl Drafts {
    /// For rows of at most `drafts_max` drafts; `None` where that is none.
    pub fn new(make: &Maker<'_>, drafts_max: usize) -> Option<Self> {
        let at =
            |family: IntCounterVec| (0..drafts_max).map(|position| family.with_label_values(&[&position.to_string()])).collect();
        (drafts_max > 0).then(|| Self {
            rows: make.counter("spec_decode_num_drafts", "Rows of the batch that carried drafts."),
            drafted: make.counter("spec_decode_num_draft_tokens", "Drafts computed."),
            accepted: make.counter("spec_decode_num_accepted_tokens", "Drafts that were what was sampled."),
            accepted_at: at(make.held(IntCounterVec::new(
                make.opts("spec_decode_num_accepted_tokens_per_pos_total", "Accepted drafts by position in their row."),
                &["position"],
            ))),
        })
    }

    pub fn settled(&self, report: &DraftReport) {
        self.rows.inc();
        self.drafted.inc_by(report.drafted.into());
        self.accepted.inc_by(report.accepted.into());
        self.accepted_at.iter().take(report.accepted as usize).for_each(IntCounter::inc);
    }
}
