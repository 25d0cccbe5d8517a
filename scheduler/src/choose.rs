//! From a client's question to a choice, on domain types alone: the gateway asks here, and ext-proc will ask the same.

use std::sync::Arc;

use domain::block::{AdapterKey, KeyChain};
use domain::{Ask, ExtraKeys};

use crate::decide::{Candidate, Choice, Decision, Policy, Prefix, Reason, decide};
use crate::fleet::Fleet;
use crate::fleet::engine::Engine;
use crate::fleet::index::{Match, Partition};
use crate::text::{Prompt, Texts};

/// What a client asks, read from a body and not yet tied to anything in the fleet.
#[derive(Clone, Debug)]
pub struct Question {
    /// As the client wrote it; without one the only model served is meant.
    pub model: Option<String>,
    pub prompt: Prompt,
    pub cache_salt: Option<Arc<str>>,
    pub tokens_max: Option<u32>,
}

/// An engine to send a request to.
#[derive(Clone)]
pub struct Target {
    pub engine: Arc<Engine>,
    /// Leading tokens of the prompt that it holds, by the index at the moment of the decision.
    pub cached_tokens: u64,
}

/// A choice that can be acted on.
#[derive(Clone)]
pub struct Pick {
    /// Best first, never empty.
    pub targets: Vec<Target>,
    pub prefill: Option<Target>,
    pub prompt_tokens: u64,
    /// Most leading tokens that any engine held that could have been chosen.
    pub best_cached_tokens: u64,
}

/// Why a question has no engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("The model `{asked}` does not exist. Served here: {}.", list(.served))]
    UnknownModel { asked: String, served: Vec<String> },
    #[error("The request names no `model`. Served here: {}.", list(.served))]
    NoModel { served: Vec<String> },
    #[error("{0}")]
    Wait(Reason),
    #[error("{0}")]
    Reject(Reason),
}

fn list(served: &[String]) -> String {
    if served.is_empty() { "no model yet".to_owned() } else { served.join(", ") }
}

/// Everything a decision was made of, for explaining it.
pub struct Considered<'f> {
    pub ask: &'f Ask,
    /// Why the prompt has no tokens, where it has none.
    pub untokenised: Option<&'f str>,
    pub engines: &'f [Arc<Engine>],
    /// One for each engine.
    pub candidates: &'f [Candidate<'f>],
    pub choice: &'f Choice,
}

/// Answers questions.
pub struct Chooser {
    pub fleet: Arc<Fleet>,
    pub texts: Arc<Texts>,
    pub policy: Policy,
}

impl Chooser {
    /// Chooses engines for a question, and counts the pick.
    pub fn choose(&self, question: &Question) -> Result<Pick, Refused> {
        self.consider(question, |considered| {
            let target = |&at: &usize| Target {
                engine: considered.engines[at].clone(),
                cached_tokens: considered.candidates[at].prefix.cached_tokens(),
            };
            match &considered.choice.decision {
                Decision::Route { endpoints, prefill } => {
                    let targets: Vec<Target> = endpoints.iter().map(target).collect();
                    let admitted = considered.candidates.iter().zip(&considered.choice.standings);
                    let admitted = admitted.filter(|(_, standing)| standing.is_ok());
                    let best = admitted.map(|(candidate, _)| candidate.prefix.cached_tokens()).max();
                    targets[0].engine.count_pick();
                    Ok(Pick {
                        targets,
                        prefill: prefill.as_ref().map(target),
                        prompt_tokens: considered.ask.tokens.len() as u64,
                        best_cached_tokens: best.unwrap_or(0),
                    })
                }
                Decision::Wait { reason } => Err(Refused::Wait(reason.clone())),
                Decision::Reject { reason } => Err(Refused::Reject(reason.clone())),
            }
        })?
    }

    /// Decides, and shows `read` all that the decision was made of.
    pub fn consider<R>(&self, question: &Question, read: impl FnOnce(Considered<'_>) -> R) -> Result<R, Refused> {
        let roster = self.fleet.roster();
        let served = || roster.models().iter().map(|model| model.served_name().to_owned()).collect();
        let model = match question.model.as_deref() {
            Some(name) => {
                let unknown = || Refused::UnknownModel { asked: shorten(name), served: served() };
                roster.model(name).ok_or_else(unknown)?
            }
            None => match roster.models()[..] {
                [only] => only,
                _ => return Err(Refused::NoModel { served: served() }),
            },
        };
        let engines = roster.serving(&model.base);
        let (tokens, untokenised) = match self.tokens(engines, &question.prompt) {
            Ok(tokens) => (tokens, None),
            Err(why) => (Arc::from([]), Some(why)),
        };
        let adapter = model.adapter.as_ref().map(|name| AdapterKey { name: name.clone(), path: "".into() });
        let extra = ExtraKeys { adapter, cache_salt: question.cache_salt.clone(), multimodal: Vec::new() };
        let ask = Ask { model: model.clone(), tokens, extra, tokens_max: question.tokens_max };
        let mut lookups = Vec::new();
        let candidates: Vec<Candidate<'_>> =
            engines.iter().map(|engine| candidate(engine, prefix(&ask, engine, &mut lookups))).collect();
        let choice = decide(&ask, &candidates, &self.policy, rand::random());
        let untokenised = untokenised.as_deref();
        Ok(read(Considered { ask: &ask, untokenised, engines, candidates: &candidates, choice: &choice }))
    }

    fn tokens(&self, engines: &[Arc<Engine>], prompt: &Prompt) -> Result<Arc<[u32]>, String> {
        match prompt {
            Prompt::Unknown => return Err("the request has no prompt".to_owned()),
            Prompt::Tokens(tokens) => return Ok(tokens.as_slice().into()),
            Prompt::Text { .. } | Prompt::Chat(_) => {}
        }
        // Engines of one model share their assets; during a change of the tokenizer the first engine's count.
        let mut digests = engines.iter().filter_map(|engine| engine.facts.assets);
        let first = digests.next().ok_or("no engine of the model says which tokenizer it uses")?;
        let ready = std::iter::once(first).chain(digests).find_map(|digest| self.texts.ready(&digest));
        let text = ready.ok_or_else(|| match self.texts.lack(&first) {
            Some(why) => format!("tokenizer and chat template {first}: {why}"),
            None => "the tokenizer has just arrived".to_owned(),
        })?;
        text.tokens(prompt).map(Arc::from)
    }
}

/// A model name as it may be repeated in an error.
fn shorten(name: &str) -> String {
    name.chars().take(domain::id::NAME_BYTES_MAX).collect()
}

fn candidate(engine: &Arc<Engine>, prefix: Prefix) -> Candidate<'_> {
    let pulse = engine.pulse();
    Candidate {
        id: &engine.id,
        address: engine.facts.address,
        base: &engine.facts.model,
        adapters: &engine.facts.adapters,
        role: engine.facts.role,
        state: pulse.state,
        evidence: pulse.evidence,
        probe: pulse.probe,
        verdict: pulse.verdict,
        capacity: pulse.capacity,
        context_length: engine.facts.context_length,
        in_flight: engine.in_flight(&pulse),
        kv_use: pulse.kv.fraction(),
        prefix,
    }
}

/// A partition that was looked up for this question: engines of one block size share it.
struct Lookup {
    partition: Arc<Partition>,
    matches: Vec<Match>,
}

fn prefix(ask: &Ask, engine: &Engine, lookups: &mut Vec<Lookup>) -> Prefix {
    let Some(place) = engine.log.place() else { return Prefix::default() };
    let block_tokens = place.key.block_tokens;
    let known = lookups.iter().position(|lookup| Arc::ptr_eq(&lookup.partition, &place.partition));
    let at = known.unwrap_or_else(|| {
        let adapter = ask.extra.adapter.as_ref().map(|adapter| &*adapter.name);
        let mut chain = KeyChain::new(&ask.model.base, adapter, ask.extra.cache_salt.as_deref(), block_tokens);
        let keys = ask.tokens.chunks_exact(block_tokens).map(|block| chain.push(block));
        let matches = place.partition.lookup(keys);
        lookups.push(Lookup { partition: place.partition.clone(), matches });
        lookups.len() - 1
    });
    Prefix {
        cached_blocks: place.blocks_among(&lookups[at].matches),
        prompt_blocks: (ask.tokens.len() / block_tokens) as u32,
        block_tokens: block_tokens as u32,
    }
}
