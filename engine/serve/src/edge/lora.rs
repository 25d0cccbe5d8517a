//! `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`: paths, bodies and answers of vLLM 0.33 (`entrypoints/serve/lora`). Whoever reaches
//! these can make the server read folders, so they are there only where they were asked for, and read below one folder where one is named.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use domain::id::NAME_BYTES_MAX;
use engine::handle::AdapterError;
use engine_assets::ErrorKind;
use http::StatusCode;
use proto::openai::{ErrorBody, LoadLora, UnloadLora};

use super::answer::{ApiError, bytes_of, sentence};
use super::http::read_body;
use crate::adapters::{LoadError, Loader};
use crate::edge::app::App;

pub fn routes() -> Router<Arc<App>> {
    Router::new().route("/v1/load_lora_adapter", post(load)).route("/v1/unload_lora_adapter", post(unload))
}

/// Of a name or path that is wrong, so much is repeated.
const SHOWN_CHARS: usize = 256;

type Answer = Result<Response, ApiError>;

async fn load(State(app): State<Arc<App>>, body: Body) -> Answer {
    let body = read_body(body, app.body_bytes_max).await?;
    let asked: LoadLora = proto::openai::read(&body)?;
    let (Some(name), Some(path)) = (given(asked.lora_name), given(asked.lora_path)) else {
        return Err(input("Both 'lora_name' and 'lora_path' must be provided."));
    };
    if name.len() > NAME_BYTES_MAX {
        return Err(input(format!("The lora name has {} bytes; at most {NAME_BYTES_MAX} are possible.", name.len())));
    }
    if app.names.iter().any(|served| **served == *name) {
        return Err(input(format!("The lora adapter '{name}' conflicts with a served base model.")));
    }
    app.ready()?;
    let loader = app.loader.clone().ok_or_else(|| app.unavailable())?;
    let _change = app.adapters.change().await;
    if !asked.load_inplace.unwrap_or(false) && app.adapters.find(&name).is_some() {
        let message = format!(
            "The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set 'load_inplace' to True."
        );
        return Err(input(message));
    }
    let shared = Arc::clone(&app);
    let loaded = tokio::task::spawn_blocking(move || read(&shared, &loader, &name, &path).map(|()| name)).await;
    let name = loaded.unwrap_or_else(|_| Err(super::work::failed()))?;
    tracing::info!("the adapter {name} is loaded");
    app.changed.tell();
    Ok(said(format!("Success: LoRA adapter '{name}' added successfully.")))
}

fn read(app: &App, loader: &Loader, name: &str, path: &str) -> Result<(), ApiError> {
    let ready = app.ready()?;
    let missing = || {
        let shown: String = path.chars().take(SHOWN_CHARS).collect();
        ErrorBody::new(404, format!("Loading lora {name} failed: No adapter found for {shown}")).naming("lora_path")
    };
    // Where only one folder may be read, nothing is said of what lies outside.
    let folder = loader.folder(path).ok_or_else(missing)?;
    app.adapters.load(&ready.handle, loader, name, path, &folder).map_err(|error| match error {
        LoadError::Unreadable(error) if error.kind == ErrorKind::Missing && !folder.join("adapter_config.json").is_file() => {
            missing().into()
        }
        LoadError::Unreadable(error) => ApiError::parameter("lora_path", sentence(error)),
        LoadError::Refused(error @ AdapterError::Full { .. }) => {
            ApiError::unavailable(format!("{} Unload one, or raise --max-cpu-loras.", sentence(error)))
        }
        LoadError::Refused(error) => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, sentence(error)),
        error @ (LoadError::Busy(_) | LoadError::Silent) => ApiError::unavailable(sentence(error)),
    })
}

async fn unload(State(app): State<Arc<App>>, body: Body) -> Answer {
    let body = read_body(body, app.body_bytes_max).await?;
    let asked: UnloadLora = proto::openai::read(&body)?;
    let Some(name) = given(asked.lora_name) else {
        return Err(input("'lora_name' needs to be provided to unload a LoRA adapter."));
    };
    let ready = app.ready()?;
    let _change = app.adapters.change().await;
    match app.adapters.unload(&ready.handle, &name) {
        Ok(true) => {}
        Ok(false) => {
            return Err(ErrorBody::new(
                404,
                format!("The lora adapter '{}' cannot be found.", name.chars().take(SHOWN_CHARS).collect::<String>()),
            )
            .into());
        }
        Err(busy) => return Err(ApiError::unavailable(sentence(busy))),
    }
    tracing::info!("the adapter {name} is unloaded");
    app.changed.tell();
    Ok(said(format!("Success: LoRA adapter '{name}' removed successfully.")))
}

fn given(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.is_empty())
}

/// vLLM's own type for what is wrong with these two bodies.
fn input(message: impl Into<String>) -> ApiError {
    let mut body = ErrorBody::new(400, message);
    body.error.kind = Cow::Borrowed("InvalidUserInput");
    body.into()
}

fn said(message: String) -> Response {
    bytes_of(StatusCode::OK, "text/plain; charset=utf-8", message)
}
