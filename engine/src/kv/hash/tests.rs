//! Golden values of vLLM 0.33, and what must make two hashes differ.

use std::sync::Arc;

use domain::ExtraKeys;
use domain::block::{AdapterKey, MultimodalKey};

use super::*;

/// Seed, and the hashes of nothing, of tokens 0..16 and of 16..32 behind them, as vLLM 0.33 computes them with
/// `--prefix-caching-hash-algo sha256_cbor`; last, the first block as an event writes it.
const GOLDEN: [(&str, [&str; 3], u64); 2] = [
    (
        "vllm-none-hash",
        [
            "9bd96a485ad84efdafb72ee48a1d7a69bcead0f8f0433173941b276b9581eef0",
            "dc918a88b139e5afe60b88eda27508d4aee16c10fdc354791efea06206ac0749",
            "c300ec275d7bf08af8fc63e76cdc0086911bbc7091e03c5cf892553bef84ef0c",
        ],
        2233398808101521225,
    ),
    (
        "0",
        [
            "4e1195df020de59e0d65a33a4279f1183e7ae4e5d980e309f8b55adff2e61c3e",
            "d830de3d42c00f25a2949b5d12d98642664a44872c1614c5b0147556276afc9c",
            "fedd9e4abebebbe6f6cf96b682f08d316063fe2f22a5c552192dd62904fcccac",
        ],
        12687895063098490012,
    ),
];

fn hashes(tokens: &[u32], extra: &ExtraKeys) -> Vec<BlockHash> {
    let mut hashes = Vec::new();
    BlockHasher::new("vllm-none-hash", 16).extend(&mut hashes, tokens, extra);
    hashes
}

#[test]
fn the_chain_is_that_of_vllm() {
    let tokens: Vec<u32> = (0..40).collect();
    for (seed, [none, first, second], event_int) in GOLDEN {
        let mut hasher = BlockHasher::new(seed, 16);
        assert_eq!(hasher.none().to_string(), none);
        let mut hashes = Vec::new();
        hasher.extend(&mut hashes, &tokens, &ExtraKeys::default());
        let text: Vec<String> = hashes.iter().map(ToString::to_string).collect();
        assert_eq!(text, [first, second], "the third block is not full");
        assert_eq!(hashes[0].event_int(), event_int);
    }
}

/// RFC 8949 Appendix A.
#[test]
fn cbor_is_canonical() {
    let check = |write: &dyn Fn(&mut Vec<u8>), expected: &str| {
        let mut out = Vec::new();
        write(&mut out);
        let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
    };
    for (value, expected) in [
        (0, "00"),
        (23, "17"),
        (24, "1818"),
        (100, "1864"),
        (1000, "1903e8"),
        (1_000_000, "1a000f4240"),
        (1_000_000_000_000, "1b000000e8d4a51000"),
        (-1, "20"),
        (-10, "29"),
        (-100, "3863"),
        (-1000, "3903e7"),
    ] {
        check(&|out| cbor::integer(out, value), expected);
    }
    check(&|out| cbor::unsigned(out, u64::MAX), "1bffffffffffffffff");
    check(&|out| cbor::bytes(out, &[1, 2, 3, 4]), "4401020304");
    check(&|out| cbor::text(out, "ü"), "62c3bc");
    check(&|out| cbor::array(out, 25), "9819");
    check(&|out| cbor::null(out), "f6");
}

fn adapter(name: &str, path: &str) -> ExtraKeys {
    ExtraKeys { adapter: Some(AdapterKey { name: name.into(), path: path.into() }), ..ExtraKeys::default() }
}

fn salt(salt: &str) -> ExtraKeys {
    ExtraKeys { cache_salt: Some(salt.into()), ..ExtraKeys::default() }
}

fn image(start: usize) -> ExtraKeys {
    let item = MultimodalKey { identifier: Arc::from("cat"), start, tokens: 20 };
    ExtraKeys { multimodal: vec![item], ..ExtraKeys::default() }
}

#[test]
fn what_makes_content_different_makes_hashes_different() {
    let tokens: Vec<u32> = (0..64).collect();
    let variants =
        [ExtraKeys::default(), adapter("a", "p"), adapter("b", "p"), adapter("a", "q"), salt("a"), salt("b"), image(0), image(1)];
    let chains: Vec<Vec<BlockHash>> = variants.iter().map(|extra| hashes(&tokens, extra)).collect();
    for (i, a) in chains.iter().enumerate() {
        for (j, b) in chains.iter().enumerate().skip(i + 1) {
            assert!(a.iter().zip(b).all(|(a, b)| a != b), "variants {i} and {j} share a block");
        }
    }
    assert_eq!(hashes(&tokens, &salt("")), chains[0], "an empty salt is none");
    assert_eq!(hashes(&tokens, &image(20))[0], chains[0][0], "an image changes nothing before it");
    assert_ne!(hashes(&tokens, &image(20))[1], chains[0][1]);
}

#[test]
fn extra_keys_come_in_order_and_where_they_belong() {
    let mut extra = adapter("a", "p");
    extra.cache_salt = Some("s".into());
    extra.multimodal = vec![MultimodalKey { identifier: "cat".into(), start: 10, tokens: 20 }];
    let lora = BlockExtra::Lora { name: "a", path: "p" };
    let check = |index, expected: &[BlockExtra<'_>]| {
        assert_eq!(block_extra(&extra, index, 16).collect::<Vec<_>>(), expected, "block {index}");
    };
    check(0, &[lora, BlockExtra::Multimodal { identifier: "cat", offset: 10 }, BlockExtra::CacheSalt("s")]);
    check(1, &[lora, BlockExtra::Multimodal { identifier: "cat", offset: -6 }]);
    check(2, &[lora]);
}

/// The bytes behind a hash with every extra key, put together by hand from RFC 8949 and vLLM's tuple.
#[test]
fn extra_keys_are_hashed_with_their_tags() {
    let mut extra = adapter("a", "p");
    extra.cache_salt = Some("s".into());
    let mut hasher = BlockHasher::new("vllm-none-hash", 2);
    let mut bytes = vec![0x83, 0x58, 32];
    bytes.extend(hasher.none().0);
    bytes.extend([0x82, 1, 2, 0x82]);
    bytes.extend(b"\x83\x64lora\x61a\x61p\x82\x6acache_salt\x61s");
    assert_eq!(hasher.block(None, 0, &[1, 2], &extra), BlockHash(Sha256::digest(&bytes).into()));
}
