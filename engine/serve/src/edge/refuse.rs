//! Parameters of vLLM that change the answer and that this engine does not serve yet. A value that changes nothing passes; any other
//! is a 400 that names the parameter, because an answer that silently ignores it is a wrong answer.

use proto::openai::Request;
use serde_json::Value;

use super::answer::ApiError;

/// The table: parameter, and whether its value asks for something.
fn asked(request: &Request) -> [(&'static str, bool); 27] {
    let Request {
        logprobs,
        top_logprobs,
        prompt_logprobs,
        logprob_token_ids,
        frequency_penalty,
        presence_penalty,
        repetition_penalty,
        length_penalty,
        min_p,
        min_tokens,
        logit_bias,
        allowed_token_ids,
        bad_words,
        response_format,
        structured_outputs,
        use_beam_search,
        best_of,
        suffix,
        prompt_embeds,
        return_tokens_as_token_ids,
        thinking_token_budget,
        repetition_detection,
        mm_processor_kwargs,
        ec_transfer_params,
        media_io_kwargs,
        watermarking,
        tool_choice,
        ..
    } = request;
    [
        ("logprobs", logprobs.as_ref().is_some_and(|value| *value != Value::Bool(false))),
        ("top_logprobs", top_logprobs.is_some_and(|number| number != 0)),
        ("prompt_logprobs", prompt_logprobs.is_some()),
        ("logprob_token_ids", logprob_token_ids.as_ref().is_some_and(|ids| !ids.is_empty())),
        ("frequency_penalty", frequency_penalty.is_some_and(|penalty| penalty != 0.0)),
        ("presence_penalty", presence_penalty.is_some_and(|penalty| penalty != 0.0)),
        ("repetition_penalty", repetition_penalty.is_some_and(|penalty| penalty != 1.0)),
        ("length_penalty", length_penalty.is_some_and(|penalty| penalty != 1.0)),
        ("min_p", min_p.is_some_and(|min| min != 0.0)),
        ("min_tokens", min_tokens.is_some_and(|min| min != 0)),
        ("logit_bias", logit_bias.as_ref().is_some_and(|bias| !bias.is_empty())),
        ("allowed_token_ids", allowed_token_ids.is_some()),
        ("bad_words", bad_words.as_ref().is_some_and(|words| !words.is_empty())),
        ("response_format", response_format.as_ref().is_some_and(|format| format["type"] != "text")),
        ("structured_outputs", structured_outputs.is_some()),
        ("use_beam_search", *use_beam_search == Some(true)),
        ("best_of", best_of.is_some_and(|best_of| best_of != 1)),
        ("suffix", suffix.as_ref().is_some_and(|suffix| !suffix.is_empty())),
        ("prompt_embeds", prompt_embeds.is_some()),
        ("return_tokens_as_token_ids", *return_tokens_as_token_ids == Some(true)),
        ("thinking_token_budget", thinking_token_budget.is_some()),
        ("repetition_detection", repetition_detection.is_some()),
        ("mm_processor_kwargs", mm_processor_kwargs.is_some()),
        ("ec_transfer_params", ec_transfer_params.is_some()),
        ("media_io_kwargs", media_io_kwargs.is_some()),
        ("watermarking", *watermarking == Some(true)),
        ("tool_choice", tool_choice.as_ref().is_some_and(|choice| !matches!(choice.as_str(), Some("none" | "auto")))),
    ]
}

/// Refuses the first parameter of the table that asks for something.
pub fn unserved(request: &Request) -> Result<(), ApiError> {
    match asked(request).into_iter().find(|(_, asked)| *asked) {
        None => Ok(()),
        Some((param, _)) => Err(ApiError::parameter(param, format!("This engine does not serve `{param}` yet; leave it out."))),
    }
}
