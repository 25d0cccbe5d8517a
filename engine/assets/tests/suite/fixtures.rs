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

/// All byte ranges lie in their files and are as long as type and shape say: what the engine maps is there.
#[test]
fn ranges_lie_in_their_files() {
    for name in ["llama", "llama-f16", "gguf-q4_0/model.gguf", "gguf-q4_1/model.gguf"] {
        let model = open(name);
        let lengths: Vec<u64> = model.tensors.files.iter().map(|file| file.metadata().unwrap().len()).collect();
        for (tensor, info) in &model.tensors.by_name {
            let weights: usize = info.shape.iter().product();
            assert_eq!(info.bytes, (weights / info.dtype.block_len() * info.dtype.block_bytes()) as u64, "{name}: {tensor}");
            assert!(info.offset + info.bytes <= lengths[info.file], "{name}: {tensor}");
        }
    }
}
