//! Where a text can be cut so that its pieces, each encoded alone, give the ids of the whole.
//!
//! A tokenizer first finds added tokens in the text as it stands (leftmost, of those the longest), and does everything else (normalising,
//! splitting into words, merging) to each stretch between them by itself. So a piece may begin with such a token. Within a stretch a piece
//! may begin with the space behind a word where the splitting ends words there whatever follows, or where no token of the vocabulary could
//! reach across. Where a piece ends follows from the text up to there and the token or character behind it alone: a text that begins
//! as another one is cut as the other was, up to its last piece.

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;
use tokenizers::{AddedToken, ModelWrapper, Tokenizer};

use super::splits;

/// Pieces are not much shorter, so that there are few of them.
pub(super) const PIECE_BYTES: usize = 2048;

/// Where a tokenizer's texts can be cut.
pub(super) struct Borders {
    /// Tokens that are found before all else.
    tokens: AhoCorasick,
    /// By token: whether a piece may begin with it.
    opens: Vec<bool>,
    words: Words,
    piece_bytes: usize,
}

/// What ends a word, if anything does for certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Words {
    Never,
    BySpace,
    BySpaceOrNewline,
}

impl Borders {
    /// `None`: a token looks at what is around it, so nothing is certain.
    pub fn new(tokenizer: &Tokenizer, piece_bytes: usize) -> Option<Self> {
        let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        if added.values().any(|token| token.single_word) {
            return None;
        }
        let (found_late, found_first): (Vec<&AddedToken>, Vec<&AddedToken>) = added.values().partition(|token| token.normalized);
        let plain = |token: &AddedToken| !token.lstrip && !token.rstrip;
        // A token before it may take the spaces with which it begins.
        let opens = found_first.iter().map(|token| plain(token) && !token.content.starts_with(char::is_whitespace)).collect();
        let texts = found_first.iter().map(|token| token.content.as_str());
        let tokens = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts).ok()?;
        let within_words =
            |token: &&AddedToken| plain(token) && !token.content.contains(|c: char| c.is_whitespace() || c == SPACE);
        let sure = found_late.iter().all(within_words) && found_first.iter().all(|token| plain(token));
        let words = if sure { words(tokenizer) } else { Words::Never };
        Some(Self { tokens, opens, words, piece_bytes })
    }

    /// The pieces of a text; end to end they are the text.
    pub fn cut<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut pieces = Vec::with_capacity(text.len() / self.piece_bytes + 1);
        let mut start = 0;
        let mut stretch = 0;
        let mut cut = |at: usize, start: &mut usize| {
            pieces.push(&text[*start..at]);
            *start = at;
        };
        for token in self.tokens.find_iter(text) {
            while let Some(at) = self.word_end(text, start, stretch, token.start()) {
                cut(at, &mut start);
            }
            // Chats have short turns: whatever is longer than some words is a piece.
            if self.opens[token.pattern()] && token.start() - start >= self.piece_bytes / 4 {
                cut(token.start(), &mut start);
            }
            stretch = token.end();
        }
        while let Some(at) = self.word_end(text, start, stretch, text.len()) {
            cut(at, &mut start);
        }
        cut(text.len(), &mut start);
        pieces
    }

    /// The first end of a word in `text[stretch..end]` that makes a piece from `start` on long enough.
    fn word_end(&self, text: &str, start: usize, stretch: usize, end: usize) -> Option<usize> {
        if self.words == Words::Never {
            return None;
        }
        // One byte further than the token before: there must be a letter in the stretch.
        let from = text.ceil_char_boundary(stretch.max(start + self.piece_bytes));
        let ends = |byte: u8| byte == b' ' || byte == b'\n' && self.words == Words::BySpaceOrNewline;
        let mut letter = false;
        text.get(from..end)?.char_indices().find_map(|(at, c)| {
            let found = letter && u8::try_from(c).is_ok_and(ends);
            letter = is_letter(c);
            found.then_some(from + at)
        })
    }
}

/// SentencePiece's mark for a space.
const SPACE: char = '▁';

/// Some of the letters of Unicode (general category L): those of ASCII, Cyrillic, kana, the common ideographs, and Hangul.
const fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic()
        || matches!(c, '\u{410}'..='\u{44f}' | '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | '\u{4e00}'..='\u{9fa5}' | '\u{ac00}'..='\u{d7a3}')
}

fn words(tokenizer: &Tokenizer) -> Words {
    let json = |part: Option<Result<Value, serde_json::Error>>| part.and_then(Result::ok).unwrap_or_default();
    let normalizer = json(tokenizer.get_normalizer().map(serde_json::to_value));
    let pre_tokenizer = json(tokenizer.get_pre_tokenizer().map(serde_json::to_value));
    let steps = match pre_tokenizer["pretokenizers"].as_array() {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(&pre_tokenizer),
    };
    // These change letters at most, each by itself or with the marks behind it.
    if normalizer.is_null() || normalizer["type"] == "NFC" {
        if steps.iter().any(ends_words) && steps.iter().all(|step| ends_words(step) || is_local(step)) {
            return Words::BySpaceOrNewline;
        }
        if steps.len() == 1 && pre_tokenizer["type"] == "Metaspace" && pre_tokenizer["split"] == true {
            return Words::BySpace;
        }
    }
    let marks_spaces = normalizer["type"] == "Replace" && normalizer["pattern"]["String"] == " " && normalizer["content"] == "▁";
    let unsplit = pre_tokenizer.is_null() || pre_tokenizer["type"] == "Split" && pre_tokenizer["pattern"]["String"] == " ";
    if marks_spaces && unsplit && no_token_ends_a_word(tokenizer) { Words::BySpace } else { Words::Never }
}

/// Whether a step of the splitting ends a word between a letter and a white space, whatever is around them.
fn ends_words(step: &Value) -> bool {
    match step["type"].as_str() {
        Some("ByteLevel") => step["use_regex"] == true && step["add_prefix_space"] == false,
        Some("Split") => {
            let known = step["pattern"]["Regex"].as_str().is_some_and(splits::ends_words);
            known && step["behavior"] == "Isolated" && step["invert"] == false
        }
        _ => false,
    }
}

/// Whether a step splits by runs of characters, so that a space behind a letter changes nothing of what is before or behind.
fn is_local(step: &Value) -> bool {
    match step["type"].as_str() {
        // It would put a space before what begins with a newline.
        Some("ByteLevel") => step["add_prefix_space"] == false,
        Some("Digits") => true,
        Some("Split") => step["pattern"]["Regex"].as_str().is_some_and(splits::is_known) && step["invert"] == false,
        _ => false,
    }
}

/// Whether merging cannot reach over the beginning of a word: no token goes on with a space behind something else.
fn no_token_ends_a_word(tokenizer: &Tokenizer) -> bool {
    let ModelWrapper::BPE(bpe) = tokenizer.get_model() else { return false };
    let reaches = |token: &str| token.trim_start_matches(SPACE).contains(SPACE);
    bpe.dropout.is_none() && !tokenizers::Model::get_vocab(bpe).keys().any(|token| reaches(token))
}
