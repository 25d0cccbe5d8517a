//! What a folder says about vectors: `modules.json` of sentence-transformers 2 to 6, and `config.json` about their sizes.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::json::Json;
use crate::error::{AssetsError, ErrorKind, Quoted};
use crate::file::{self, MAX_CONFIG_BYTES};
use crate::pooling::{Matryoshka, Pooling, PoolingConfig};

const MODULES: &str = "modules.json";
/// Most modules of one model; published ones have up to four.
const MAX_MODULES: usize = 16;

#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

/// How the model makes vectors, and whether it is made for that: it has modules that say so.
pub(super) fn read(folder: &Path, config: &Json) -> Result<(PoolingConfig, bool), AssetsError> {
    let mut pooling = PoolingConfig { matryoshka: matryoshka(config)?, ..PoolingConfig::default() };
    let path = folder.join(MODULES);
    let Some(content) = file::read_optional(&path, MAX_CONFIG_BYTES)? else { return Ok((pooling, false)) };
    let modules: Vec<Module> = file::parse_json(&path, &content)?;
    if modules.len() > MAX_MODULES {
        let what = format!("names {} modules; at most {MAX_MODULES} are read", modules.len());
        return Err(AssetsError::new(ErrorKind::TooLarge, &path, what, "check the file"));
    }
    pooling.normalise = false;
    for Module { path: part, kind } in &modules {
        match kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" => {}
            "Normalize" => pooling.normalise = true,
            "Pooling" => {
                if Path::new(part).file_name().is_none_or(|name| name != part.as_str()) {
                    let what = format!("names the module {}, which is no plain folder name", Quoted(part));
                    return Err(AssetsError::new(ErrorKind::Malformed, &path, what, "fetch the file again"));
                }
                pooling.pooling = mode(&Json::read(&folder.join(part).join("config.json"))?)?;
            }
            _ => {
                let what = format!("the module {} is not supported", Quoted(kind));
                return Err(AssetsError::new(ErrorKind::Unsupported, &path, what, "supported: Transformer, Pooling, Normalize"));
            }
        }
    }
    Ok((pooling, true))
}

/// `pooling_mode`, or the one `pooling_mode_*` that is true.
fn mode(json: &Json) -> Result<Pooling, AssetsError> {
    const OLD: [&str; 6] = [
        "pooling_mode_cls_token",
        "pooling_mode_mean_tokens",
        "pooling_mode_max_tokens",
        "pooling_mode_mean_sqrt_len_tokens",
        "pooling_mode_weightedmean_tokens",
        "pooling_mode_lasttoken",
    ];
    let mut named: Vec<&str> = json.get("pooling_mode").and_then(Value::as_str).into_iter().collect();
    for key in OLD {
        if json.optional_flag(key)? == Some(true) {
            named.push(key);
        }
    }
    match named[..] {
        [one] => Pooling::by_name(one).ok_or_else(|| {
            let what = format!("pooling by {} is not supported", Quoted(one));
            json.error(ErrorKind::Unsupported, "pooling_mode", what, "supported: cls, lasttoken, mean")
        }),
        _ => {
            let what = format!("{} ways of pooling are named; one is needed", named.len());
            Err(json.error(ErrorKind::Unsupported, "pooling_mode", what, "correct it, or fetch the file again"))
        }
    }
}

fn matryoshka(json: &Json) -> Result<Matryoshka, AssetsError> {
    let sizes = json.token_ids("matryoshka_dimensions")?;
    Ok(match (sizes.is_empty(), json.optional_flag("is_matryoshka")?) {
        (false, _) => Matryoshka::Sizes(sizes.into_iter().map(|size| size as usize).collect()),
        (true, Some(true)) => Matryoshka::Any,
        (true, _) => Matryoshka::No,
    })
}
