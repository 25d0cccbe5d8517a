//! Writes GGUF files, good and bad, byte by byte; and shows that good ones open.

use std::fs;

use engine_assets::{AssetsError, ModelAssets, RopeScaling, TokenKind, TokenizerSource};
use tempfile::TempDir;

/// A GGUF in the making: pairs and tensors are appended as raw bytes, so that any of them can be wrong.
#[derive(Clone)]
pub struct Gguf {
    pub version: u32,
    pub alignment: u64,
    pub pairs: Vec<Vec<u8>>,
    pub tensors: Vec<Vec<u8>>,
    pub data: u64,
    /// Claimed in the header in place of the true numbers.
    pub counts: Option<(u64, u64)>,
}

pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A typed value's bytes after its type number.
pub struct Value(pub u32, pub Vec<u8>);

pub fn u32_(n: u32) -> Value {
    Value(4, n.to_le_bytes().to_vec())
}

pub fn f32_(x: f32) -> Value {
    Value(6, x.to_le_bytes().to_vec())
}

pub fn flag(flag: bool) -> Value {
    Value(7, vec![flag.into()])
}

pub fn text(text: &str) -> Value {
    Value(8, string(text))
}

pub fn array(kind: u32, count: u64, items: Vec<u8>) -> Value {
    Value(9, [&kind.to_le_bytes()[..], &count.to_le_bytes(), &items].concat())
}

pub fn texts<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> Value {
    let items: Vec<Vec<u8>> = items.into_iter().map(|item| string(item.as_ref())).collect();
    array(8, items.len() as u64, items.concat())
}

pub fn i32s(items: &[i32]) -> Value {
    array(5, items.len() as u64, items.iter().flat_map(|item| item.to_le_bytes()).collect())
}

pub fn f32s(items: &[f32]) -> Value {
    array(6, items.len() as u64, items.iter().flat_map(|item| item.to_le_bytes()).collect())
}

impl Gguf {
    pub fn empty() -> Self {
        Self { version: 3, alignment: 32, pairs: Vec::new(), tensors: Vec::new(), data: 0, counts: None }
    }

    /// A good one-layer model of the given vocabulary: hidden 32, 2 heads, 1 key/value head.
    pub fn good(tokens: usize) -> Self {
        let gguf = Self::empty().pair("general.architecture", text("llama"));
        let sizes = [
            ("block_count", 1),
            ("context_length", 64),
            ("embedding_length", 32),
            ("feed_forward_length", 64),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
        ];
        let gguf = sizes
            .into_iter()
            .fold(gguf, |gguf, (key, size)| gguf.pair(&format!("llama.{key}"), u32_(size)))
            .pair("llama.attention.layer_norm_rms_epsilon", f32_(1e-5))
            .pair("llama.rope.freq_base", f32_(5e5))
            .pair("tokenizer.ggml.model", text("gpt2"))
            .pair("tokenizer.ggml.pre", text("gpt-2"))
            .pair("tokenizer.ggml.tokens", texts((0..tokens).map(|token| format!("token{token}"))))
            .pair("tokenizer.ggml.token_type", i32s(&vec![1; tokens]))
            .pair("tokenizer.ggml.merges", texts::<&str>([]))
            .pair("tokenizer.ggml.eos_token_id", u32_(1))
            .tensor("token_embd.weight", 0, &[32, tokens as u64])
            .tensor("output_norm.weight", 0, &[32]);
        let layer: [(&str, &[u64]); 9] = [
            ("attn_norm", &[32]),
            ("attn_q", &[32, 32]),
            ("attn_k", &[32, 16]),
            ("attn_v", &[32, 16]),
            ("attn_output", &[32, 32]),
            ("ffn_norm", &[32]),
            ("ffn_gate", &[32, 64]),
            ("ffn_up", &[32, 64]),
            ("ffn_down", &[64, 32]),
        ];
        layer.into_iter().fold(gguf, |gguf, (name, dims)| gguf.tensor(&format!("blk.0.{name}.weight"), 0, dims))
    }

    pub fn pair(self, key: &str, Value(kind, value): Value) -> Self {
        self.raw_pair([string(key), kind.to_le_bytes().to_vec(), value].concat())
    }

    pub fn raw_pair(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.pairs.push(bytes.into());
        self
    }

    pub fn replace(self, key: &str, value: Value) -> Self {
        self.remove(key).pair(key, value)
    }

    pub fn remove(mut self, key: &str) -> Self {
        let start = string(key);
        self.pairs.retain(|pair| !pair.starts_with(&start));
        self
    }

    /// Appends a tensor of F32 (0) or F16 (1), at the next free place of the data.
    pub fn tensor(mut self, name: &str, kind: u32, dims: &[u64]) -> Self {
        let offset = self.data;
        self.data += (dims.iter().product::<u64>() * if kind == 0 { 4 } else { 2 }).next_multiple_of(self.alignment);
        self.raw_tensor(name, kind, dims, offset)
    }

    pub fn raw_tensor(mut self, name: &str, kind: u32, dims: &[u64], offset: u64) -> Self {
        let dims = [(dims.len() as u32).to_le_bytes().to_vec(), dims.iter().flat_map(|dim| dim.to_le_bytes()).collect()].concat();
        self.tensors.push([string(name), dims, kind.to_le_bytes().to_vec(), offset.to_le_bytes().to_vec()].concat());
        self
    }

    pub fn without_tensor(mut self, name: &str) -> Self {
        let start = string(name);
        self.tensors.retain(|tensor| !tensor.starts_with(&start));
        self
    }

    /// Numbers of tensors and pairs that the header claims in place of the true ones.
    pub fn claims(mut self, tensors: u64, pairs: u64) -> Self {
        self.counts = Some((tensors, pairs));
        self
    }

    /// Header, padding and zeros.
    pub fn bytes(&self) -> Vec<u8> {
        let (tensors, pairs) = self.counts.unwrap_or((self.tensors.len() as u64, self.pairs.len() as u64));
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(pairs.to_le_bytes());
        bytes.extend(self.pairs.concat());
        bytes.extend(self.tensors.concat());
        let data = (bytes.len() as u64).next_multiple_of(self.alignment);
        bytes.resize((data + self.data) as usize, 0);
        bytes
    }

    pub fn open(&self) -> Result<ModelAssets, AssetsError> {
        open_bytes(&self.bytes())
    }
}

pub fn open_bytes(bytes: &[u8]) -> Result<ModelAssets, AssetsError> {
    let folder = TempDir::new().expect("test files");
    let path = folder.path().join("model.gguf");
    fs::write(&path, bytes).expect("test files");
    engine_assets::open(&path)
}

fn opens(change: impl FnOnce(Gguf) -> Gguf) -> ModelAssets {
    change(Gguf::good(16)).open().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_good_file_opens() {
    for version in [2, 3] {
        let model = opens(|gguf| Gguf { version, ..gguf });
        assert!(model.config.tie_word_embeddings, "there is no output.weight");
        assert_eq!((model.config.vocab_size, model.config.head_dim, model.config.rope.theta), (16, 16, 5e5));
        assert_eq!(model.tensors.get("model.layers.0.mlp.down_proj.weight").unwrap().shape, [32, 64]);
        assert_eq!((model.generation.eos, model.warnings), (vec![1], vec![]));
    }
}

#[test]
fn a_vocabulary_of_151936_tokens_opens() {
    let model = Gguf::good(151_936).open().unwrap_or_else(|error| panic!("{error}"));
    let TokenizerSource::Gguf(tokenizer) = model.text.tokenizer else { panic!("not from metadata") };
    assert_eq!((tokenizer.tokens.len(), tokenizer.tokens[151_935].as_str()), (151_936, "token151935"));
    assert_eq!(tokenizer.kinds[0], TokenKind::Normal);
}

#[test]
fn head_and_biases() {
    assert!(!opens(|gguf| gguf.tensor("output.weight", 1, &[32, 16])).config.tie_word_embeddings);
    let biases = [("q", 32), ("k", 16), ("v", 16), ("output", 32)];
    let biased = opens(|gguf| {
        biases.into_iter().fold(gguf, |gguf, (name, rows)| gguf.tensor(&format!("blk.0.attn_{name}.bias"), 0, &[rows]))
    });
    assert!(biased.config.qkv_bias && biased.tensors.get("model.layers.0.self_attn.o_proj.bias").is_some());
}

/// Experts lie in one tensor of a layer, or in one each, as converters wrote them until April 2024.
#[test]
fn experts_together_and_apart() {
    let sparse = |gguf: Gguf| {
        let gguf =
            ["gate", "up", "down"].into_iter().fold(gguf, |gguf, part| gguf.without_tensor(&format!("blk.0.ffn_{part}.weight")));
        let gguf = gguf.pair("llama.expert_count", u32_(2)).pair("llama.expert_used_count", u32_(1));
        gguf.tensor("blk.0.ffn_gate_inp.weight", 0, &[32, 2])
    };
    let parts: [(&str, [u64; 2]); 3] = [("gate", [32, 64]), ("up", [32, 64]), ("down", [64, 32])];
    let merged = opens(|gguf| {
        let add = |gguf: Gguf, (part, [columns, rows]): (&str, [u64; 2])| {
            gguf.tensor(&format!("blk.0.ffn_{part}_exps.weight"), 0, &[columns, rows, 2])
        };
        parts.into_iter().fold(sparse(gguf), add)
    });
    let apart = opens(|gguf| {
        let each = parts
            .into_iter()
            .flat_map(|(part, dims)| (0..2).map(move |expert| (format!("blk.0.ffn_{part}.{expert}.weight"), dims)));
        each.fold(sparse(gguf), |gguf, (name, dims)| gguf.tensor(&name, 0, &dims))
    });
    for model in [merged, apart] {
        assert_eq!((model.config.architecture.as_str(), model.warnings), ("mixtral", vec![]));
        let down = |expert: usize| {
            let name = format!("model.layers.0.block_sparse_moe.experts.{expert}.w2.weight");
            model.tensors.get(&name).unwrap_or_else(|| panic!("no {name}")).clone()
        };
        let (first, second) = (down(0), down(1));
        assert_eq!((&first.shape, second.offset - first.offset), (&vec![32, 64], first.bytes));
    }
}

/// Data begins where the file says that it is aligned to.
#[test]
fn alignment() {
    let plain = Gguf::good(16);
    let wide = Gguf { alignment: 64, ..plain.clone() }
        .pair("general.alignment", u32_(64))
        .open()
        .unwrap_or_else(|error| panic!("{error}"));
    let first = wide.tensors.get("model.embed_tokens.weight").unwrap().offset;
    assert_eq!((first % 64, plain.open().unwrap().tensors.get("model.embed_tokens.weight").unwrap().offset % 32), (0, 0));
}

/// Llama 3.1's scaling as llama.cpp's converter writes it: a tensor of divisors.
#[test]
fn rope_factors() {
    let mut bytes = Gguf::good(16).tensor("rope_freqs.weight", 0, &[8]).bytes();
    let (at, factors) = (bytes.len() - 32, [1.0f32, 1.0, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]);
    factors.iter().enumerate().for_each(|(i, factor)| bytes[at + 4 * i..][..4].copy_from_slice(&factor.to_le_bytes()));
    let model = open_bytes(&bytes).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(model.config.rope.scaling, RopeScaling::Factors(factors.to_vec()));
    assert_eq!(model.warnings, Vec::<String>::new());
}

#[test]
fn rope_scaling() {
    let scaled = |pairs: &[(&str, Value)]| {
        let gguf = pairs
            .iter()
            .fold(Gguf::good(16), |gguf, (key, value)| gguf.pair(&format!("llama.rope.{key}"), Value(value.0, value.1.clone())));
        gguf.open().unwrap_or_else(|error| panic!("{error}")).config
    };
    let context = scaled(&[]).context_length;
    assert_eq!(scaled(&[("scaling.type", text("none"))]).rope.scaling, RopeScaling::None);
    for pairs in [
        &[("scaling.type", text("linear")), ("scaling.factor", f32_(4.0))][..],
        &[("scaling.factor", f32_(4.0))],
        &[("scale_linear", f32_(4.0))],
    ] {
        let config = scaled(pairs);
        assert_eq!((config.rope.scaling, config.context_length), (RopeScaling::Linear { factor: 4.0 }, 4 * context));
    }
    let yarn = [("scaling.type", text("yarn")), ("scaling.factor", f32_(4.0)), ("scaling.original_context_length", u32_(16))];
    let RopeScaling::Yarn { factor, original_context, attention_factor, .. } = scaled(&yarn).rope.scaling else {
        panic!("not yarn")
    };
    assert_eq!((factor, original_context), (4.0, 16));
    assert!((attention_factor - 1.138_629).abs() < 1e-6, "0.1 ln 4 + 1, not {attention_factor}");
}

#[test]
fn what_nobody_reads_is_told() {
    let model = opens(|gguf| gguf.tensor("v.blk.0.image.weight", 0, &[4]).raw_tensor("blk.7.strange.weight", 10, &[256, 2], 0));
    let warning = &model.warnings[0];
    assert!(
        warning.contains("2 tensors") && warning.contains("v.blk.0.image.weight") && warning.contains("blk.7.strange.weight"),
        "{warning}"
    );
}
