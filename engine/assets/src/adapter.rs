//! LoRA adapters (Hu et al. 2021) as PEFT saves them: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::f16;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::ModelAssets;
use crate::architecture::Found;
use crate::error::{AssetsError, ErrorKind, Quoted};
use crate::file;
use crate::hugging_face::Json;
use crate::safetensors;
use crate::tensors::DType;

/// The largest rank that any limit may allow.
pub const MAX_ADAPTER_RANK: usize = 512;
/// PEFT's prefix of every name.
const PREFIX: &str = "base_model.model.";
const WEIGHTS: &str = "adapter_model.safetensors";

/// An adapter of one model, read and checked against it.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    pub path: PathBuf,
    /// By the module that they change, such as `model.layers.0.self_attn.q_proj`.
    pub modules: BTreeMap<String, LowRankWeights>,
}

/// What is added to a module `W`: `scale · B · A`.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRankWeights {
    pub rank: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub scale: f32,
    /// `[rank, inputs]`, row-major.
    pub a: Vec<f32>,
    /// `[outputs, rank]`, row-major.
    pub b: Vec<f32>,
}

impl Adapter {
    /// Reads the folder. What it changes must be projections of `base`, with its shapes and at most `rank_max` wide.
    pub fn open(path: &Path, base: &ModelAssets, rank_max: usize) -> Result<Self, AssetsError> {
        let json = Json::read(&path.join("adapter_config.json"))?;
        let settings = Settings::read(&json)?;
        let weights = path.join(WEIGHTS);
        let mut found = safetensors::read_header(&weights, 0)?;
        let mut pairs: BTreeMap<String, [Option<Found>; 2]> = BTreeMap::new();
        while let Some((name, tensor)) = found.pop_first() {
            let (module, side) =
                module_of(&name).ok_or_else(|| unsupported(&weights, &name, "is no part of a LoRA of a projection"))?;
            pairs.entry(module.to_owned()).or_default()[side] = Some(tensor);
        }
        if pairs.is_empty() {
            return Err(AssetsError::new(
                ErrorKind::Missing,
                &weights,
                "holds no tensors",
                "incomplete download? fetch it again",
            ));
        }
        let (mut file, _) = file::open_regular(&weights)?;
        let mut modules = BTreeMap::new();
        for (module, pair) in pairs {
            let [Some(a), Some(b)] = pair else {
                let what = "has only one of lora_A and lora_B";
                return Err(
                    AssetsError::new(ErrorKind::Missing, &weights, what, "incomplete download? fetch it again").tensor(&module)
                );
            };
            let projection = base.tensors.get(&format!("{module}.weight")).filter(|_| is_projection(&module));
            let Some([outputs, inputs]) = projection.map(|tensor| &tensor.shape[..]) else {
                return Err(unsupported(&weights, &module, "is no projection of the base model that can be adapted"));
            };
            let (outputs, inputs, rank) = (*outputs, *inputs, a.shape.first().copied().unwrap_or(0));
            if a.shape != [rank, inputs] || b.shape != [outputs, rank] {
                let what =
                    format!("lora_A is {:?} and lora_B {:?} for a projection of {:?}", a.shape, b.shape, [outputs, inputs]);
                return Err(AssetsError::new(ErrorKind::Mismatch, &weights, what, "use the adapter with its own base model")
                    .tensor(&module));
            }
            if rank == 0 || rank > rank_max.min(MAX_ADAPTER_RANK) {
                let what = format!("has rank {rank}; at most {} is served", rank_max.min(MAX_ADAPTER_RANK));
                return Err(AssetsError::new(ErrorKind::TooLarge, &weights, what, "raise --max-lora-rank").tensor(&module));
            }
            let mut values = |tensor: &Found| read_values(&weights, &mut file, tensor).map_err(|error| error.tensor(&module));
            let (a, b) = (values(&a)?, values(&b)?);
            modules.insert(module, LowRankWeights { rank, inputs, outputs, scale: settings.scale(rank), a, b });
        }
        Ok(Self { path: path.to_path_buf(), modules })
    }

    /// SHA-256 of what it adds: equal digests mean equal outputs.
    pub fn digest(&self) -> [u8; 32] {
        let mut sha = Sha256::new();
        for (name, LowRankWeights { rank, inputs, outputs, scale, a, b }) in &self.modules {
            sha.update((name.len() as u64).to_le_bytes());
            sha.update(name);
            [rank, inputs, outputs].into_iter().for_each(|size| sha.update((*size as u64).to_le_bytes()));
            [scale].into_iter().chain(a).chain(b).for_each(|value| sha.update(value.to_le_bytes()));
        }
        sha.finalize().into()
    }

    /// The widest of its modules.
    pub fn rank(&self) -> usize {
        self.modules.values().map(|module| module.rank).max().unwrap_or(0)
    }
}

/// The module, and 0 for `lora_A` or 1 for `lora_B`.
fn module_of(name: &str) -> Option<(&str, usize)> {
    let name = name.strip_prefix(PREFIX)?;
    let sides = [".lora_A.weight", ".lora_B.weight"];
    sides.iter().enumerate().find_map(|(side, end)| Some((name.strip_suffix(end)?, side)))
}

fn is_projection(module: &str) -> bool {
    let attention = ["q_proj", "k_proj", "v_proj", "o_proj"].map(|name| format!(".self_attn.{name}"));
    let mlp = ["gate_proj", "up_proj", "down_proj"].map(|name| format!(".mlp.{name}"));
    attention.iter().chain(&mlp).any(|end| module.ends_with(end))
}

fn unsupported(weights: &Path, tensor: &str, what: &str) -> AssetsError {
    let action = "use an adapter of q, k, v, o, gate, up or down projections";
    AssetsError::new(ErrorKind::Unsupported, weights, what, action).tensor(tensor)
}

fn read_values(path: &Path, file: &mut std::fs::File, tensor: &Found) -> Result<Vec<f32>, AssetsError> {
    let dtype = match &tensor.dtype {
        Ok(dtype @ (DType::F32 | DType::F16 | DType::BF16)) => *dtype,
        other => {
            let name = other.as_ref().map_or_else(Clone::clone, ToString::to_string);
            let what = format!("is stored as {}, which is not supported", Quoted(&name));
            return Err(AssetsError::new(ErrorKind::Unsupported, path, what, "save the adapter in F32, F16 or BF16"));
        }
    };
    let mut bytes = vec![0; tensor.bytes as usize];
    file.seek(SeekFrom::Start(tensor.offset))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(|error| AssetsError::io(path, "read", &error))?;
    let two = |chunk: &[u8]| u16::from_le_bytes([chunk[0], chunk[1]]);
    Ok(match dtype {
        DType::F16 => bytes.chunks_exact(2).map(|chunk| f16::from_bits(two(chunk)).to_f32()).collect(),
        DType::BF16 => bytes.chunks_exact(2).map(|chunk| f32::from_bits(u32::from(two(chunk)) << 16)).collect(),
        _ => bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect(),
    })
}

/// What `adapter_config.json` says of the numbers.
struct Settings {
    alpha: f64,
    /// Alpha is divided by the root of the rank (Kalajdzievski 2023), not by the rank.
    rank_stabilised: bool,
}

impl Settings {
    fn read(json: &Json) -> Result<Self, AssetsError> {
        let refuse = |key: &str, what: String| Err(json.error(ErrorKind::Unsupported, key, what, "use an adapter without it"));
        let kind = json.get("peft_type").and_then(Value::as_str).unwrap_or("LORA");
        if kind != "LORA" {
            return refuse("peft_type", format!("{} is not supported", Quoted(kind)));
        }
        for key in ["use_dora", "fan_in_fan_out", "lora_bias", "use_qalora", "use_bdlora"] {
            if json.optional_flag(key)? == Some(true) {
                return refuse(key, "is not supported".to_owned());
            }
        }
        if json.get("bias").is_some_and(|bias| bias != "none") {
            return refuse("bias", "trained biases are not supported".to_owned());
        }
        // Lists and maps that change the result when they hold anything.
        for key in [
            "modules_to_save",
            "alpha_pattern",
            "trainable_token_indices",
            "layer_replication",
            "alora_invocation_tokens",
            "target_parameters",
        ] {
            let empty = |value: &Value| match value {
                Value::Array(items) => items.is_empty(),
                Value::Object(items) => items.is_empty(),
                _ => false,
            };
            if json.get(key).is_some_and(|value| !empty(value)) {
                return refuse(key, "is not supported".to_owned());
            }
        }
        let alpha = json.optional_number("lora_alpha")?;
        let alpha = alpha.ok_or_else(|| json.error(ErrorKind::Missing, "lora_alpha", "is missing", "fetch the file again"))?;
        Ok(Self { alpha, rank_stabilised: json.optional_flag("use_rslora")?.unwrap_or(false) })
    }

    fn scale(&self, rank: usize) -> f32 {
        let rank = rank as f64;
        (self.alpha / if self.rank_stabilised { rank.sqrt() } else { rank }) as f32
    }
}
