//! The model's vocabulary as a trie of bytes, which masks are computed over.

use std::sync::Arc;

use engine_text::{Surface, Text};
use llguidance::ParserFactory;
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

/// Longest token of a trie, in bytes (llguidance counts parents in ten bits).
const TOKEN_BYTES_MAX: usize = 1000;
/// What a special token is spelled with, so that no text is it (llguidance's convention).
const SPECIAL: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

/// Makes the factory of parsers over a model's vocabulary.
///
/// `vocabulary` is the number of logits; ids without a token are never allowed. `eos` end a grammar; where the model has none, an id
/// beyond the logits stands for it, and a grammar that is complete ends the output all the same.
pub fn factory(text: &Text, vocabulary: usize, eos: &[u32]) -> Result<ParserFactory, String> {
    let mut words: Vec<Vec<u8>> = Vec::with_capacity(vocabulary + 1);
    for id in 0..vocabulary as u32 {
        words.push(match text.surface(id) {
            Surface::Text(bytes) if bytes.len() <= TOKEN_BYTES_MAX && bytes.first() != Some(&SPECIAL) => bytes,
            Surface::Special(name) if name.len() < TOKEN_BYTES_MAX => [&[SPECIAL][..], name.as_bytes()].concat(),
            // A lone 0xFF is in no UTF-8 text.
            _ => Vec::new(),
        });
    }
    let mut eos: Vec<u32> = eos.iter().copied().filter(|id| (*id as usize) < vocabulary).collect();
    if eos.is_empty() {
        eos.push(words.len() as u32);
        words.push([&[SPECIAL][..], b"<end>"].concat());
    }
    let size = u32::try_from(words.len()).map_err(|_| format!("the vocabulary has {} tokens", words.len()))?;
    let trie = TokTrie::from(&TokRxInfo::new(size, eos[0]), &words).with_eos_tokens(&eos);
    let env: TokEnv = Arc::new(Vocabulary(trie));
    let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices()).map_err(|error| error.to_string())?;
    factory.quiet();
    let limits = factory.limits_mut();
    limits.initial_lexer_fuel = 1_000_000;
    limits.max_grammar_size = 200_000;
    limits.max_lexer_states = 50_000;
    limits.verbose_errors = false;
    Ok(factory)
}

/// Kinds of tokens whose masks are computed once: white space, and pieces of JSON strings.
fn slices() -> Vec<String> {
    [r"[\x20\x0A\x0D\x09]+", r#"[^"\\\x00-\x1F\x7F]{1,10}"#, r#"[^"\\\x00-\x1F\x7F]{1,30}"#, r#"[^"\\\x00-\x1F\x7F]+"#]
        .map(str::to_owned)
        .to_vec()
}

/// Text is never tokenised by the grammar, so what it would force is left to the mask: no token is said to be the canonical one.
struct Vocabulary(TokTrie);

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.0.greedy_tokenize(bytes)
    }

    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}
