//! `/tokenize` and `/detokenize`.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use engine_assets::{SpecialToken, TextAssets};
use http::StatusCode;
use proto::openai::{DetokenizeAnswer, DetokenizeRequest, TokenizeAnswer, TokenizeRequest};
use serde_json::{Value, json as value};

use super::answer::{ApiError, json};
use super::http::read_body;
use super::{prompt, work};
use crate::edge::app::App;

pub fn info_routes() -> Router<Arc<App>> {
    Router::new().route("/tokenizer_info", get(info))
}

async fn info(State(app): State<Arc<App>>) -> Response {
    json(StatusCode::OK, &app.tokenizer_info)
}

/// The keys of `tokenizer_config.json` that the model's files settle.
pub fn tokenizer_info(text: &TextAssets, max_model_len: usize) -> Value {
    let token = |token: &Option<SpecialToken>| token.as_ref().map(|token| token.text.clone());
    value!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token(&text.bos),
        "eos_token": token(&text.eos),
        "pad_token": token(&text.pad),
        "unk_token": token(&text.unk),
        "add_bos_token": text.add_bos,
        "add_eos_token": text.add_eos,
        "model_max_length": max_model_len,
        "chat_template": text.chat_template,
    })
}

pub async fn tokenize(State(app): State<Arc<App>>, body: Body) -> Response {
    prepared(&app, body, to_tokens).await
}

pub async fn detokenize(State(app): State<Arc<App>>, body: Body) -> Response {
    prepared(&app, body, to_text).await
}

/// Reads the body and answers with what `work` makes of it.
async fn prepared(app: &Arc<App>, body: Body, work: fn(&App, &[u8]) -> Result<Response, ApiError>) -> Response {
    let answer = async {
        let body = read_body(body, app.body_bytes_max).await?;
        work::run(app, body.len(), move |app| work(app, &body)).await
    };
    answer.await.unwrap_or_else(IntoResponse::into_response)
}

fn to_tokens(app: &App, body: &[u8]) -> Result<Response, ApiError> {
    let request: TokenizeRequest = proto::openai::read(body)?;
    app.named(request.model.as_deref())?;
    let text = &app.ready()?.text;
    let strings = request.return_token_strs.unwrap_or(false);
    let tokens = prompt::of_tokenize(text, request)?;
    let token_strs = strings.then(|| tokens.iter().map(|token| text.token_str(*token).unwrap_or_default()).collect());
    let answer = TokenizeAnswer { count: tokens.len(), max_model_len: app.context_length(), tokens: tokens.to_vec(), token_strs };
    Ok(json(StatusCode::OK, &answer))
}

fn to_text(app: &App, body: &[u8]) -> Result<Response, ApiError> {
    let request: DetokenizeRequest = proto::openai::read(body)?;
    app.named(request.model.as_deref())?;
    let ready = app.ready()?;
    let vocabulary = ready.handle.limits().capacity.vocabulary;
    let ids = request.tokens.ok_or_else(|| ApiError::parameter("tokens", "`tokens` is missing."))?;
    let id = |(i, id): (usize, i64)| match u32::try_from(id) {
        Ok(id) if (id as usize) < vocabulary => Ok(id),
        _ => {
            let message = format!("`tokens[{i}]` is {id}; this model's token ids are 0 to {}.", vocabulary - 1);
            Err(ApiError::parameter("tokens", message))
        }
    };
    let ids = ids.into_iter().enumerate().map(id).collect::<Result<Vec<_>, _>>()?;
    // vLLM shows special tokens here.
    let prompt = ready.text.decode(&ids, false).map_err(prompt::text_error)?;
    Ok(json(StatusCode::OK, &DetokenizeAnswer { prompt }))
}
