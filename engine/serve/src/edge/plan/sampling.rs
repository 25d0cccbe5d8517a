//! How tokens are chosen: temperature and its fellows.

use engine::request::Sampling;
use engine_assets::Generation;
use proto::openai::Request;

use crate::edge::answer::ApiError;

/// As vLLM 0.33; OpenAI's own limit.
const TEMPERATURE_MAX: f32 = 2.0;

pub fn sampling(request: &Request, defaults: &Generation) -> Result<Sampling, ApiError> {
    let temperature = request.temperature.map(|value| value as f32).or(defaults.temperature).unwrap_or(1.0);
    if !(0.0..=TEMPERATURE_MAX).contains(&temperature) {
        let message = format!("`temperature` is {temperature}; it must be 0 to {TEMPERATURE_MAX}.");
        return Err(ApiError::parameter("temperature", message));
    }
    let top_p = request.top_p.map(|value| value as f32).or(defaults.top_p).unwrap_or(1.0);
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(ApiError::parameter("top_p", format!("`top_p` is {top_p}; it must be above 0 and at most 1.")));
    }
    let top_k = match request.top_k {
        None => defaults.top_k.unwrap_or(0),
        Some(0 | -1) => 0,
        // A k beyond the vocabulary keeps all.
        Some(k @ 1..) => u32::try_from(k).unwrap_or(0),
        Some(k) => {
            return Err(ApiError::parameter("top_k", format!("`top_k` is {k}; it must be 0 or -1 (keep all), or at least 1.")));
        }
    };
    let min_p = request.min_p.map(|value| value as f32).or(defaults.min_p).unwrap_or(0.0);
    if !(0.0..=1.0).contains(&min_p) {
        return Err(ApiError::parameter("min_p", format!("`min_p` is {min_p}; it must be 0 to 1.")));
    }
    let seed = request.seed.map_or(0, |seed| seed as u64);
    Ok(Sampling { temperature, top_k, top_p, min_p, seed })
}
