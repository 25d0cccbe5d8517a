//! A model that says what a test writes: one layer whose output projections are zero, so that the head's table of transitions alone
//! decides, as in tests/parity/scripted.py. Tokens are the 256 bytes and whatever pieces the script names; each piece is followed by
//! one other, whatever stood before. Values are exact in f32.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use engine_assets::ModelAssets;
use serde_json::{Value, json};

/// The id that ends an answer.
const END: usize = 256;
const SPECIALS: [&str; 4] = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"];
const HEAD_DIM: usize = 32;
const INTERMEDIATE: usize = 32;
/// The last message's text and nothing behind it, so that its last token chooses the chain; tools before it, calls and thoughts within.
const TEMPLATE: &str = "{% for m in messages %}<|{{ 'user' if m.role == 'tool' else m.role }}|>\
    {% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}\
    {% for c in m.tool_calls %}[{{ c.function.name }}{% for k, v in c.function.arguments.items() %} {{ k }}={{ v }}{% endfor %}]{% endfor %}\
    {{ m.content }}{% endfor %}{{ suffix }}";

/// Chains of pieces: an answer to a prompt that ends with a chain's first piece says the others, then ends.
pub struct Script {
    folder: tempfile::TempDir,
}

impl Script {
    /// Special pieces, such as `<think>` where the vocabulary has it, are hidden as special tokens are.
    pub fn new(chains: &[&[&str]], special: &[&str]) -> Self {
        let mut pieces: Vec<&str> = Vec::new();
        for piece in chains.iter().flat_map(|chain| chain.iter()).chain(special) {
            if piece.len() > 1 && !pieces.contains(piece) {
                pieces.push(piece);
            }
        }
        let id = |piece: &str| match pieces.iter().position(|known| known == &piece) {
            Some(at) => 256 + SPECIALS.len() + at,
            None => usize::from(*piece.as_bytes().first().expect("a piece has a byte")),
        };
        let width = (256 + SPECIALS.len() + pieces.len()).next_multiple_of(64);
        let mut next = vec![END; width];
        for chain in chains {
            for pair in chain.windows(2) {
                let place = &mut next[id(pair[0])];
                assert_eq!(*place, END, "{:?} is followed by two pieces", pair[0]);
                *place = id(pair[1]);
            }
        }
        let script = Self { folder: tempfile::tempdir().expect("a folder") };
        script.write("config.json", &config(width).to_string().into_bytes());
        script.write("generation_config.json", json!({"eos_token_id": END}).to_string().as_bytes());
        script.write("tokenizer.json", tokenizer(&pieces, special).to_string().as_bytes());
        script.write("tokenizer_config.json", b"{\"eos_token\": \"<|end|>\"}");
        script.write("chat_template.jinja", TEMPLATE.as_bytes());
        script.write("model.safetensors", &weights(width, &next));
        script
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.folder.path().join(name), bytes).expect("room for a small file");
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn assets(&self) -> Arc<ModelAssets> {
        Arc::new(engine_assets::open(self.path()).expect("a good model"))
    }
}

fn config(width: usize) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "dtype": "float32",
        "vocab_size": width, "hidden_size": width, "intermediate_size": INTERMEDIATE, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": HEAD_DIM, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6, "eos_token_id": END, "tie_word_embeddings": false,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    })
}

/// The character that byte-level BPE writes for a byte.
fn alphabet() -> Vec<char> {
    let mut hidden = 0;
    let write = |byte: u32| match byte {
        33..=126 | 161..=172 | 174..=255 => char::from_u32(byte).expect("Latin-1"),
        _ => {
            hidden += 1;
            char::from_u32(255 + hidden).expect("Latin Extended")
        }
    };
    (0..256).map(write).collect()
}

fn tokenizer(pieces: &[&str], special: &[&str]) -> Value {
    let mut vocabulary: BTreeMap<String, usize> = alphabet().into_iter().map(String::from).zip(0..).collect();
    let added = SPECIALS.iter().chain(pieces).zip(256..).map(|(content, id)| {
        vocabulary.insert((*content).to_owned(), id);
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": SPECIALS.contains(content) || special.contains(content),
        })
    });
    let added: Vec<Value> = added.collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": [],
        },
    })
}

/// The file of weights: all zero but the embedding (one-hot), the norms (1) and the head (10 from each token to its next).
fn weights(width: usize, next: &[usize]) -> Vec<u8> {
    let mut embedding = vec![0.0f32; width * width];
    let mut head = embedding.clone();
    for (token, &next) in next.iter().enumerate() {
        embedding[token * width + token] = 1.0;
        head[next * width + token] = 10.0;
    }
    let (ones, zeros) = (|len: usize| vec![1.0f32; len], |len: usize| vec![0.0f32; len]);
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let attention = width * HEAD_DIM;
    let mlp = width * INTERMEDIATE;
    let tensors: Vec<(String, [usize; 2], Vec<f32>)> = vec![
        ("model.embed_tokens.weight".into(), [width, width], embedding),
        ("lm_head.weight".into(), [width, width], head),
        ("model.norm.weight".into(), [width, 0], ones(width)),
        (layer("input_layernorm"), [width, 0], ones(width)),
        (layer("post_attention_layernorm"), [width, 0], ones(width)),
        (layer("self_attn.q_proj"), [HEAD_DIM, width], zeros(attention)),
        (layer("self_attn.k_proj"), [HEAD_DIM, width], zeros(attention)),
        (layer("self_attn.v_proj"), [HEAD_DIM, width], zeros(attention)),
        (layer("self_attn.o_proj"), [width, HEAD_DIM], zeros(attention)),
        (layer("mlp.gate_proj"), [INTERMEDIATE, width], zeros(mlp)),
        (layer("mlp.up_proj"), [INTERMEDIATE, width], zeros(mlp)),
        (layer("mlp.down_proj"), [width, INTERMEDIATE], zeros(mlp)),
    ];
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let begin = data.len();
        values.iter().for_each(|value| data.extend(value.to_le_bytes()));
        let shape: Vec<usize> = shape.into_iter().filter(|&side| side > 0).collect();
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]}));
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.into_bytes());
    file.extend(data);
    file
}
