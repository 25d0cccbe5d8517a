//! The committed tiny models open, and say what their makers wrote into them.

use std::path::{Path, PathBuf};

use engine_assets::{DType, Format, ModelAssets, RopePairing, RopeScaling, TokenizerSource};

pub fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models")
}

fn open(name: &str) -> ModelAssets {
    engine_assets::open(&models().join(name)).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn sharded_folder() {
    let model = open("llama");
    assert_eq!(model.format, Format::HuggingFace);
    assert_eq!(model.tensors.files.len(), 2);
    assert_eq!(model.config.architecture, "llama");
    assert_eq!((model.config.heads, model.config.kv_heads, model.config.layers), (4, 2, 3));
    assert_eq!(model.config.rope.pairing, RopePairing::Halves);
    assert!(!model.config.tie_word_embeddings);
    let head = model.tensors.get("lm_head.weight").unwrap();
    assert_eq!((head.dtype, &head.shape), (DType::F32, &vec![model.config.vocab_size, model.config.hidden_size]));
    assert!(model.text.chat_template.is_some(), "chat_template.jinja beside the weights");
    assert_eq!(model.text.eos.as_ref().unwrap().id, Some(3));
    assert_eq!(model.generation.eos, [3]);
    assert_eq!(model.warnings, Vec::<String>::new());
}

#[test]
fn llama3_scaling_and_tied_head() {
    let model = open("llama31");
    assert!(model.config.tie_word_embeddings);
    assert!(model.tensors.get("lm_head.weight").is_none());
    let RopeScaling::Llama3 { factor, original_context, .. } = model.config.rope.scaling else {
        panic!("{:?}", model.config.rope)
    };
    assert_eq!((factor, original_context), (8.0, 128));
}

#[test]
fn every_element_type() {
    for (name, dtype) in [
        ("llama-f16", DType::F16),
        ("llama31-bf16", DType::BF16),
        ("gguf-f32/model.gguf", DType::F32),
        ("gguf-f16/model.gguf", DType::F16),
        ("gguf-bf16/model.gguf", DType::BF16),
        ("gguf-q8_0/model.gguf", DType::Q8_0),
        ("gguf-q4_0/model.gguf", DType::Q4_0),
        ("gguf-q4_1/model.gguf", DType::Q4_1),
    ] {
        let model = open(name);
        assert_eq!(model.tensors.get("model.layers.0.mlp.gate_proj.weight").unwrap().dtype, dtype, "{name}");
        assert_eq!(model.warnings, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn gguf_brings_tokenizer_and_template() {
    let model = open("gguf-f32/model.gguf");
    assert_eq!((model.format, model.config.rope.pairing), (Format::Gguf, RopePairing::Adjacent));
    assert!(model.text.chat_template.is_some());
    let TokenizerSource::Gguf(tokenizer) = &model.text.tokenizer else { panic!("not from metadata") };
    assert_eq!((tokenizer.model.as_str(), tokenizer.pre.as_deref()), ("gpt2", Some("gpt-2")));
    assert_eq!(tokenizer.tokens.len(), model.config.vocab_size);
}

/// Nothing in a file as its maker writes it is left unread or odd, whatever the architecture.
#[test]
fn every_tensor_is_read() {
    let mut architectures = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(models()).unwrap() {
        let folder = entry.unwrap().path();
        let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let gguf = files.filter(|file| file.extension().is_some_and(|extension| extension == "gguf")).min();
        let model = engine_assets::open(gguf.as_ref().unwrap_or(&folder)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(model.warnings, Vec::<String>::new(), "{}", folder.display());
        architectures.insert((model.config.architecture, model.format == Format::Gguf));
    }
    for architecture in ["gemma3", "llama", "mixtral", "qwen2", "qwen3", "qwen3_moe"] {
        for gguf in [false, true] {
            assert!(architectures.contains(&(architecture.to_owned(), gguf)), "no {architecture}, GGUF: {gguf}");
        }
    }
}

/// What is a setting in one format is often one in the other under another name, or taken for granted.
#[test]
fn architectures() {
    let gemma = open("gemma3").config;
    assert_eq!(gemma.windows, [Some(24), Some(24), None, Some(24)]);
    assert_eq!((gemma.rope.theta, &gemma.rope.scaling), (1e6, &RopeScaling::Linear { factor: 4.0 }));
    assert_eq!(gemma.local_rope.as_ref().map(|rope| (rope.theta, &rope.scaling)), Some((1e4, &RopeScaling::None)));
    assert_eq!((gemma.attention_scale, gemma.norm_offset), (28f32.powf(-0.5), 1.0));
    assert!(gemma.tie_word_embeddings);
    let old = open("gemma3-bf16").config;
    assert_eq!((&old.windows, &old.rope, &old.local_rope), (&gemma.windows, &gemma.rope, &gemma.local_rope));
    // sqrt(52) = 7.2111…; the nearest bf16 is 7.21875.
    assert_eq!((gemma.embedding_scale, old.embedding_scale), (52f32.sqrt(), 7.21875));
    let file = open("gguf-gemma3-q8_0/model.gguf").config;
    let seventh = |layer: usize| if layer == 5 { None } else { Some(24) };
    assert_eq!(file.windows, (0..7).map(seventh).collect::<Vec<_>>());
    assert_eq!((file.norm_offset, file.embedding_scale, file.local_rope.map(|rope| rope.theta)), (0.0, 8.0, Some(1e4)));

    let experts = |name: &str| open(name).config.experts.unwrap();
    let moe = experts("qwen3-moe");
    assert_eq!((moe.count, moe.per_token, moe.intermediate_size, moe.renormalise), (8, 3, 28, true));
    assert_eq!(moe.layers, [true, false, true]);
    let raw = experts("qwen3-moe-bf16");
    assert_eq!((raw.renormalise, raw.layers), (false, vec![false, true, false]));
    assert_eq!(experts("gguf-qwen3moe-q8_0/model.gguf").intermediate_size, 32);
    assert_eq!(experts("mixtral").intermediate_size, open("mixtral").config.intermediate_size);
    assert_eq!(open("mixtral").config.windows, [Some(24), Some(24)]);
    let pairing = |name: &str| open(name).config.rope.pairing;
    assert_eq!(pairing("gguf-mixtral-q4_1/model.gguf"), RopePairing::Adjacent, "as llama");
    assert_eq!(pairing("gguf-qwen3-q4_0/model.gguf"), RopePairing::Halves);

    let qwen = open("qwen2").config;
    assert!(qwen.qkv_bias && !qwen.output_bias);
    assert_eq!(qwen.windows, [None, Some(24), Some(24)]);
    assert_eq!(open("qwen2").generation.eos, [3, 1]);
    assert_eq!(open("qwen3").config.head_dim, 20);
}

/// All byte ranges lie in their files and are as long as type and shape say: what the engine maps is there.
#[test]
fn ranges_lie_in_their_files() {
    for name in
        ["llama", "llama-f16", "gguf-q4_0/model.gguf", "gguf-q4_1/model.gguf", "qwen3-moe", "gguf-qwen3moe-q8_0/model.gguf"]
    {
        let model = open(name);
        let lengths: Vec<u64> = model.tensors.files.iter().map(|file| file.metadata().unwrap().len()).collect();
        for (tensor, info) in &model.tensors.by_name {
            let weights: usize = info.shape.iter().product();
            assert_eq!(info.bytes, (weights / info.dtype.block_len() * info.dtype.block_bytes()) as u64, "{name}: {tensor}");
            assert!(info.offset + info.bytes <= lengths[info.file], "{name}: {tensor}");
        }
    }
}
