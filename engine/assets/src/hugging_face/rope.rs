//! Rotary positions in `config.json`: `rope_theta` and `rope_scaling` of transformers 4, `rope_parameters` of transformers 5.

use serde_json::{Map, Value};

use super::json::Json;
use crate::architecture::{Architecture, Windowed};
use crate::config::{Rope, RopePairing, RopeScaling};
use crate::error::{AssetsError, ErrorKind, Quoted};

/// Gemma 3's base of the layers with a window.
const LOCAL_THETA: f64 = 10_000.0;

/// The rotation of all layers, or of those that see everything and of those with a window. `context` is `max_position_embeddings`.
///
/// Where both spellings are there, `rope_scaling` wins over `rope_parameters`, and a base inside either over the one at the top, as in
/// transformers 5.
pub(super) fn read(
    json: &Json,
    architecture: &Architecture,
    context: usize,
    warnings: &mut Vec<String>,
) -> Result<(Rope, Option<Rope>), AssetsError> {
    let mut reader = Reader { json, context, warnings };
    let top = json.optional_number("rope_theta")?;
    let default = architecture.defaults.rope_theta;
    let new = json.object("rope_parameters")?;
    let old = json.object("rope_scaling")?.filter(|scaling| !scaling.is_empty());
    if architecture.windowed == Windowed::AllButEachSixth {
        let of = |kind: &str| of_kind(json, new, kind);
        let (full, local) = (of("full_attention")?, of("sliding_attention")?);
        let local_top = json.optional_number("rope_local_base_freq")?;
        let full = match old {
            Some(scaling) => reader.rope("rope_scaling", scaling, top, default)?,
            None => reader.rope("rope_parameters", full.unwrap_or(&Map::new()), top, default)?,
        };
        let local = reader.rope("rope_parameters", local.unwrap_or(&Map::new()), local_top, LOCAL_THETA)?;
        return Ok((full, Some(local)));
    }
    let rope = match (new, old) {
        (_, Some(scaling)) => reader.rope("rope_scaling", scaling, top, default)?,
        (parameters, None) => reader.rope("rope_parameters", parameters.unwrap_or(&Map::new()), top, default)?,
    };
    Ok((rope, None))
}

/// What `rope_parameters` says of layers of one kind.
fn of_kind<'a>(
    json: &Json,
    parameters: Option<&'a Map<String, Value>>,
    kind: &str,
) -> Result<Option<&'a Map<String, Value>>, AssetsError> {
    let Some(parameters) = parameters.filter(|parameters| !parameters.is_empty()) else { return Ok(None) };
    match parameters.get(kind) {
        None | Some(Value::Null) if parameters.values().any(Value::is_object) => Ok(None),
        Some(Value::Object(parameters)) => Ok(Some(parameters)),
        _ => {
            let what = format!("has no {kind}: this architecture rotates each kind of layer in its own way");
            Err(json.error(ErrorKind::Unsupported, "rope_parameters", what, "correct it, or fetch the file again"))
        }
    }
}

struct Reader<'a> {
    json: &'a Json,
    context: usize,
    warnings: &'a mut Vec<String>,
}

impl Reader<'_> {
    /// `key` is where `parameters` stand, `top` the base at the top of the file.
    fn rope(&mut self, key: &str, parameters: &Map<String, Value>, top: Option<f64>, default: f64) -> Result<Rope, AssetsError> {
        let fields = Fields { json: self.json, key, parameters };
        let inner = fields.number("rope_theta")?;
        if let (Some(inner), Some(top)) = (inner, top)
            && inner != top
        {
            self.warnings
                .push(format!("{}: rope_theta is {top}, and {inner} in {key}: {inner} is used", self.json.path.display()));
        }
        if fields.number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
            return Err(fields.unsupported("a partial_rotary_factor other than 1 is not supported".to_owned()));
        }
        if parameters.values().any(Value::is_object) {
            return Err(fields.unsupported("rotations by kind of layer are not supported for this architecture".to_owned()));
        }
        let scaling = self.scaling(&fields)?;
        Ok(Rope { theta: inner.or(top).unwrap_or(default), scaling, pairing: RopePairing::Halves })
    }

    fn scaling(&self, fields: &Fields<'_>) -> Result<RopeScaling, AssetsError> {
        let original = || -> Result<usize, AssetsError> {
            // Where a configuration has it at the top, as Phi does, it wins.
            if let Some(original) = self.json.optional_size("original_max_position_embeddings")? {
                return Ok(original);
            }
            Ok(fields.number("original_max_position_embeddings")?.map_or(self.context, |original| original as usize))
        };
        // transformers 4 wrote `type` before it wrote `rope_type`.
        let kind = fields.parameters.get("rope_type").or_else(|| fields.parameters.get("type")).and_then(Value::as_str);
        Ok(match kind {
            Some("default") => RopeScaling::None,
            None if fields.number("factor")?.is_none() => RopeScaling::None,
            Some("linear") => RopeScaling::Linear { factor: fields.required("factor")? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: fields.required("factor")?,
                low_freq_factor: fields.required("low_freq_factor")?,
                high_freq_factor: fields.required("high_freq_factor")?,
                original_context: original()?,
            },
            Some("yarn") => {
                let original_context = original()?;
                let factor = match fields.number("factor")? {
                    Some(factor) => factor,
                    None => self.context as f64 / original_context as f64,
                };
                RopeScaling::Yarn {
                    factor,
                    original_context,
                    beta_fast: fields.number("beta_fast")?.filter(|beta| *beta != 0.0).unwrap_or(32.0),
                    beta_slow: fields.number("beta_slow")?.filter(|beta| *beta != 0.0).unwrap_or(1.0),
                    truncate: fields.flag("truncate")?.unwrap_or(true),
                    attention_factor: attention_factor(fields, factor)?,
                }
            }
            other => {
                let what = format!("rope scaling {} is not supported", Quoted(other.unwrap_or("without rope_type")));
                return Err(self.json.error(
                    ErrorKind::Unsupported,
                    fields.key,
                    what,
                    "supported: default, linear, llama3, yarn",
                ));
            }
        })
    }
}

/// As YaRN's authors have it, `0.1 ln(factor) + 1`, unless the file gives it, or two multiples of the logarithm to be divided.
fn attention_factor(fields: &Fields<'_>, factor: f64) -> Result<f64, AssetsError> {
    if let Some(attention_factor) = fields.number("attention_factor")? {
        return Ok(attention_factor);
    }
    let mscale = |multiple: f64| if factor <= 1.0 { 1.0 } else { 0.1 * multiple * factor.ln() + 1.0 };
    let set = |name: &str| Ok::<_, AssetsError>(fields.number(name)?.filter(|multiple| *multiple != 0.0));
    Ok(match (set("mscale")?, set("mscale_all_dim")?) {
        (Some(one), Some(all)) => mscale(one) / mscale(all),
        _ => mscale(1.0),
    })
}

/// The object that stands at `key`. `null` counts as absent.
struct Fields<'a> {
    json: &'a Json,
    key: &'a str,
    parameters: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn get<T>(&self, name: &str, read: fn(&Value) -> Option<T>, expected: &str) -> Result<Option<T>, AssetsError> {
        match self.parameters.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| {
                self.json.error(ErrorKind::Malformed, self.key, format!("{name} is not {expected}"), "correct it")
            }),
        }
    }

    fn number(&self, name: &str) -> Result<Option<f64>, AssetsError> {
        self.get(name, Value::as_f64, "a number")
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, AssetsError> {
        self.get(name, Value::as_bool, "true or false")
    }

    fn required(&self, name: &str) -> Result<f64, AssetsError> {
        let missing = || {
            let what = format!("scaling without {name}");
            self.json.error(ErrorKind::Missing, self.key, what, "add it, or fetch the file again")
        };
        self.number(name)?.ok_or_else(missing)
    }

    fn unsupported(&self, what: String) -> AssetsError {
        self.json.error(ErrorKind::Unsupported, self.key, what, "use a model without it")
    }
}
