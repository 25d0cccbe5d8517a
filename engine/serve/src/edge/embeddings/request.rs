//! What a request for vectors may ask, as vLLM 0.33 checks it.

use domain::ExtraKeys;
use engine_assets::{Matryoshka, PoolingConfig};
use proto::openai::EmbeddingRequest;

use super::encode::{ByteOrder, Encoding};
use crate::edge::answer::ApiError;
use crate::edge::plan::input;
use crate::edge::prompt::Truncation;
use crate::edge::refuse;

/// Most texts of one request, as OpenAI has it.
const TEXTS_MAX: usize = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Embeddings,
    Pooling,
}

impl Endpoint {
    pub fn id_prefix(self) -> &'static str {
        match self {
            Self::Embeddings => "embd",
            Self::Pooling => "pool",
        }
    }
}

/// A checked request, apart from its texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub encoding: Encoding,
    /// Values of a vector.
    pub dimensions: usize,
    pub normalise: bool,
    pub truncation: Option<Truncation>,
    pub priority: i64,
    pub extra: ExtraKeys,
}

impl Plan {
    /// `pooling` is the engine's, `size` the values of its whole vectors.
    pub fn new(
        endpoint: Endpoint,
        request: &EmbeddingRequest,
        pooling: Option<&PoolingConfig>,
        size: usize,
        length_max: usize,
    ) -> Result<Self, ApiError> {
        unserved(endpoint, request)?;
        let texts = request.input.as_ref().map_or(0, proto::openai::Prompt::len);
        if texts > TEXTS_MAX {
            let message = format!("`input` holds {texts} texts; at most {TEXTS_MAX} are possible.");
            return Err(ApiError::parameter("input", message));
        }
        let default = PoolingConfig::default();
        let PoolingConfig { normalise, matryoshka, .. } = pooling.unwrap_or(&default);
        let side = request.truncation_side.as_deref();
        Ok(Self {
            encoding: encoding(request)?,
            dimensions: dimensions(request.dimensions, matryoshka, size)?,
            normalise: request.use_activation.unwrap_or(*normalise),
            // Nothing is generated behind the text: it may fill the context.
            truncation: input::truncation(request.truncate_prompt_tokens, side, length_max.saturating_sub(1))?,
            priority: request.priority.unwrap_or(0),
            extra: ExtraKeys { cache_salt: input::salt(request.cache_salt.as_deref())?.map(Into::into), ..ExtraKeys::default() },
        })
    }
}

/// Refuses what would change the answer and is not served.
fn unserved(endpoint: Endpoint, request: &EmbeddingRequest) -> Result<(), ApiError> {
    let refuse = |param: &'static str, message: String| Err(ApiError::parameter(param, message));
    if request.normalize.is_some() {
        return refuse("normalize", "`normalize` was removed from vLLM; use `use_activation`.".into());
    }
    if endpoint == Endpoint::Pooling && request.dimensions.is_some() {
        return refuse("dimensions", "`/pooling` does not take `dimensions`; `/v1/embeddings` does.".into());
    }
    if let Some(task) = request.task.as_deref().filter(|task| endpoint == Endpoint::Pooling && *task != "embed") {
        let task: String = task.chars().take(40).collect();
        return refuse("task", format!("`task` is {task:?}; this engine does \"embed\"."));
    }
    if request.padding.as_deref().is_some_and(|padding| padding != "do_not_pad") {
        return refuse("padding", "This engine pads no texts; leave `padding` out.".into());
    }
    let asked = |value: &Option<serde_json::Value>| value.as_ref().is_some_and(refuse::asks);
    let media = [("mm_processor_kwargs", &request.mm_processor_kwargs), ("media_io_kwargs", &request.media_io_kwargs)];
    match media.into_iter().find(|(_, value)| asked(value)) {
        Some((param, _)) => refuse(param, format!("This engine does not serve `{param}`; leave it out.")),
        None => Ok(()),
    }
}

fn encoding(request: &EmbeddingRequest) -> Result<Encoding, ApiError> {
    let order = match request.endianness.as_deref() {
        Some("big") => ByteOrder::Big,
        Some("little") => ByteOrder::Little,
        None | Some("native") if cfg!(target_endian = "little") => ByteOrder::Little,
        None | Some("native") => ByteOrder::Big,
        Some(other) => return Err(neither("endianness", other, "native, little, big")),
    };
    if let Some(other) = request.embed_dtype.as_deref().filter(|dtype| *dtype != "float32") {
        return Err(neither("embed_dtype", other, "float32"));
    }
    match request.encoding_format.as_deref() {
        None | Some("float") => Ok(Encoding::Float),
        Some("base64") => Ok(Encoding::Base64(order)),
        Some(other) => Err(neither("encoding_format", other, "float, base64")),
    }
}

fn neither(param: &'static str, found: &str, possible: &str) -> ApiError {
    let found: String = found.chars().take(40).collect();
    ApiError::parameter(param, format!("`{param}` is {found:?}; possible here: {possible}."))
}

/// Values of a vector. As in vLLM, a model says itself to what sizes it may be cut.
fn dimensions(asked: Option<i64>, matryoshka: &Matryoshka, size: usize) -> Result<usize, ApiError> {
    let Some(asked) = asked else { return Ok(size) };
    let cut = usize::try_from(asked).ok().filter(|cut| (1..=size).contains(cut));
    let possible = match (matryoshka, cut) {
        (Matryoshka::No, _) => "its vectors cannot be cut (no Matryoshka embeddings); leave it out".to_owned(),
        (Matryoshka::Any, Some(cut)) => return Ok(cut),
        (Matryoshka::Sizes(sizes), Some(cut)) if sizes.contains(&cut) => return Ok(cut),
        (Matryoshka::Any, None) => format!("it must be 1 to {size}"),
        (Matryoshka::Sizes(sizes), _) => format!("it must be one of {sizes:?}"),
    };
    Err(ApiError::parameter("dimensions", format!("`dimensions` is {asked}; for this model {possible}.")))
}
