//! The decision: which engines a request may go to, best first. No clock, no lock, no I/O.

use domain::gpu::Verdict;
use domain::{Ask, DataAddress, EngineId, EngineState, InFlight, ModelId, Role};

use crate::filter::{self, Refusal};
use crate::fleet::engine::{Evidence, Probe};
use crate::pick;
use crate::score::{self, Rating, Weights};

/// An engine as the decision sees it, at one instant.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'f> {
    pub id: &'f EngineId,
    pub address: DataAddress,
    pub base: &'f str,
    pub adapters: &'f [std::sync::Arc<str>],
    pub role: Role,
    pub state: EngineState,
    pub evidence: Evidence,
    pub probe: Probe,
    /// The worst over its GPUs.
    pub verdict: Verdict,
    /// Share of its usual throughput that it still has, 0.0 ..= 1.0.
    pub capacity: f64,
    /// Zero where unknown.
    pub context_length: u32,
    pub in_flight: InFlight,
    /// Used share of its KV blocks, 0.0 ..= 1.0.
    pub kv_use: f64,
    pub prefix: Prefix,
}

impl Candidate<'_> {
    pub fn serves(&self, model: &ModelId) -> bool {
        let has = |adapter: &std::sync::Arc<str>| self.adapters.contains(adapter);
        self.base == &*model.base && model.adapter.as_ref().is_none_or(has)
    }
}

/// How much of the prompt an engine holds, in its own blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    pub cached_blocks: u32,
    /// Full blocks of the prompt.
    pub prompt_blocks: u32,
    pub block_tokens: u32,
}

impl Prefix {
    pub fn cached_tokens(self) -> u64 {
        u64::from(self.cached_blocks) * u64::from(self.block_tokens)
    }
}

/// What the operator sets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Policy {
    pub weights: Weights,
    pub limits: filter::Limits,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Route {
        /// Positions among the candidates, best first, at most [`pick::ENDPOINTS_MAX`].
        endpoints: Vec<usize>,
        /// The engine that prefills for the first endpoint, where two engines share the work.
        prefill: Option<usize>,
    },
    /// Nobody can take it now, and somebody soon may.
    Wait { reason: Reason },
    /// Nobody can take it, and waiting would not help.
    Reject { reason: Reason },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("no engine serves the model")]
    NoEngine,
    #[error("the engines that serve the model are starting")]
    Starting,
    #[error("every engine that serves the model has as many requests in flight as it may have")]
    Saturated,
    #[error("no engine that serves the model takes work: {0}")]
    NoneTakesWork(Refusal),
    #[error("the prompt has {prompt_tokens} tokens and the longest context served is {context_length}")]
    PromptTooLong { prompt_tokens: usize, context_length: u32 },
}

/// A decision with what led to it: per candidate, why it was left out or how it was rated.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    pub decision: Decision,
    pub standings: Vec<Result<Rating, Refusal>>,
}

/// Decides. `tie` is a random number: engines that rate alike are ordered by it.
pub fn decide(ask: &Ask, candidates: &[Candidate<'_>], policy: &Policy, tie: u64) -> Choice {
    let admitted = candidates.iter().map(|candidate| filter::admit(ask, candidate, &policy.limits));
    let mut standings: Vec<Result<Rating, Refusal>> = admitted.map(|admitted| admitted.map(|()| Rating::default())).collect();
    score::rate(candidates, &policy.weights, &mut standings);
    let endpoints = pick::ordered(&standings, tie);
    let decision = if endpoints.is_empty() { nobody(ask, &standings) } else { Decision::Route { endpoints, prefill: None } };
    Choice { decision, standings }
}

/// What to say when every candidate was left out: the refusal that is easiest to overcome speaks for all.
fn nobody(ask: &Ask, standings: &[Result<Rating, Refusal>]) -> Decision {
    let refusals = || standings.iter().filter_map(|standing| standing.as_ref().err());
    let longest = refusals().filter_map(|refusal| match refusal {
        Refusal::ContextTooShort { context_length } => Some(*context_length),
        _ => None,
    });
    if refusals().any(|refusal| *refusal == Refusal::Full) {
        Decision::Reject { reason: Reason::Saturated }
    } else if refusals().any(Refusal::passes_soon) {
        Decision::Wait { reason: Reason::Starting }
    } else if let Some(context_length) = longest.max() {
        Decision::Reject { reason: Reason::PromptTooLong { prompt_tokens: ask.tokens.len(), context_length } }
    } else if let Some(first) = refusals().next() {
        Decision::Reject { reason: Reason::NoneTakesWork(first.clone()) }
    } else {
        Decision::Reject { reason: Reason::NoEngine }
    }
}
