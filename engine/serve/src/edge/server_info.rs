//! `/server_info`: what this engine was started with, under the keys of vLLM's configuration.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use engine::backend::Reserved;
use http::StatusCode;
use serde_json::{Value, json as value};

use super::answer::{ApiError, json};
use super::probe::VLLM_VERSION;
use crate::edge::app::App;

/// `config_format=json` gives the configuration as an object, `text` (the default) as text.
pub async fn answer(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let format = query.split('&').find_map(|part| part.strip_prefix("config_format=")).unwrap_or("text");
    let config = config(&app);
    let shown = match format {
        "json" => config,
        "text" => Value::from(config.to_string()),
        _ => {
            let message = "`config_format` must be `text` or `json`.";
            return ApiError::parameter("config_format", message).into_response();
        }
    };
    let system = value!({
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "is_cuda_available": false,
        "vllm_version": VLLM_VERSION,
        "trackside_version": env!("CARGO_PKG_VERSION"),
        "cpus": std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
    });
    let reserved = app.handle().map(|handle| handle.limits().reserved);
    let reserved = reserved
        .map(|Reserved { weights, kv, activations }| value!({ "weights": weights, "kv_cache": kv, "activations": activations }));
    let own = value!({ "reserved_bytes": reserved });
    json(StatusCode::OK, &value!({ "vllm_config": shown, "vllm_env": {}, "system_env": system, "trackside": own }))
}

fn config(app: &App) -> Value {
    let limits = app.handle().map(|handle| handle.limits());
    let capacity = limits.map(|limits| &limits.capacity);
    value!({
        "model_config": {
            "model": app.root,
            "served_model_name": app.names.iter().map(|name| &**name).collect::<Vec<_>>(),
            "max_model_len": app.context_length(),
            "max_logprobs": app.answers.logprobs_max.map_or(-1, i64::from),
        },
        "cache_config": {
            "block_size": capacity.map(|capacity| capacity.block_tokens),
            "num_gpu_blocks": capacity.map(|capacity| capacity.kv_blocks),
            "enable_prefix_caching": limits.map(|limits| limits.config.prefix_caching),
        },
        "scheduler_config": {
            "max_num_seqs": capacity.map(|capacity| capacity.slots),
            "max_num_batched_tokens": capacity.map(|capacity| capacity.batch_tokens),
            "max_num_queued_reqs": limits.map(|limits| limits.config.waiting_max),
            "max_num_queued_tokens": limits.map(|limits| limits.config.waiting_tokens_max),
        },
        "parallel_config": {
            "tensor_parallel_size": 1,
            "pipeline_parallel_size": 1,
            "data_parallel_size": 1,
            "data_parallel_rank": app.data_parallel_rank,
        },
        "kv_events_config": { "enable_kv_cache_events": app.kv_events.endpoint.is_some(), "endpoint": app.kv_events.endpoint },
    })
}
