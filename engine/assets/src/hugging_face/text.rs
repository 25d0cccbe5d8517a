//! What a folder says about text: `tokenizer.json`, special tokens, chat template, and `generation_config.json`.

use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::json::Json;
use crate::Generation;
use crate::error::{AssetsError, ErrorKind, Quoted};
use crate::file::{self, MAX_TOKENIZER_BYTES};
use crate::text::{MAX_TEMPLATE_BYTES, SpecialToken, TextAssets, TokenizerSource};

/// The template that transformers takes when a request has tools.
const TOOL_USE: &str = "tool_use";

/// Reads the text assets and the sampling defaults. `config_eos` are the ids of `config.json`, used where `generation_config.json`
/// has none; `rows` are those of the embedding.
pub(super) fn read(
    folder: &Path,
    config_eos: Vec<u32>,
    rows: usize,
    warnings: &mut Vec<String>,
) -> Result<(TextAssets, Generation), AssetsError> {
    let path = folder.join("tokenizer.json");
    let Some(tokenizer) = file::read_optional(&path, MAX_TOKENIZER_BYTES)? else {
        return Err(AssetsError::new(
            ErrorKind::Missing,
            &path,
            "does not exist",
            "incomplete download? a model with only tokenizer.model must be converted (AutoTokenizer.from_pretrained, then save_pretrained)",
        ));
    };
    let tokenizer = file::without_bom(&tokenizer).to_vec();
    let Outline { added_tokens, model: _ } = file::parse_json(&path, &tokenizer)?;

    let tokenizer_config = Json::read_optional(&folder.join("tokenizer_config.json"))?;
    let special_tokens_map = Json::read_optional(&folder.join("special_tokens_map.json"))?;
    let special = |key: &str| {
        let text =
            [&tokenizer_config, &special_tokens_map].into_iter().flatten().find_map(|json| json.get(key).and_then(token_text))?;
        let id = added_tokens.iter().find(|token| token.content == text).map(|token| token.id);
        Some(SpecialToken { text, id })
    };
    let (bos, eos, pad, unk) = (special("bos_token"), special("eos_token"), special("pad_token"), special("unk_token"));
    let (chat_template, tool_template) = templates(folder, tokenizer_config.as_ref())?;
    let generation = generation(folder, config_eos, eos.as_ref())?;
    if generation.eos.is_empty() {
        warnings
            .push(format!("{}: no end-of-sequence token: only stop strings and max_tokens end a generation", folder.display()));
    }
    // Common in fine-tunes that added a padding token and no row for it; transformers loads them.
    let beyond = |id: u32| id as usize >= rows;
    if let Some(token) = added_tokens.iter().find(|token| beyond(token.id)) {
        let (token, id) = (Quoted(&token.content), token.id);
        warnings.push(format!("{}: token {token} has id {id}, and the embedding {rows} rows: it cannot be used", path.display()));
    }
    if let Some(id) = generation.eos.iter().find(|id| beyond(**id)) {
        warnings.push(format!("{}: end-of-sequence id {id} is beyond the {rows} rows: it cannot end anything", folder.display()));
    }
    let text = TextAssets {
        tokenizer: TokenizerSource::HuggingFace(tokenizer),
        chat_template,
        tool_template,
        template_kwargs: None,
        content_parts: None,
        bos,
        eos,
        pad,
        unk,
        // The post-processor inside tokenizer.json decides.
        add_bos: None,
        add_eos: None,
    };
    Ok((text, generation))
}

/// As much of `tokenizer.json` as is needed here; reading it proves that the file is whole.
#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[expect(dead_code, reason = "a tokenizer.json without a model is broken, and this refuses it")]
    model: IgnoredAny,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

/// `"<s>"` or `{"content": "<s>", …}`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content").and_then(Value::as_str)).map(str::to_owned)
}

/// The default template and the one for tools: from files beside the tokenizer, else from `tokenizer_config.json`.
fn templates(folder: &Path, tokenizer_config: Option<&Json>) -> Result<(Option<String>, Option<String>), AssetsError> {
    let mut default = template_file(&folder.join("chat_template.jinja"))?;
    let mut tool_use = template_file(&folder.join("additional_chat_templates").join("tool_use.jinja"))?;
    let Some(json) = tokenizer_config else {
        return Ok((default, tool_use));
    };
    match json.get("chat_template") {
        None => {}
        Some(Value::String(template)) => {
            default.get_or_insert_with(|| template.clone());
        }
        Some(Value::Array(named)) => {
            for entry in named {
                let (name, template) = (entry.get("name").and_then(Value::as_str), entry.get("template").and_then(Value::as_str));
                let (Some(name), Some(template)) = (name, template) else {
                    return Err(json.error(
                        ErrorKind::Malformed,
                        "chat_template",
                        "has an entry without name and template",
                        "fetch the file again",
                    ));
                };
                match name {
                    "default" => default.get_or_insert_with(|| template.to_owned()),
                    TOOL_USE => tool_use.get_or_insert_with(|| template.to_owned()),
                    _ => continue,
                };
            }
        }
        Some(_) => {
            return Err(json.error(
                ErrorKind::Malformed,
                "chat_template",
                "is neither a string nor a list",
                "fetch the file again",
            ));
        }
    }
    Ok((default, tool_use))
}

fn template_file(path: &Path) -> Result<Option<String>, AssetsError> {
    let Some(content) = file::read_optional(path, MAX_TEMPLATE_BYTES as u64)? else {
        return Ok(None);
    };
    let template = std::str::from_utf8(file::without_bom(&content)).map_err(|error| {
        AssetsError::new(ErrorKind::Malformed, path, "is not UTF-8", "fetch the file again").at(error.valid_up_to() as u64)
    })?;
    // Python reads text files so.
    Ok(Some(template.replace("\r\n", "\n")))
}

fn generation(folder: &Path, config_eos: Vec<u32>, eos: Option<&SpecialToken>) -> Result<Generation, AssetsError> {
    let mut generation = Generation::default();
    let mut listed = Vec::new();
    if let Some(json) = Json::read_optional(&folder.join("generation_config.json"))? {
        listed = json.token_ids("eos_token_id")?;
        generation = Generation {
            eos: Vec::new(),
            temperature: json.optional_number("temperature")?.map(|n| n as f32),
            top_p: json.optional_number("top_p")?.map(|n| n as f32),
            top_k: json.optional_u32("top_k")?,
            min_p: json.optional_number("min_p")?.map(|n| n as f32),
            repetition_penalty: json.optional_number("repetition_penalty")?.map(|n| n as f32),
            max_new_tokens: json.optional_u32("max_new_tokens")?,
        };
    }
    if listed.is_empty() {
        listed = config_eos;
    }
    listed.into_iter().for_each(|id| generation.add_eos(Some(id)));
    // vLLM ends at the tokenizer's own end token, too.
    generation.add_eos(eos.and_then(|token| token.id));
    Ok(generation)
}
