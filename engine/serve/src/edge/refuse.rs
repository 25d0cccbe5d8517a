//! Parameters of vLLM that change the answer and that this engine does not serve. A value that changes nothing passes; any other is a
//! 400 that names the parameter, because an answer that silently ignores it is a wrong answer.

use proto::openai::Request;
use serde_json::Value;

use super::answer::ApiError;

/// Whether a request asks for something by a parameter.
type Asked = fn(&Request) -> bool;

/// The table: parameter, and whether its value asks for something.
pub const REFUSED: [(&str, Asked); 10] = [
    ("use_beam_search", |request| request.use_beam_search == Some(true)),
    ("length_penalty", |request| request.length_penalty.is_some_and(|penalty| penalty != 1.0)),
    ("best_of", |request| request.best_of.is_some_and(|best_of| best_of != 1)),
    ("suffix", |request| request.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty())),
    ("prompt_embeds", |request| request.prompt_embeds.as_ref().is_some_and(asks)),
    ("mm_processor_kwargs", |request| request.mm_processor_kwargs.as_ref().is_some_and(asks)),
    ("media_io_kwargs", |request| request.media_io_kwargs.as_ref().is_some_and(asks)),
    ("ec_transfer_params", |request| request.ec_transfer_params.as_ref().is_some_and(asks)),
    ("watermarking", |request| request.watermarking == Some(true)),
    ("return_weight_versions", |request| request.return_weight_versions == Some(true)),
];

/// `null` and what is empty ask for nothing.
pub fn asks(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    }
}

/// Refuses the first parameter of the table that asks for something.
pub fn unserved(request: &Request) -> Result<(), ApiError> {
    match REFUSED.iter().find(|(_, asked)| asked(request)) {
        None => Ok(()),
        Some((param, _)) => Err(ApiError::parameter(param, format!("This engine does not serve `{param}`; leave it out."))),
    }
}
