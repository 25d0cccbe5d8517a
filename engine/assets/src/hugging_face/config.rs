//! `config.json`, in the spellings of transformers 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`).

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::architecture::Architecture;
use crate::config::{ModelConfig, Rope, RopePairing, RopeScaling, Spelling};
use crate::error::{AssetsError, ErrorKind, Quoted};
use crate::file::{self, MAX_CONFIG_BYTES};

const KEYS: Spelling = Spelling {
    prefix: String::new(),
    vocab_size: "vocab_size",
    hidden_size: "hidden_size",
    intermediate_size: "intermediate_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    kv_heads: "num_key_value_heads",
    head_dim: "head_dim",
    rms_norm_eps: "rms_norm_eps",
    context_length: "max_position_embeddings",
    rope_theta: "rope_theta",
};

/// The base of frequencies where a Llama configuration names none.
const DEFAULT_ROPE_THETA: f64 = 10_000.0;

/// Reads `config.json`: the architecture, its shape, and the end-of-sequence ids.
pub(super) fn read(
    folder: &Path,
    warnings: &mut Vec<String>,
) -> Result<(&'static Architecture, ModelConfig, Vec<u32>), AssetsError> {
    let json = Json::read(&folder.join("config.json"))?;
    let architecture = architecture(&json)?;
    refuse_what_changes_the_result(&json)?;
    let hidden_size = json.size("hidden_size")?;
    let heads = json.size("num_attention_heads")?;
    let config = ModelConfig {
        architecture: architecture.name.to_owned(),
        vocab_size: json.size("vocab_size")?,
        hidden_size,
        intermediate_size: json.size("intermediate_size")?,
        layers: json.size("num_hidden_layers")?,
        heads,
        kv_heads: json.optional_size("num_key_value_heads")?.unwrap_or(heads),
        head_dim: match json.optional_size("head_dim")? {
            Some(head_dim) => head_dim,
            None => hidden_size.checked_div(heads).unwrap_or(0),
        },
        rms_norm_eps: json.optional_number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        context_length: json.optional_size("max_position_embeddings")?.unwrap_or(2048),
        tie_word_embeddings: json.optional_flag("tie_word_embeddings")?.unwrap_or(architecture.tied_by_default),
        attention_bias: json.optional_flag("attention_bias")?.unwrap_or(false),
        mlp_bias: json.optional_flag("mlp_bias")?.unwrap_or(false),
        rope: rope(&json, warnings)?,
    };
    config.check(&json.path, &KEYS)?;
    Ok((architecture, config, json.token_ids("eos_token_id")?))
}

fn architecture(json: &Json) -> Result<&'static Architecture, AssetsError> {
    let class = json.get("architectures").and_then(|classes| classes.get(0)).and_then(Value::as_str);
    let model_type = json.get("model_type").and_then(Value::as_str);
    let (key, name, architecture) = match (class, model_type) {
        (Some(class), _) => ("architectures", class, Architecture::by_class(class)),
        (None, Some(model_type)) => ("model_type", model_type, Architecture::by_name(model_type)),
        (None, None) => {
            return Err(json.error(
                ErrorKind::Missing,
                "architectures",
                "is missing",
                "give the folder of a causal language model",
            ));
        }
    };
    architecture.ok_or_else(|| {
        let what = format!("architecture {} is not supported", Quoted(name));
        json.error(ErrorKind::Unsupported, key, what, format!("supported: {}", Architecture::supported()))
    })
}

/// Options that would change every number, and that nothing here computes.
fn refuse_what_changes_the_result(json: &Json) -> Result<(), AssetsError> {
    let refuse = |key, what: String| Err(json.error(ErrorKind::Unsupported, key, what, "use a model without it"));
    if let Some(quantization) = json.get("quantization_config") {
        let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
        return Err(json.error(
            ErrorKind::Unsupported,
            "quantization_config",
            format!("quantisation {} is not supported", Quoted(method)),
            "use the model in F32, F16 or BF16, or a GGUF in Q8_0, Q4_0 or Q4_1",
        ));
    }
    if let Some(activation) = json.get("hidden_act").and_then(Value::as_str)
        && activation != "silu"
    {
        return refuse("hidden_act", format!("activation {} is not supported", Quoted(activation)));
    }
    for key in ["partial_rotary_factor", "logit_scale", "attention_multiplier"] {
        if json.optional_number(key)?.is_some_and(|factor| factor != 1.0) {
            return refuse(key, "a factor other than 1 is not supported".to_owned());
        }
    }
    Ok(())
}

/// The two spellings. Where both are there, `rope_scaling` wins over `rope_parameters`, and a base inside either over the one at
/// the top, as in transformers 5.
fn rope(json: &Json, warnings: &mut Vec<String>) -> Result<Rope, AssetsError> {
    let top_theta = json.optional_number("rope_theta")?;
    let (key, parameters) = match (json.object("rope_parameters")?, json.object("rope_scaling")?) {
        (_, Some(scaling)) if !scaling.is_empty() => ("rope_scaling", Some(scaling)),
        (parameters, _) => ("rope_parameters", parameters),
    };
    let Some(parameters) = parameters else {
        return Ok(Rope {
            theta: top_theta.unwrap_or(DEFAULT_ROPE_THETA),
            scaling: RopeScaling::None,
            pairing: RopePairing::Halves,
        });
    };
    let number = |name: &str| match parameters.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_f64()
            .map(Some)
            .ok_or_else(|| json.error(ErrorKind::Malformed, key, format!("{name} is not a number"), "correct it")),
    };
    let required = |name: &str| {
        number(name)?.ok_or_else(|| {
            json.error(ErrorKind::Missing, key, format!("llama3 scaling without {name}"), "add it, or fetch the file again")
        })
    };
    let inner_theta = number("rope_theta")?;
    if let (Some(inner), Some(top)) = (inner_theta, top_theta)
        && inner != top
    {
        warnings.push(format!("{}: rope_theta is {top}, and {inner} in {key}: {inner} is used", json.path.display()));
    }
    if number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
        return Err(json.error(
            ErrorKind::Unsupported,
            key,
            "a partial_rotary_factor other than 1 is not supported",
            "use a model without it",
        ));
    }
    // transformers 4 wrote `type` before it wrote `rope_type`.
    let kind = parameters.get("rope_type").or_else(|| parameters.get("type")).and_then(Value::as_str);
    let scaling = match kind {
        Some("default") => RopeScaling::None,
        None if number("factor")?.is_none() => RopeScaling::None,
        Some("llama3") => RopeScaling::Llama3 {
            factor: required("factor")?,
            low_freq_factor: required("low_freq_factor")?,
            high_freq_factor: required("high_freq_factor")?,
            original_context: required("original_max_position_embeddings")? as usize,
        },
        other => {
            let what = format!("rope scaling {} is not supported", Quoted(other.unwrap_or("without rope_type")));
            return Err(json.error(ErrorKind::Unsupported, key, what, "supported: default, llama3"));
        }
    };
    Ok(Rope { theta: inner_theta.or(top_theta).unwrap_or(DEFAULT_ROPE_THETA), scaling, pairing: RopePairing::Halves })
}

/// A JSON object whose complaints name file and key. `null` counts as absent, as in transformers.
pub(super) struct Json {
    pub path: PathBuf,
    map: Map<String, Value>,
}

impl Json {
    pub fn read(path: &Path) -> Result<Self, AssetsError> {
        let content = file::read(path, MAX_CONFIG_BYTES)?;
        Self::parse(path, &content)
    }

    /// As [`Json::read`]; a file that does not exist is `None`.
    pub fn read_optional(path: &Path) -> Result<Option<Self>, AssetsError> {
        file::read_optional(path, MAX_CONFIG_BYTES)?.map(|content| Self::parse(path, &content)).transpose()
    }

    fn parse(path: &Path, content: &[u8]) -> Result<Self, AssetsError> {
        Ok(Self { path: path.to_path_buf(), map: file::parse_json(path, content)? })
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub fn error(&self, kind: ErrorKind, key: &str, what: impl Into<Box<str>>, action: impl Into<Box<str>>) -> AssetsError {
        AssetsError::new(kind, &self.path, what, action).key(key)
    }

    fn wrong(&self, key: &str, expected: &str) -> AssetsError {
        let shown = self.get(key).map(|value| value.to_string()).unwrap_or_default();
        self.error(
            ErrorKind::Malformed,
            key,
            format!("is {}, not {expected}", Quoted(&shown)),
            "correct it, or fetch the file again",
        )
    }

    fn size(&self, key: &str) -> Result<usize, AssetsError> {
        self.optional_size(key)?.ok_or_else(|| self.error(ErrorKind::Missing, key, "is missing", "fetch the file again"))
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>, AssetsError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_u64()
                .and_then(|size| usize::try_from(size).ok())
                .map(Some)
                .ok_or_else(|| self.wrong(key, "a whole number")),
        }
    }

    pub fn optional_number(&self, key: &str) -> Result<Option<f64>, AssetsError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| self.wrong(key, "a number")),
        }
    }

    pub fn optional_u32(&self, key: &str) -> Result<Option<u32>, AssetsError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_u64()
                .and_then(|n| u32::try_from(n).ok())
                .map(Some)
                .ok_or_else(|| self.wrong(key, "a whole number below 2^32")),
        }
    }

    pub fn optional_flag(&self, key: &str) -> Result<Option<bool>, AssetsError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    fn object(&self, key: &str) -> Result<Option<&Map<String, Value>>, AssetsError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value.as_object().map(Some).ok_or_else(|| self.wrong(key, "an object")),
        }
    }

    /// A token id or a list of them; absent is an empty list.
    pub fn token_ids(&self, key: &str) -> Result<Vec<u32>, AssetsError> {
        let id = |value: &Value| {
            value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| self.wrong(key, "a token id or a list of them"))
        };
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(id).collect(),
            Some(value) => Ok(vec![id(value)?]),
        }
    }
}
