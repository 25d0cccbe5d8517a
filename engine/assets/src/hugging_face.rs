//! A Hugging Face folder: configuration, shards, tokenizer and template, as `save_pretrained` of transformers 4 or 5 writes them.

mod config;
mod json;
mod layers;
mod rope;
mod shards;
mod text;

pub(crate) use self::json::Json;

use std::path::Path;

use crate::architecture::{Architecture, Names, unread_warning};
use crate::error::AssetsError;
use crate::{Format, ModelAssets};

/// Opens the folder.
pub(crate) fn open(folder: &Path) -> Result<ModelAssets, AssetsError> {
    let mut warnings = Vec::new();
    let (architecture, mut config, config_eos) = config::read(folder, &mut warnings)?;
    let (files, mut found) = shards::read(folder, &mut warnings)?;
    if config.tie_word_embeddings && Architecture::has_head(&found, Names::HuggingFace) {
        // transformers 5 does not tie what the checkpoint holds twice with different values, and with equal values it makes no
        // difference. Values are not read here, so the warning cannot say which.
        warnings.push(format!(
            "{}: tie_word_embeddings is true, but the files hold a lm_head.weight: it is used; set tie_word_embeddings to false to silence this",
            folder.join("config.json").display()
        ));
        config.tie_word_embeddings = false;
    }
    let tensors = architecture.select(&config, Names::HuggingFace, files, &mut found, folder)?;
    if let Some(table) = tensors.get("model.embed_tokens.weight") {
        // transformers multiplies in the model's own precision, so the factor is rounded to it, and models are trained so.
        config.embedding_scale = table.dtype.round(config.embedding_scale);
    }
    warnings.extend(unread_warning(folder, &found));
    let (text, generation) = text::read(folder, config_eos, config.vocab_size, &mut warnings)?;
    Ok(ModelAssets { path: folder.to_path_buf(), format: Format::HuggingFace, config, generation, tensors, text, warnings })
}
