//! The tokenizer, special tokens and template out of `tokenizer.*` metadata.

use super::metadata::Metadata;
use crate::Generation;
use crate::error::{AssetsError, ErrorKind, Quoted};
use crate::text::{GgufTokenizer, MAX_TOKENS, SpecialToken, TextAssets, TokenKind, TokenizerSource};

/// `tokenizer.ggml.model` values for which there is a tokenizer.
const MODELS: [&str; 2] = ["gpt2", "llama"];

/// Takes the text assets out of the metadata, and the ids that end a generation.
pub(super) fn read(metadata: &mut Metadata, warnings: &mut Vec<String>) -> Result<(TextAssets, Generation), AssetsError> {
    let model = metadata.string("tokenizer.ggml.model")?.to_owned();
    if !MODELS.contains(&model.as_str()) {
        let what = format!("tokenizer {} is not supported", Quoted(&model));
        return Err(metadata.error(
            ErrorKind::Unsupported,
            "tokenizer.ggml.model",
            what,
            format!("supported: {}", MODELS.join(", ")),
        ));
    }
    let tokens = metadata.take_strings("tokenizer.ggml.tokens")?;
    if tokens.is_empty() || tokens.len() > MAX_TOKENS {
        let what = format!("{} tokens, not 1 to {MAX_TOKENS}", tokens.len());
        return Err(metadata.error(ErrorKind::Malformed, "tokenizer.ggml.tokens", what, "fetch or convert the file again"));
    }
    let kinds = kinds(metadata, tokens.len())?;
    let scores = metadata.floats("tokenizer.ggml.scores")?.to_vec();
    as_long_as_tokens(metadata, "tokenizer.ggml.scores", scores.len(), tokens.len())?;
    let merges = metadata.take_strings("tokenizer.ggml.merges")?;
    if merges.len() > MAX_TOKENS {
        let what = format!("{} merges; at most {MAX_TOKENS} are read", merges.len());
        return Err(metadata.error(ErrorKind::TooLarge, "tokenizer.ggml.merges", what, "fetch or convert the file again"));
    }

    let special = |key: &str| match metadata.optional_token_id(key)? {
        None => Ok(None),
        Some(id) => match tokens.get(id as usize) {
            Some(text) => Ok(Some(SpecialToken { text: text.clone(), id: Some(id) })),
            None => Err(metadata.error(
                ErrorKind::Mismatch,
                key,
                format!("{id} is beyond the {} tokens", tokens.len()),
                "fetch or convert the file again",
            )),
        },
    };
    let (bos, eos) = (special("tokenizer.ggml.bos_token_id")?, special("tokenizer.ggml.eos_token_id")?);
    let (pad, unk) = (special("tokenizer.ggml.padding_token_id")?, special("tokenizer.ggml.unknown_token_id")?);
    let mut generation = Generation::default();
    for end in [eos.clone(), special("tokenizer.ggml.eot_token_id")?, special("tokenizer.ggml.eom_token_id")?] {
        generation.add_eos(end.and_then(|token| token.id));
    }
    if generation.eos.is_empty() {
        warnings.push(format!(
            "{}: no end-of-sequence token: only stop strings and max_tokens end a generation",
            metadata.path().display()
        ));
    }
    let text = TextAssets {
        chat_template: metadata.optional_string("tokenizer.chat_template")?.map(str::to_owned),
        tool_template: metadata.optional_string("tokenizer.chat_template.tool_use")?.map(str::to_owned),
        template_kwargs: None,
        content_parts: None,
        bos,
        eos,
        pad,
        unk,
        add_bos: metadata.optional_flag("tokenizer.ggml.add_bos_token")?,
        add_eos: metadata.optional_flag("tokenizer.ggml.add_eos_token")?,
        tokenizer: TokenizerSource::Gguf(GgufTokenizer {
            model,
            pre: metadata.optional_string("tokenizer.ggml.pre")?.map(str::to_owned),
            add_space_prefix: metadata.optional_flag("tokenizer.ggml.add_space_prefix")?,
            tokens,
            kinds,
            scores,
            merges,
        }),
    };
    Ok((text, generation))
}

fn kinds(metadata: &Metadata, tokens: usize) -> Result<Vec<TokenKind>, AssetsError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let numbers = metadata.integers(KEY)?;
    as_long_as_tokens(metadata, KEY, numbers.len(), tokens)?;
    numbers
        .iter()
        .map(|&number| {
            let kind = u64::try_from(number).ok().and_then(TokenKind::from_number);
            kind.ok_or_else(|| {
                metadata.error(ErrorKind::Malformed, KEY, format!("{number} is no token type"), "fetch or convert the file again")
            })
        })
        .collect()
}

fn as_long_as_tokens(metadata: &Metadata, key: &str, len: usize, tokens: usize) -> Result<(), AssetsError> {
    if len == 0 || len == tokens {
        return Ok(());
    }
    Err(metadata.error(
        ErrorKind::Mismatch,
        key,
        format!("has {len} entries for {tokens} tokens"),
        "fetch or convert the file again",
    ))
}
