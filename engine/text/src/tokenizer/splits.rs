//! How text is split into words before BPE, by the names that GGUF files have for it.

use super::gguf::Pre;

/// How text is split before BPE.
pub(super) enum Splitting {
    /// GPT-2's expression, after single digits if true.
    Gpt2 { single_digits: bool },
    /// Expressions of one's own, applied one after the other.
    Regexes(&'static [&'static str]),
}

const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DIGITS3: &str = r"\p{N}{1,3}";
const IDEOGRAPHS: &str = "[一-龥\u{3040}-ゟ゠-ヿ]+";
/// As the file spells it, with line ends as characters.
const DEEPSEEK_V3: &str = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";
const SEED_CODER: &str =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";
/// GPT-2's without its last part, which is for what the others leave: what no match takes is a word, too.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

/// The pre-tokenizers of llama.cpp (`src/llama-vocab.cpp`) that are known here. Where llama.cpp has put an expression otherwise than
/// the model's `tokenizer.json`, it is as the latter has it.
#[rustfmt::skip]
pub(super) const PRE: &[Pre] = &[
    Pre { names: &["gpt-2", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "jina-v2-code", "mpt", "olmo", "jais", "gigachat", "a.x-4.0", "mellum", "exaone4", "trillion", "granite-docling"],
        splitting: Splitting::Gpt2 { single_digits: false }, ..Pre::PLAIN },
    Pre { names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        splitting: Splitting::Gpt2 { single_digits: true }, ..Pre::PLAIN },
    Pre { names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        splitting: Splitting::Regexes(&[LLAMA3]), ignore_merges: true, add_bos: true, ..Pre::PLAIN },
    Pre { names: &["glm4", "glm5"], splitting: Splitting::Regexes(&[LLAMA3]), ignore_merges: true, ..Pre::PLAIN },
    Pre { names: &["dbrx", "smaug-bpe", "chatglm-bpe"], splitting: Splitting::Regexes(&[LLAMA3]), ..Pre::PLAIN },
    Pre { names: &["qwen2", "deepseek-r1-qwen", "megrez"], splitting: Splitting::Regexes(&[QWEN2]), composes: true, ..Pre::PLAIN },
    Pre { names: &["stablelm2", "hunyuan", "solar-open", "grok-2"], splitting: Splitting::Regexes(&[QWEN2]), ..Pre::PLAIN },
    Pre { names: &["qwen35"], splitting: Splitting::Regexes(&[QWEN35]), composes: true, ..Pre::PLAIN },
    Pre { names: &["tekken"], splitting: Splitting::Regexes(&[TEKKEN]), ignore_merges: true, add_bos: true, ..Pre::PLAIN },
    Pre { names: &["gpt-4o", "llama4", "kanana2", "minimax-m2"], splitting: Splitting::Regexes(&[O200K]), ..Pre::PLAIN },
    Pre { names: &["deepseek-v3", "hunyuan-dense", "joyai-llm"], splitting: Splitting::Regexes(&[DIGITS3, IDEOGRAPHS, DEEPSEEK_V3]), ..Pre::PLAIN },
    Pre { names: &["deepseek-coder"], splitting: Splitting::Regexes(&["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\u{d7ff}]+", r"\p{N}"]), ..Pre::PLAIN },
    Pre { names: &["falcon"], splitting: Splitting::Regexes(&[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]), ..Pre::PLAIN },
    Pre { names: &["seed-coder"], splitting: Splitting::Regexes(&[SEED_CODER]), ..Pre::PLAIN },
    Pre { names: &["default"], splitting: Splitting::Regexes(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]), ..Pre::PLAIN },
];

/// Whether an expression splits, wherever it is applied, between a letter and a white space behind it: none of its parts takes a letter
/// and then a white space, and none looks back.
pub(super) fn ends_words(regex: &str) -> bool {
    [LLAMA3, QWEN2, QWEN35, TEKKEN, O200K, DEEPSEEK_V3, SEED_CODER, GPT2].contains(&regex)
}

/// Whether an expression is one of the table: all of them match runs of characters, whatever is before these.
pub(super) fn is_known(regex: &str) -> bool {
    PRE.iter().any(|pre| matches!(pre.splitting, Splitting::Regexes(regexes) if regexes.contains(&regex)))
}
