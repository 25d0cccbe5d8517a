//! A Hugging Face folder: configuration, shards, tokenizer and template, as `save_pretrained` of transformers 4 or 5 writes them.

mod config;
mod json;
mod layers;
mod pooling;
mod rope;
mod shards;
mod text;

pub(crate) use self::json::Json;

use std::collections::BTreeMap;
use std::path::Path;

use crate::architecture::{Architecture, Found, HEAD, Names, unread_warning};
use crate::error::AssetsError;
use crate::{Format, ModelAssets};

/// Opens the folder.
pub(crate) fn open(folder: &Path) -> Result<ModelAssets, AssetsError> {
    let mut warnings = Vec::new();
    let json = Json::read(&folder.join("config.json"))?;
    let config::Read { architecture, is_body, mut config, eos } = config::read(&json, &mut warnings)?;
    let (pooling, has_modules) = pooling::read(folder, &json)?;
    let (files, mut found) = shards::read(folder, &mut warnings)?;
    named_in_full(&mut found);
    let has_head = Architecture::has_head(&found, Names::HuggingFace);
    let pools = is_body || has_modules;
    if config.tie_word_embeddings && has_head {
        // transformers 5 does not tie what the checkpoint holds twice with different values, and with equal values it makes no
        // difference. Values are not read here, so the warning cannot say which.
        warnings.push(format!(
            "{}: tie_word_embeddings is true, but the files hold a lm_head.weight: it is used; set tie_word_embeddings to false to silence this",
            folder.join("config.json").display()
        ));
        config.tie_word_embeddings = false;
    }
    // A model that makes vectors needs no head, and is often published without one.
    config.head = !pools || has_head || (config.tie_word_embeddings && !is_body);
    let tensors = architecture.select(&config, Names::HuggingFace, files, &mut found, folder)?;
    if let Some(table) = tensors.get("model.embed_tokens.weight") {
        // transformers multiplies in the model's own precision, so the factor is rounded to it, and models are trained so.
        config.embedding_scale = table.dtype.round(config.embedding_scale);
    }
    warnings.extend(unread_warning(folder, &found));
    let (text, generation) = text::read(folder, eos, config.vocab_size, &mut warnings)?;
    let (path, format) = (folder.to_path_buf(), Format::HuggingFace);
    Ok(ModelAssets { path, format, config, pooling, pools, generation, tensors, text, warnings })
}

/// A body that was saved alone calls its tensors `layers.0.…`; in a whole model they are `model.layers.0.…`.
fn named_in_full(found: &mut BTreeMap<String, Found>) {
    if found.contains_key("embed_tokens.weight") && !found.contains_key("model.embed_tokens.weight") {
        let all = std::mem::take(found).into_iter();
        found.extend(all.map(|(name, tensor)| if name == HEAD { (name, tensor) } else { (format!("model.{name}"), tensor) }));
    }
}
