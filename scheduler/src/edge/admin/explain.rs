//! `POST /debug/decide`: a decision with all that led to it.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::choose::Considered;
use crate::decide::{Candidate, Decision};
use crate::score::{SCORERS, Weights};

#[derive(Serialize)]
pub struct Explanation {
    pub model: String,
    pub base: String,
    pub adapter: Option<String>,
    pub prompt_tokens: usize,
    /// Why the prompt has no tokens, where it has none: it is routed by load alone then.
    pub untokenised: Option<String>,
    pub weights: Map<String, Value>,
    pub decision: Verdict,
    /// In the order of the decision, those left out last.
    pub candidates: Vec<Row>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Verdict {
    Route { endpoints: Vec<String>, prefill: Option<String> },
    Wait { reason: String },
    Reject { reason: String },
}

#[derive(Serialize)]
pub struct Row {
    pub engine: String,
    pub address: String,
    /// 1 is the choice; absent where the engine was left out or comes too far behind.
    pub rank: Option<usize>,
    /// Why it was left out.
    pub refused: Option<String>,
    pub total: Option<f64>,
    /// By scorer, 0.0 ..= 1.0, not yet weighted.
    pub scores: Map<String, Value>,
    pub state: &'static str,
    pub cached_tokens: u64,
    pub cached_blocks: u32,
    pub prompt_blocks: u32,
    pub block_tokens: u32,
    pub requests_in_flight: u32,
    pub uncached_tokens_in_flight: u64,
    pub kv_use: f64,
}

impl Explanation {
    pub fn of(considered: &Considered<'_>, weights: &Weights) -> Self {
        let Considered { ask, untokenised, candidates, choice, .. } = considered;
        let id = |at: &usize| candidates[*at].id.to_string();
        let (verdict, order): (Verdict, &[usize]) = match &choice.decision {
            Decision::Route { endpoints, prefill } => {
                let prefill = prefill.as_ref().map(id);
                (Verdict::Route { endpoints: endpoints.iter().map(id).collect(), prefill }, endpoints)
            }
            Decision::Wait { reason } => (Verdict::Wait { reason: reason.to_string() }, &[]),
            Decision::Reject { reason } => (Verdict::Reject { reason: reason.to_string() }, &[]),
        };
        let rank = |at: usize| order.iter().position(|ordered| *ordered == at).map(|position| position + 1);
        let mut rows: Vec<Row> = (0..candidates.len())
            .map(|at| {
                let row = Row::of(&candidates[at], rank(at));
                match &choice.standings[at] {
                    Ok(rating) => {
                        let scores =
                            SCORERS.iter().zip(rating.scores).map(|(scorer, score)| (scorer.name.to_owned(), score.into()));
                        Row { total: Some(rating.total), scores: scores.collect(), ..row }
                    }
                    Err(refusal) => Row { refused: Some(refusal.to_string()), ..row },
                }
            })
            .collect();
        rows.sort_by_key(|row| (row.rank.unwrap_or(usize::MAX), row.refused.is_some()));
        Self {
            model: ask.model.served_name().to_owned(),
            base: ask.model.base.to_string(),
            adapter: ask.model.adapter.as_deref().map(str::to_owned),
            prompt_tokens: ask.tokens.len(),
            untokenised: untokenised.map(str::to_owned),
            weights: SCORERS.iter().map(|scorer| (scorer.name.to_owned(), (scorer.weight)(weights).into())).collect(),
            decision: verdict,
            candidates: rows,
        }
    }
}

impl Row {
    fn of(candidate: &Candidate<'_>, rank: Option<usize>) -> Self {
        let prefix = candidate.prefix;
        Self {
            engine: candidate.id.to_string(),
            address: candidate.address.to_string(),
            rank,
            refused: None,
            total: None,
            scores: Map::new(),
            state: candidate.state.as_str(),
            cached_tokens: prefix.cached_tokens(),
            cached_blocks: prefix.cached_blocks,
            prompt_blocks: prefix.prompt_blocks,
            block_tokens: prefix.block_tokens,
            requests_in_flight: candidate.in_flight.requests,
            uncached_tokens_in_flight: candidate.in_flight.uncached_tokens,
            kv_use: candidate.kv_use,
        }
    }
}
