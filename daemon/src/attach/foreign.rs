//! An engine that is not ours: asked for its health, its models and its metrics, in vLLM's or SGLang's names.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{AssetsDigest, EngineState, Incarnation, KvUse, Load};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use crate::attach::exposition::{self, Sample};
use crate::attach::follow::{Baseline, Follow, follow};
use crate::attach::{Observed, Retry, Seen, native};
use crate::config::{Foreign, Health};
use crate::edge::engine::{EngineClient, Models};
use crate::node::Node;
use crate::report::blocks::BlockLog;

/// Between two looks at `/metrics`.
const METRICS_EVERY: Duration = Duration::from_millis(250);
/// Between two looks at an engine that has no metrics to show.
const HEALTH_EVERY: Duration = Duration::from_secs(1);

/// Between two looks at which adapters are loaded.
const MODELS_EVERY: Duration = Duration::from_secs(2);

/// Reads until dropped.
pub async fn watch(
    client: &EngineClient,
    foreign: &Foreign,
    model_files: Option<&Path>,
    node: &Arc<Node>,
    blocks: &Arc<BlockLog>,
    seen: &mpsc::Sender<Seen>,
) {
    let mut retry = Retry::new();
    loop {
        let Some(models) = ready(client, foreign, seen, &mut retry).await else { return };
        let asks = matches!(foreign.health, Health::Path(_));
        if asks && client.is_native().await {
            return native::watch(client, node, blocks, seen).await;
        }
        let assets = digest(model_files).await;
        let incarnation = Incarnation(rand::random());
        let source = source(foreign, &models, incarnation);
        let _following = source.map(|source| AbortOnDropHandle::new(tokio::spawn(follow(source, node.clone(), blocks.clone()))));
        let why = observe(client, foreign, models, assets, incarnation, seen).await;
        let Some(why) = why else { return };
        blocks.clear();
        if seen.send(Seen::Silent(why)).await.is_err() {
            return;
        }
        retry = Retry::new();
        retry.wait().await;
    }
}

/// Waits until it takes requests. `None`: nobody listens any more.
async fn ready(client: &EngineClient, foreign: &Foreign, seen: &mpsc::Sender<Seen>, retry: &mut Retry) -> Option<Models> {
    let Health::Path(path) = &foreign.health else { return Some(Models::default()) };
    loop {
        let what = match client.healthy(path).await {
            Err(why) => Seen::Silent(format!("{}{path}: {why}", client.address())),
            Ok(()) => match client.models().await {
                Ok(models) => return Some(models),
                Err(_) => Seen::Answers,
            },
        };
        seen.send(what).await.ok()?;
        retry.wait().await;
    }
}

fn source(foreign: &Foreign, models: &Models, incarnation: Incarnation) -> Option<Follow> {
    Some(Follow {
        endpoint: foreign.kv_events.clone()?,
        replay: foreign.kv_replay.clone(),
        model: models.base.clone(),
        incarnation,
        block_tokens: None,
        adapters_loaded: !models.adapters.is_empty(),
        baseline: Baseline::Replay,
    })
}

/// Digest of the tokenizer that lies on this node, where one was configured.
async fn digest(model_files: Option<&Path>) -> Option<AssetsDigest> {
    let path = model_files?.to_owned();
    spawn_blocking(move || crate::assets::digest(&path).ok()).await.ok()?
}

/// Asks again and again; returns why that ended, or `None` when nobody listens any more.
async fn observe(
    client: &EngineClient,
    foreign: &Foreign,
    mut models: Models,
    assets: Option<AssetsDigest>,
    incarnation: Incarnation,
    seen: &mpsc::Sender<Seen>,
) -> Option<String> {
    let mut has_metrics = matches!(foreign.health, Health::Path(_));
    let mut ticks = interval(if has_metrics { METRICS_EVERY } else { HEALTH_EVERY });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut quiet = 0;
    let mut models_at = Instant::now();
    loop {
        ticks.tick().await;
        if has_metrics && models_at.elapsed() >= MODELS_EVERY {
            models_at = Instant::now();
            // An answer that fails is the health check's business.
            match client.models().await {
                Ok(now) if now.base != models.base => return Some(format!("it serves {} in place of {}", now.base, models.base)),
                Ok(now) => models = now,
                Err(_) => {}
            }
        }
        let mut reading = Reading::default();
        if has_metrics {
            match client.metrics().await {
                Ok(Some(text)) => reading = read(&text),
                Ok(None) => {
                    has_metrics = false;
                    ticks = interval(HEALTH_EVERY);
                    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                }
                Err(why) => {
                    // One slow answer is not yet silence; the supervisor's patience counts from the last good one.
                    quiet += 1;
                    if quiet >= 3 {
                        return Some(format!("{}/metrics: {why}", client.address()));
                    }
                    continue;
                }
            }
        } else if let Health::Path(path) = &foreign.health
            && let Err(why) = client.healthy(path).await
        {
            quiet += 1;
            if quiet >= 3 {
                return Some(format!("{}{path}: {why}", client.address()));
            }
            continue;
        }
        quiet = 0;
        let observed = Observed {
            incarnation: Some(incarnation),
            state: EngineState::Ready,
            model: models.base.clone(),
            adapters: models.adapters.clone(),
            assets,
            context_length: models.context_length,
            load: reading.load,
            steps: reading.tokens,
            counts_in_flight: false,
            address: client.address(),
            loading: None,
        };
        seen.send(Seen::Observed(Box::new(observed))).await.ok()?;
    }
}

/// What the metrics say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    pub load: Load,
    /// Tokens handled so far, prompt and generated: what grows while it works, in place of a step counter.
    pub tokens: u64,
}

/// Reads vLLM's and SGLang's metrics. Several series of one name (data-parallel ranks behind one port) add up.
pub fn read(text: &str) -> Reading {
    let mut reading = Reading::default();
    let mut usage = None;
    let whole = |sample: &Sample<'_>| sample.value.clamp(0.0, u32::MAX.into()) as u32;
    for sample in exposition::samples(text) {
        let Some((engine, name)) = sample.name.split_once(':') else { continue };
        if engine != "vllm" && engine != "sglang" {
            continue;
        }
        match name {
            "num_requests_running" | "num_running_reqs" => reading.load.running += whole(&sample),
            "num_requests_waiting" | "num_queue_reqs" => reading.load.waiting += whole(&sample),
            "kv_cache_usage_perc" | "gpu_cache_usage_perc" | "token_usage" => usage = Some(sample.value.clamp(0.0, 1.0)),
            "prompt_tokens_total" | "generation_tokens_total" => reading.tokens += sample.value.max(0.0) as u64,
            "cache_config_info" => {
                let number = |label| sample.label(label).and_then(|text| text.parse().ok());
                reading.load.kv.block_tokens = number("block_size").unwrap_or(0) as u32;
                reading.load.kv.total_blocks = number("num_gpu_blocks").unwrap_or(0);
            }
            _ => {}
        }
    }
    if let Some(usage) = usage {
        // Without the number of blocks the share is all there is: it is kept in thousandths.
        let total = if reading.load.kv.total_blocks == 0 { 1000 } else { reading.load.kv.total_blocks };
        let used_blocks = (usage * total as f64).round() as u64;
        reading.load.kv = KvUse { used_blocks, total_blocks: total, ..reading.load.kv };
    }
    reading
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vllm_and_sglang_metrics_are_read_by_their_own_names() {
        let vllm = "vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 3.0\n\
                    vllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 2.0\n\
                    vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\n\
                    vllm:cache_config_info{block_size=\"16\",engine=\"0\",num_gpu_blocks=\"400\"} 1.0\n\
                    vllm:prompt_tokens_total{engine=\"0\"} 100.0\n\
                    vllm:generation_tokens_total{engine=\"0\"} 50.0\n\
                    http_requests_total{handler=\"/x\"} 9.0\n";
        let kv = KvUse { used_blocks: 100, total_blocks: 400, block_tokens: 16 };
        let load = Load { running: 3, waiting: 2, kv, ..Load::default() };
        assert_eq!(read(vllm), Reading { load, tokens: 150 });
        let sglang = "sglang:num_running_reqs{model_name=\"m\"} 1\nsglang:num_queue_reqs{model_name=\"m\"} 4\n\
                      sglang:token_usage{model_name=\"m\"} 0.5\n";
        let kv = KvUse { used_blocks: 500, total_blocks: 1000, block_tokens: 0 };
        let load = Load { running: 1, waiting: 4, kv, ..Load::default() };
        assert_eq!(read(sglang), Reading { load, tokens: 0 });
    }
}
