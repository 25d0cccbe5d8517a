//! Tokenizers out of GGUF metadata, built so that they split as llama.cpp and the original tokenizer do.

use engine_assets::{GgufTokenizer, TextAssets, TokenKind};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

use super::splits::{PRE, Splitting};
use super::words::Words;
use crate::error::TextError;

/// A tokenizer, and what it adds around a whole text.
pub(super) struct Built {
    pub tokenizer: Tokenizer,
    /// Where text is split as GPT-2 splits it.
    pub words: Option<Words>,
    pub add_bos: bool,
    pub add_eos: bool,
}

pub(super) fn build(gguf: &GgufTokenizer, assets: &TextAssets) -> Result<Built, TextError> {
    let (mut tokenizer, single_digits, bos_by_default) = match gguf.model.as_str() {
        "gpt2" => byte_level(gguf)?,
        "llama" => (sentence_piece(gguf)?, None, true),
        other => {
            return Err(TextError::Tokenizer(format!("tokenizer.ggml.model {other:?} is not supported; supported: gpt2, llama")));
        }
    };
    let added = gguf.tokens.iter().zip(&gguf.kinds).filter_map(|(token, kind)| match kind {
        TokenKind::Control => Some(AddedToken::from(token.clone(), true)),
        // Unknown is special to transformers, too: its text in a prompt is the token.
        TokenKind::Unknown => Some(AddedToken::from(token.clone(), true)),
        TokenKind::UserDefined => Some(AddedToken::from(token.clone(), false).normalized(false)),
        TokenKind::Normal | TokenKind::Unused | TokenKind::Byte => None,
    });
    tokenizer
        .add_tokens(added.filter(|token| !token.content.is_empty()))
        .map_err(|error| TextError::Tokenizer(error.to_string()))?;
    let found_in_text = gguf.tokens.iter().zip(&gguf.kinds).enumerate().filter_map(|(id, (token, kind))| {
        let added = matches!(kind, TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined);
        (added && !token.is_empty()).then(|| (token.clone(), id as u32))
    });
    Ok(Built {
        words: single_digits.and_then(|single_digits| Words::new(found_in_text, single_digits)),
        tokenizer,
        add_bos: assets.add_bos.unwrap_or(bos_by_default && assets.bos.is_some()),
        add_eos: assets.add_eos.unwrap_or(false),
    })
}

fn vocab(gguf: &GgufTokenizer) -> Vocab {
    gguf.tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect()
}

/// A value of `tokenizer.ggml.pre`.
pub(super) struct Pre {
    pub names: &'static [&'static str],
    pub splitting: Splitting,
    /// A word that is a token is taken as it is, whatever the merges say.
    pub ignore_merges: bool,
    /// A text begins with bos where the file does not say.
    pub add_bos: bool,
    /// Characters are composed first (NFC), as in the model's `tokenizer.json`.
    pub composes: bool,
}

impl Pre {
    pub const PLAIN: Self =
        Self { names: &[], splitting: Splitting::Regexes(&[]), ignore_merges: false, add_bos: false, composes: false };
}

/// Byte-level BPE; whether digits are single where text is split as GPT-2 splits it; whether it begins a text with bos where the file does
/// not say.
fn byte_level(gguf: &GgufTokenizer) -> Result<(Tokenizer, Option<bool>, bool), TextError> {
    let name = gguf.pre.as_deref().unwrap_or("default");
    let pre = PRE.iter().find(|pre| pre.names.contains(&name)).ok_or_else(|| {
        let known: Vec<&str> = PRE.iter().flat_map(|pre| pre.names).copied().collect();
        TextError::Tokenizer(format!("tokenizer.ggml.pre {name:?} is not supported; supported: {}", known.join(", ")))
    })?;
    let merges = gguf.merges.iter().map(|merge| match merge.split_once(' ') {
        Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
        None => Err(TextError::Tokenizer(format!("the merge {merge:?} in tokenizer.ggml.merges is no pair"))),
    });
    let model = BPE::builder()
        .vocab_and_merges(vocab(gguf), merges.collect::<Result<Vec<_>, _>>()?)
        .ignore_merges(pre.ignore_merges)
        .build();
    let mut tokenizer = Tokenizer::new(model.map_err(|error| TextError::Tokenizer(error.to_string()))?);
    tokenizer.with_pre_tokenizer(Some(splitting(&pre.splitting)?));
    if pre.composes {
        tokenizer.with_normalizer(Some(NFC)).map_err(|error| TextError::Tokenizer(error.to_string()))?;
    }
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let single_digits = match pre.splitting {
        Splitting::Gpt2 { single_digits } => Some(single_digits),
        Splitting::Regexes(_) => None,
    };
    Ok((tokenizer, single_digits, pre.add_bos))
}

fn splitting(splitting: &Splitting) -> Result<PreTokenizerWrapper, TextError> {
    let bytes = |use_regex| PreTokenizerWrapper::from(ByteLevel::new(false, true, use_regex));
    let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
    match splitting {
        Splitting::Gpt2 { single_digits: false } => return Ok(bytes(true)),
        Splitting::Gpt2 { single_digits: true } => {
            steps.push(Digits::new(true).into());
            steps.push(bytes(true));
        }
        Splitting::Regexes(regexes) => {
            for regex in *regexes {
                let pattern = SplitPattern::Regex((*regex).to_owned());
                let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                    .map_err(|error| TextError::Tokenizer(error.to_string()))?;
                steps.push(split.into());
            }
            steps.push(bytes(false));
        }
    }
    Ok(PreTokenizers::new(steps).into())
}

/// SentencePiece's mark for a space.
const SPACE: &str = "▁";

/// The longest piece: every way to cut each in two is tried. SentencePiece itself makes pieces of 16 characters unless told otherwise.
const MAX_PIECE_BYTES: usize = 256;

/// SentencePiece BPE: merges follow from the scores, as in transformers' converter; bytes are the fallback.
fn sentence_piece(gguf: &GgufTokenizer) -> Result<Tokenizer, TextError> {
    if gguf.scores.len() != gguf.tokens.len() {
        return Err(TextError::Tokenizer("tokenizer.ggml.scores are missing".to_owned()));
    }
    if let Some(id) = gguf.tokens.iter().position(|token| token.len() > MAX_PIECE_BYTES) {
        let length = gguf.tokens[id].len();
        return Err(TextError::Tokenizer(format!("token {id} is {length} bytes long; at most {MAX_PIECE_BYTES} are supported")));
    }
    let vocab = vocab(gguf);
    let merges = merges_by_score(gguf, &vocab);
    let unk = gguf.tokens.iter().zip(&gguf.kinds).find(|(_, kind)| **kind == TokenKind::Unknown).map(|(token, _)| token.clone());
    let mut model = BPE::builder().vocab_and_merges(vocab, merges).byte_fallback(true).fuse_unk(true);
    if let Some(unk) = unk {
        model = model.unk_token(unk);
    }
    let mut tokenizer = Tokenizer::new(model.build().map_err(|error| TextError::Tokenizer(error.to_string()))?);
    let replace = |from: &str, to: &str| Replace::new(from, to).map_err(|error| TextError::Tokenizer(error.to_string()));
    let prefix = gguf.add_space_prefix.unwrap_or(true);
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    if prefix {
        normalizers.push(Prepend::new(SPACE.to_owned()).into());
    }
    normalizers.push(replace(" ", SPACE)?.into());
    tokenizer.with_normalizer(Some(Normalizers::new(normalizers))).map_err(|error| TextError::Tokenizer(error.to_string()))?;
    let mut decoders: Vec<DecoderWrapper> = vec![replace(SPACE, " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if prefix {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_decoder(Some(Decoders::new(decoders)));
    Ok(tokenizer)
}

/// Every way to put a token together from two others, best score first.
fn merges_by_score(gguf: &GgufTokenizer, vocab: &Vocab) -> Vec<(String, String)> {
    let mut merges: Vec<(f32, u32, u32)> = Vec::new();
    for (token, score) in gguf.tokens.iter().zip(&gguf.scores) {
        let first = merges.len();
        for (split, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(split);
            if let (Some(&left), Some(&right)) = (vocab.get(left), vocab.get(right)) {
                merges.push((*score, left, right));
            }
        }
        merges[first..].sort_unstable_by_key(|(_, left, right)| (*left, *right));
    }
    let text = |id: u32| gguf.tokens[id as usize].as_str();
    let length = |id: u32| text(id).chars().count();
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (length(b.1), length(b.2)).cmp(&(length(a.1), length(a.2)))));
    merges.into_iter().map(|(_, left, right)| (text(left).to_owned(), text(right).to_owned())).collect()
}
