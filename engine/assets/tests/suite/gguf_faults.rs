//! Broken and hostile GGUF files: each is refused in one line that names key or tensor and byte offset.

use engine_assets::ErrorKind;

use crate::gguf::{Gguf, Value, array, f32_, f32s, flag, i32s, open_bytes, text, texts, u32_};

/// The error is one line, of this kind, and says all of `says`.
#[track_caller]
fn refuses_bytes(bytes: &[u8], kind: ErrorKind, says: &[&str]) {
    let error = open_bytes(bytes).map(|_| ()).expect_err("was opened");
    let line = error.to_string();
    assert_eq!(error.kind, kind, "{line}");
    assert!(!line.contains('\n'), "{line}");
    for part in says.iter().chain(&["model.gguf"]) {
        assert!(line.contains(part), "does not say {part:?}: {line}");
    }
}

#[track_caller]
fn refuses(change: impl FnOnce(Gguf) -> Gguf, kind: ErrorKind, says: &[&str]) {
    refuses_bytes(&change(Gguf::good(16)).bytes(), kind, says);
}

/// As [`refuses`], of a small file with nothing else in it.
#[track_caller]
fn refuses_alone(change: impl FnOnce(Gguf) -> Gguf, kind: ErrorKind, says: &[&str]) {
    refuses_bytes(&change(Gguf::empty()).bytes(), kind, says);
}

#[test]
fn lengths_beyond_the_file() {
    use ErrorKind::*;
    refuses_alone(|g| g.raw_pair((1u64 << 48).to_le_bytes().to_vec()), Truncated, &["281474976710656 bytes", "at byte 24"]);
    refuses_alone(|g| g.raw_pair(u64::MAX.to_le_bytes().to_vec()), Truncated, &["at byte 24"]);
    refuses_alone(|g| g.pair("k", Value(8, u64::MAX.to_le_bytes().to_vec())), Truncated, &["key \"k\"", "at byte 37"]);
    refuses_alone(
        |g| g.pair("k", array(4, u64::MAX / 2, vec![])),
        Truncated,
        &["key \"k\" at byte 37", "9223372036854775807 items"],
    );
    refuses_alone(|g| g.pair("k", array(8, 1 << 40, vec![0; 64])), Truncated, &["key \"k\""]);
    refuses_alone(|g| g.claims(0, 1 << 60), TooLarge, &["at byte 16"]);
    refuses_alone(|g| g.claims(1 << 60, 0), TooLarge, &["at byte 8"]);
    let long = "x".repeat(2 << 20);
    refuses(|g| g.pair("k", text(&long)), TooLarge, &["key \"k\"", "2097152 bytes"]);
    refuses(|g| g.pair("k", array(0, 9 << 20, vec![0; 9 << 20])), TooLarge, &["key \"k\"", "9437184 items"]);
}

#[test]
fn keys_and_values() {
    use ErrorKind::*;
    refuses_alone(|g| g.pair("", u32_(1)), Malformed, &["a key of 0 bytes", "at byte 24"]);
    refuses_alone(|g| g.pair("k", u32_(1)).pair("k", u32_(2)), Malformed, &["key \"k\" at byte 41", "comes twice"]);
    refuses_alone(|g| g.pair("k", Value(13, vec![])), Malformed, &["key \"k\" at byte 33", "type 13"]);
    refuses_alone(|g| g.pair("k", array(99, 1, vec![0; 8])), Malformed, &["key \"k\"", "type 99"]);
    let nested: Vec<u8> =
        std::iter::repeat_n([9u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec()].concat(), 10_000).flatten().collect();
    refuses_alone(|g| g.pair("k", array(9, 1, nested)), Unsupported, &["key \"k\" at byte 37", "array inside an array"]);
    refuses_alone(|g| g.pair("two\nlines", Value(77, vec![])), Malformed, &["two\\nlines"]);
    refuses_alone(|g| g.raw_pair([&1u64.to_le_bytes()[..], &[0xFF]].concat()), Malformed, &["not UTF-8", "at byte 32"]);
    refuses(
        |g| g.pair("tokenizer.ggml.scores", array(0, 16, vec![0; 16])),
        Malformed,
        &["tokenizer.ggml.scores", "at byte", "array of integers, not an array of floats"],
    );
    refuses(
        |g| g.pair("tokenizer.ggml.scores", f32s(&[0.0; 15])),
        Mismatch,
        &["tokenizer.ggml.scores", "15 entries for 16 tokens"],
    );
    refuses(
        |g| g.replace("tokenizer.ggml.token_type", i32s(&[7; 16])),
        Malformed,
        &["tokenizer.ggml.token_type", "7 is no token type"],
    );
    refuses(|g| g.replace("tokenizer.ggml.tokens", texts::<&str>([])), Malformed, &["tokenizer.ggml.tokens", "0 tokens"]);
    refuses(
        |g| g.replace("tokenizer.ggml.eos_token_id", u32_(16)),
        Mismatch,
        &["tokenizer.ggml.eos_token_id", "16 is beyond the 16 tokens"],
    );
    refuses(
        |g| g.replace("tokenizer.ggml.model", text("rwkv")),
        Unsupported,
        &["tokenizer.ggml.model", "rwkv", "supported: gpt2, llama"],
    );
    refuses(|g| g.pair("tokenizer.ggml.add_bos_token", u32_(1)), Malformed, &["add_bos_token", "not a boolean"]);
    refuses(|g| g.pair("general.alignment", u32_(33)), Malformed, &["general.alignment", "33"]);
    refuses(|g| g.pair("general.alignment", u32_(0)), Malformed, &["general.alignment"]);
}

#[test]
fn tensors() {
    use ErrorKind::*;
    refuses(|g| g.raw_tensor("t", 0, &[1; 9], 0), Malformed, &["tensor \"t\" at byte", "9 dimensions"]);
    refuses(|g| g.raw_tensor("t", 0, &[], 0), Malformed, &["tensor \"t\" at byte", "0 dimensions"]);
    refuses(|g| g.raw_tensor("t", 0, &[1 << 32, 1 << 32, 4], 0), Malformed, &["tensor \"t\" at byte", "overflows"]);
    refuses(|g| g.raw_tensor("t", 8, &[33, 2], 0), Malformed, &["tensor \"t\" at byte", "Q8_0", "32"]);
    refuses(|g| g.raw_tensor("t", 0, &[4], 1 << 40), Truncated, &["tensor \"t\" at byte", "incomplete download?"]);
    refuses(|g| g.raw_tensor("t", 0, &[4], u64::MAX - 31), Malformed, &["tensor \"t\" at byte", "overflows"]);
    refuses(|g| g.raw_tensor("t", 0, &[4], 7), Malformed, &["tensor \"t\" at byte", "no multiple of 32"]);
    refuses(|g| g.raw_tensor("t", 0, &[16], 0), Malformed, &["overlaps"]);
    refuses(|g| g.tensor("output_norm.weight", 0, &[32]), Malformed, &["tensor \"output_norm.weight\" at byte", "comes twice"]);
    refuses(|g| g.without_tensor("blk.0.ffn_up.weight"), Missing, &["tensor \"blk.0.ffn_up.weight\"", "incomplete download?"]);
    refuses(
        |g| g.without_tensor("blk.0.ffn_up.weight").tensor("blk.0.ffn_up.weight", 0, &[64, 32]),
        Mismatch,
        &["blk.0.ffn_up.weight", "[32, 64]", "[64, 32]"],
    );
    refuses(
        |g| g.without_tensor("blk.0.ffn_up.weight").raw_tensor("blk.0.ffn_up.weight", 10, &[32, 64], 0),
        Unsupported,
        &["blk.0.ffn_up.weight", "Q2_K", "Q4_0"],
    );
    refuses(
        |g| g.without_tensor("blk.0.ffn_up.weight").raw_tensor("blk.0.ffn_up.weight", 4711, &[32, 64], 0),
        Unsupported,
        &["blk.0.ffn_up.weight", "type 4711"],
    );
    refuses(|g| g.tensor("rope_freqs.weight", 0, &[8]), Unsupported, &["rope_freqs.weight", "not positive"]);
    refuses(|g| g.tensor("rope_freqs.weight", 1, &[8]), Unsupported, &["rope_freqs.weight", "F32"]);
    let whole = Gguf::good(16).bytes();
    refuses_bytes(&whole[..whole.len() * 6 / 10], Truncated, &["tensor \"", "incomplete download?"]);
}

#[test]
fn configurations() {
    use ErrorKind::*;
    refuses(
        |g| g.replace("general.architecture", text("mamba")),
        Unsupported,
        &["general.architecture", "mamba", "supported: llama"],
    );
    refuses(|g| g.remove("general.architecture"), Missing, &["general.architecture"]);
    refuses(|g| g.replace("llama.block_count", u32_(1_000_000)), Mismatch, &["llama.block_count\" at byte", "1000000"]);
    refuses(|g| g.replace("llama.block_count", u32_(2)), Missing, &["blk.1."]);
    refuses(|g| g.replace("llama.block_count", f32_(1.0)), Malformed, &["llama.block_count", "a float, not a whole number"]);
    refuses(
        |g| g.replace("llama.feed_forward_length", i32s(&[64])),
        Malformed,
        &["llama.feed_forward_length", "an array of integers"],
    );
    refuses(|g| g.replace("llama.attention.head_count", u32_(0)), Mismatch, &["llama.attention.head_count"]);
    refuses(|g| g.pair("llama.rope.scaling.type", text("longrope")), Unsupported, &["llama.rope.scaling.type", "longrope"]);
    refuses(|g| g.pair("llama.rope.scaling.type", text("yarn")), Missing, &["llama.rope.scaling.factor"]);
    let half = |g: Gguf| g.pair("llama.rope.scaling.type", text("linear")).pair("llama.rope.scaling.factor", f32_(0.5));
    refuses(half, Mismatch, &["llama.rope.scaling.type", "0.5"]);
    refuses(|g| g.pair("llama.attention.sliding_window", u32_(8)), Unsupported, &["llama.attention.sliding_window"]);
    refuses(|g| g.pair("llama.final_logit_softcapping", f32_(30.0)), Unsupported, &["llama.final_logit_softcapping"]);
    refuses(|g| g.pair("llama.rope.dimension_count", u32_(8)), Unsupported, &["llama.rope.dimension_count"]);
    // With experts, the architecture of this name is Mixtral's.
    refuses(|g| g.pair("llama.expert_count", u32_(8)), Missing, &["llama.expert_used_count"]);
    let none = |g: Gguf| g.pair("llama.expert_count", u32_(8)).pair("llama.expert_used_count", u32_(2));
    refuses(none, Missing, &["blk.0.ffn_gate_inp.weight"]);
    let all = |g: Gguf| g.pair("llama.expert_count", u32_(8)).pair("llama.expert_used_count", u32_(9));
    refuses(all, Mismatch, &["llama.expert_used_count", "9 is not between 1 and 8"]);
    refuses(
        |g| g.replace("tokenizer.ggml.tokens", texts(["a"; 17])).remove("tokenizer.ggml.token_type"),
        Mismatch,
        &["tokenizer.ggml.tokens", "17 tokens"],
    );
    refuses(|g| g.pair("tokenizer.chat_template", flag(true)), Malformed, &["tokenizer.chat_template"]);
}

#[test]
fn beginnings() {
    use ErrorKind::*;
    refuses_bytes(b"", Truncated, &["at byte 0"]);
    refuses_bytes(b"GGU", Truncated, &["at byte 0"]);
    refuses_bytes(b"PK\x03\x04 and so on", Malformed, &["does not begin with GGUF"]);
    refuses_bytes(b"version https://git-lfs.github.com/spec/v1\n", Truncated, &["git-lfs pointer"]);
    refuses_bytes(b"GGUF\x01\0\0\0\0\0\0\0\0\0\0\0", Unsupported, &["version 1"]);
    refuses_bytes(b"GGUF\0\0\0\x03\0\0\0\0\0\0\0\0", Unsupported, &["big-endian"]);
    let header = Gguf::good(16).bytes();
    for end in (24..header.len().min(3000)).step_by(13) {
        let error = open_bytes(&header[..end]).map(|_| ()).expect_err("was opened");
        assert_eq!(error.kind, Truncated, "{end}: {error}");
    }
}

/// Hostile files must not cost memory: a process of its own, so that no other test's memory counts, opens files with huge claims.
#[test]
fn memory_stays_small() {
    const ALONE: &str = "TRACKSIDE_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let program = std::env::current_exe().unwrap();
        let name = std::thread::current().name().unwrap().to_owned();
        let child =
            std::process::Command::new(program).args(["--exact", &name, "--test-threads=1"]).env(ALONE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed"), "{name} alone: {said}");
        return;
    }
    let before_kib = peak_kib();
    for claim in [1u64 << 20, 1 << 40, u64::MAX] {
        for gguf in [
            Gguf::empty().raw_pair(claim.to_le_bytes()),
            Gguf::empty().pair("k", array(4, claim, vec![0; 64])),
            Gguf::empty().claims(claim, claim),
        ] {
            gguf.open().map(|_| ()).expect_err("was opened");
        }
    }
    let grown_kib = peak_kib() - before_kib;
    assert!(grown_kib < 2048, "{grown_kib} KiB");
}

/// The largest resident set that this process has had.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process sees its own status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    line.and_then(|kib| kib.trim().parse().ok()).expect("a number of kB")
}
