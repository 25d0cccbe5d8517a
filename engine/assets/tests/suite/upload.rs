//! The upload form of text assets: what goes in comes out, one way only, and damaged bytes are refused.

use engine_assets::{Digest, ErrorKind, GgufTokenizer, SpecialToken, TextAssets, TokenKind, TokenizerSource};
use proptest::prelude::*;

use crate::fixtures::models;

fn text_assets() -> impl Strategy<Value = TextAssets> {
    let token = || prop::option::of((".{0,8}", prop::option::of(any::<u32>())).prop_map(|(text, id)| SpecialToken { text, id }));
    let kind = prop::sample::select(vec![
        TokenKind::Normal,
        TokenKind::Control,
        TokenKind::UserDefined,
        TokenKind::Unused,
        TokenKind::Byte,
        TokenKind::Unknown,
    ]);
    let strings = || prop::collection::vec(".{0,6}", 0..5);
    let gguf = (
        "[a-z0-9]{0,5}",
        prop::option::of("[a-z-]{0,6}"),
        strings(),
        prop::collection::vec(kind, 0..5),
        prop::collection::vec(-9.0f32..9.0, 0..5),
        strings(),
        any::<Option<bool>>(),
    )
        .prop_map(|(model, pre, tokens, kinds, scores, merges, add_space_prefix)| {
            TokenizerSource::Gguf(GgufTokenizer { model, pre, tokens, kinds, scores, merges, add_space_prefix })
        });
    let source = prop_oneof![prop::collection::vec(any::<u8>(), 0..64).prop_map(TokenizerSource::HuggingFace), gguf];
    let template = || prop::option::of(".{0,30}");
    let templates = (template(), template(), template(), any::<Option<bool>>());
    (source, templates, token(), token(), token(), token(), any::<Option<bool>>(), any::<Option<bool>>()).prop_map(
        |(tokenizer, templates, bos, eos, pad, unk, add_bos, add_eos)| TextAssets {
            tokenizer,
            chat_template: templates.0,
            tool_template: templates.1,
            template_kwargs: templates.2,
            content_parts: templates.3,
            bos,
            eos,
            pad,
            unk,
            add_bos,
            add_eos,
        },
    )
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(assets in text_assets()) {
        let bytes = assets.to_bytes();
        prop_assert_eq!(&TextAssets::from_bytes(&bytes).unwrap(), &assets);
        prop_assert_eq!(assets.digest(), Digest::of(&bytes));
    }

    /// Bytes that are accepted are bytes that would have been written: a digest has one preimage form.
    #[test]
    fn damaged_bytes_are_refused_or_canonical(assets in text_assets(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = assets.to_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = TextAssets::from_bytes(&bytes) {
            prop_assert_eq!(read.to_bytes(), bytes);
        }
    }

    #[test]
    fn cut_bytes_are_refused(assets in text_assets(), at in any::<prop::sample::Index>()) {
        let bytes = assets.to_bytes();
        prop_assert!(TextAssets::from_bytes(&bytes[..at.index(bytes.len())]).is_err());
    }
}

#[test]
fn same_assets_same_digest_other_assets_other_digest() {
    let text = |name: &str| engine_assets::open(&models().join(name)).unwrap().text;
    let (one, same) = (text("gguf-f32/model.gguf"), text("gguf-q8_0/model.gguf"));
    assert_eq!(one.digest(), same.digest());
    let other = TextAssets { chat_template: Some("another".into()), ..one.clone() };
    assert_ne!(one.digest(), other.digest());
    assert_eq!(one.digest().to_string().len(), 64);
}

#[test]
fn claims_beyond_the_bytes() {
    let refuses = |bytes: &[u8], kind| assert_eq!(TextAssets::from_bytes(bytes).expect_err("was read").kind, kind);
    let magic = b"trackside text assets 2\n";
    refuses(b"", ErrorKind::Truncated);
    refuses(b"something else entirely, really", ErrorKind::Malformed);
    refuses(&[&magic[..], &[9]].concat(), ErrorKind::Unsupported);
    refuses(&[&magic[..], &[0], &u64::MAX.to_le_bytes()].concat(), ErrorKind::Truncated);
    refuses(&[&magic[..], &[1], &0u64.to_le_bytes(), &[0], &(1u64 << 60).to_le_bytes()].concat(), ErrorKind::Truncated);
    refuses(&[&magic[..], &[1], &0u64.to_le_bytes(), &[7]].concat(), ErrorKind::Malformed);
    let mut longer = engine_assets::open(&models().join("gguf-f32/model.gguf")).unwrap().text.to_bytes();
    longer.push(0);
    refuses(&longer, ErrorKind::Malformed);
    refuses(&vec![0; engine_assets::MAX_UPLOAD_BYTES + 1], ErrorKind::TooLarge);
}
