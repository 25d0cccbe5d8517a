//! vLLM's `--runner`, `--convert` and `--pooler-config`: whether an engine generates or embeds, and how.

use domain::{Fault, FaultKind};
use engine_assets::{ModelAssets, Pooling, PoolingConfig};
use serde::Deserialize;

/// vLLM's `--runner`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runner {
    /// What the model is made for.
    #[default]
    Auto,
    Generate,
    Pooling,
}

/// vLLM's `--convert`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Convert {
    #[default]
    Auto,
    /// A language model stays one.
    None,
    /// It makes vectors.
    Embed,
}

/// The JSON object; names are vLLM 0.33's.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    task: Option<String>,
    pooling_type: Option<String>,
    seq_pooling_type: Option<String>,
    use_activation: Option<bool>,
}

/// How the engine embeds; `None`: it generates.
pub fn pooling(
    assets: &ModelAssets,
    runner: Runner,
    convert: Convert,
    json: Option<&str>,
) -> Result<Option<PoolingConfig>, Fault> {
    let usage = |what: &str, action: &str| Fault::new(FaultKind::Usage, what.to_owned(), action.to_owned());
    let pools = match (runner, convert) {
        (Runner::Generate, Convert::Embed) => {
            return Err(usage("--runner generate and --convert embed contradict each other", "give one of them"));
        }
        (Runner::Pooling, Convert::None) => {
            return Err(usage("--runner pooling needs --convert embed: the model is a language model", "leave --convert out"));
        }
        (Runner::Generate, _) => false,
        (Runner::Pooling, _) | (Runner::Auto, Convert::Embed) => true,
        (Runner::Auto, Convert::Auto) => assets.pools,
        (Runner::Auto, Convert::None) => false,
    };
    if !pools {
        if !assets.config.head {
            let what = format!("{} has no output head: it embeds and does not generate", assets.path.display());
            return Err(Fault::new(FaultKind::Model, what, "leave --runner and --convert out, or give a language model"));
        }
        return match json {
            Some(_) => {
                Err(usage("--pooler-config is given, and the engine generates", "give --runner pooling as well, or neither"))
            }
            None => Ok(None),
        };
    }
    let mut pooling = assets.pooling.clone();
    let Some(json) = json else { return Ok(Some(pooling)) };
    let wrong = |what: String| {
        Fault::new(FaultKind::Usage, format!("--pooler-config: {what}"), r#"write for example {"pooling_type":"MEAN"}"#)
    };
    let written: Written = serde_json::from_str(json).map_err(|error| wrong(error.to_string()))?;
    if let Some(task) = written.task.filter(|task| task != "embed") {
        return Err(wrong(format!("the task {task:?} is not served; \"embed\" is")));
    }
    if let Some(name) = written.pooling_type.or(written.seq_pooling_type) {
        let known = Pooling::by_name(&name);
        pooling.pooling = known.ok_or_else(|| wrong(format!("pooling by {name:?} is not served; CLS, LAST and MEAN are")))?;
    }
    pooling.normalise = written.use_activation.unwrap_or(pooling.normalise);
    Ok(Some(pooling))
}
