//! What `config.json`, the tokenizer's files and `modules.json` say, in old and new spellings, and what of it is refused.

use std::fs;

use engine_assets::{ErrorKind, Matryoshka, Pooling, PoolingConfig, RopeScaling};
use serde_json::{Value, json};

use crate::folder::{Folder, config, opens, refuses};

#[test]
fn tied_or_untied_head() {
    let without_head = |f: &Folder| f.with_tensors(|tensors| drop(tensors.remove("lm_head.weight")));
    let tied = opens(|f| {
        without_head(f);
        f.config(json!({"tie_word_embeddings": true}));
    });
    assert!(tied.config.tie_word_embeddings && tied.warnings.is_empty());
    refuses(without_head, ErrorKind::Missing, &["lm_head.weight", "tie_word_embeddings is false"]);
    let both = opens(|f| f.config(json!({"tie_word_embeddings": true})));
    assert!(!both.config.tie_word_embeddings && both.tensors.get("lm_head.weight").is_some());
    assert!(both.warnings[0].contains("lm_head.weight"), "{:?}", both.warnings);
    let absent = |f: &Folder| f.edit("config.json", |config| drop(config.shift_remove("tie_word_embeddings")));
    assert!(!opens(absent).config.tie_word_embeddings, "Llama's default is untied");
    refuses(
        |f| {
            absent(f);
            without_head(f);
        },
        ErrorKind::Missing,
        &["lm_head.weight"],
    );
}

#[test]
fn rope_spellings() {
    let rope = |change: Value| opens(|f| f.config(change)).config.rope;
    let llama3 = json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32});
    let with = |more: Value| {
        let mut parameters = llama3.as_object().unwrap().clone();
        parameters.extend(more.as_object().unwrap().clone());
        Value::Object(parameters)
    };
    let yarn = |factor, original_context, attention_factor| RopeScaling::Yarn {
        factor,
        original_context,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
        attention_factor,
    };
    let expected = RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 32 };
    for (config, theta, scaling) in [
        (json!({"rope_theta": 5e5}), 5e5, RopeScaling::None),
        (json!({"rope_theta": 5e5, "rope_scaling": null}), 5e5, RopeScaling::None),
        (json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}), 5e5, RopeScaling::None),
        (json!({"rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}), 5e5, RopeScaling::None),
        (json!({"rope_parameters": {"rope_type": "default"}}), 1e4, RopeScaling::None),
        (json!({"rope_theta": 5e5, "rope_scaling": with(json!({"rope_type": "llama3"}))}), 5e5, expected.clone()),
        (json!({"rope_theta": 5e5, "rope_scaling": with(json!({"type": "llama3"}))}), 5e5, expected.clone()),
        (json!({"rope_parameters": with(json!({"rope_type": "llama3", "rope_theta": 5e5}))}), 5e5, expected.clone()),
        (json!({"rope_scaling": {"type": "linear", "factor": 4.0}}), 1e4, RopeScaling::Linear { factor: 4.0 }),
        (
            json!({"rope_parameters": {"rope_type": "linear", "factor": 4, "rope_theta": 5e5}}),
            5e5,
            RopeScaling::Linear { factor: 4.0 },
        ),
        (json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5}}), 1e4, yarn(4.0, 64, 1.5)),
        (json!({"rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0}}), 1e4, yarn(4.0, 64, 1.0)),
        // The paper's 0.1 ln(4) + 1.
        (
            json!({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}}),
            1e4,
            yarn(4.0, 16, 0.1 * 4f64.ln() + 1.0),
        ),
    ] {
        let rope = rope(config.clone());
        assert_eq!((rope.theta, rope.scaling), (theta, scaling), "{config}");
    }
    let both = opens(|f| f.config(json!({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}})));
    assert!(both.warnings[0].contains("rope_theta"), "{:?}", both.warnings);
    for (config, name) in [
        (json!({"rope_scaling": {"type": "su", "factor": 4.0}}), "\"su\""),
        (json!({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}), "\"dynamic\""),
        (json!({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}), "\"longrope\""),
        (json!({"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4}}), "\"proportional\""),
        (json!({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 4.0}}}), "by kind of layer"),
        (json!({"rope_scaling": {"factor": 4.0}}), "without rope_type"),
        (json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}), "partial_rotary_factor"),
    ] {
        refuses(|f| f.config(config), ErrorKind::Unsupported, &["config.json", name]);
    }
    refuses(
        |f| f.config(json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}})),
        ErrorKind::Missing,
        &["low_freq_factor"],
    );
    refuses(
        |f| f.config(json!({"rope_scaling": with(json!({"rope_type": "llama3", "factor": 0.0}))})),
        ErrorKind::Mismatch,
        &["factor"],
    );
    refuses(
        |f| f.config(json!({"rope_scaling": {"type": "linear", "factor": 0.5}})),
        ErrorKind::Mismatch,
        &["rope_scaling", "0.5"],
    );
    refuses(
        |f| f.config(json!({"rope_scaling": {"type": "yarn", "factor": "4"}})),
        ErrorKind::Malformed,
        &["factor is not a number"],
    );
}

/// What a model can be asked for is what its positions are stretched to.
#[test]
fn contexts() {
    let context = |change: Value| opens(|f| f.config(change)).config.context_length;
    assert_eq!(context(json!({})), 64);
    assert_eq!(context(json!({"rope_scaling": {"type": "linear", "factor": 4.0}})), 256);
    assert_eq!(context(json!({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}})), 128);
    assert_eq!(context(json!({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}})), 64);
}

#[test]
fn configurations() {
    use ErrorKind::*;
    refuses(|f| f.remove("config.json"), Missing, &["config.json"]);
    refuses(|f| f.write("config.json", ""), Malformed, &["config.json", "is empty"]);
    refuses(|f| f.write("config.json", "[1]"), Malformed, &["config.json"]);
    refuses(
        |f| f.config(json!({"architectures": ["MambaForCausalLM"]})),
        Unsupported,
        &["architectures", "MambaForCausalLM", "supported: llama"],
    );
    refuses(|f| f.config(json!({"architectures": null, "model_type": null})), Missing, &["architectures"]);
    refuses(
        |f| f.config(json!({"quantization_config": {"quant_method": "awq"}})),
        Unsupported,
        &["quantization_config", "awq", "GGUF"],
    );
    refuses(|f| f.config(json!({"hidden_act": "gelu"})), Unsupported, &["hidden_act", "gelu"]);
    refuses(|f| f.config(json!({"num_hidden_layers": 1_000_000})), Mismatch, &["num_hidden_layers", "1000000"]);
    refuses(|f| f.config(json!({"num_hidden_layers": "two"})), Malformed, &["num_hidden_layers", "two"]);
    refuses(|f| f.config(json!({"num_hidden_layers": 3})), Missing, &["model.layers.2.", "incomplete download?"]);
    refuses(|f| f.config(json!({"hidden_size": 16})), Mismatch, &["shape [16, 8]", "[16, 16]"]);
    refuses(|f| f.config(json!({"num_attention_heads": 0})), Mismatch, &["num_attention_heads"]);
    refuses(|f| f.config(json!({"num_key_value_heads": 3})), Mismatch, &["num_key_value_heads"]);
    refuses(|f| f.config(json!({"attention_bias": true})), Missing, &["self_attn.q_proj.bias"]);
    refuses(|f| f.config(json!({"rms_norm_eps": 0})), Mismatch, &["rms_norm_eps"]);
    refuses(|f| f.edit("config.json", |config| drop(config.shift_remove("vocab_size"))), Missing, &["vocab_size"]);
}

#[test]
fn a_byte_order_mark_and_dos_line_ends_are_no_fault() {
    let model = opens(|f| {
        let pretty = serde_json::to_string_pretty(&config()).unwrap().replace('\n', "\r\n");
        f.write("config.json", format!("\u{feff}{pretty}"));
        let tokenizer = fs::read_to_string(f.file("tokenizer.json")).unwrap();
        f.write("tokenizer.json", format!("\u{feff}{tokenizer}"));
    });
    assert_eq!(model.config.hidden_size, 8);
}

#[test]
fn tokenizers_and_templates() {
    use ErrorKind::*;
    refuses(|f| f.remove("tokenizer.json"), Missing, &["tokenizer.json"]);
    refuses(|f| f.write("tokenizer.json", "{\"added_tokens\": ["), Malformed, &["tokenizer.json"]);
    refuses(|f| f.write("tokenizer.json", "{}"), Malformed, &["tokenizer.json", "model"]);
    let template = |change: &dyn Fn(&Folder)| opens(change).text.chat_template;
    assert_eq!(template(&|_| {}).as_deref(), Some("in the json"));
    assert_eq!(
        template(&|f| f.write("chat_template.jinja", "a\r\nb")).as_deref(),
        Some("a\nb"),
        "the file counts before the JSON"
    );
    assert_eq!(template(&|f| f.edit("tokenizer_config.json", |json| drop(json.shift_remove("chat_template")))), None);
    let list =
        json!([{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}, {"name": "rag", "template": "r"}]);
    let text = opens(|f| f.edit("tokenizer_config.json", |json| drop(json.insert("chat_template".into(), list)))).text;
    assert_eq!((text.chat_template.as_deref(), text.tool_template.as_deref()), (Some("d"), Some("t")));
    refuses(
        |f| f.edit("tokenizer_config.json", |json| drop(json.insert("chat_template".into(), json!(1)))),
        Malformed,
        &["chat_template"],
    );
    refuses(|f| f.write("chat_template.jinja", b"\xff\xfe"), Malformed, &["chat_template.jinja", "UTF-8"]);
}

#[test]
fn ids_beyond_the_embedding_are_told() {
    let more = json!({"version": "1.0", "added_tokens": [{"id": 16, "content": "<pad>"}], "model": {"type": "BPE"}});
    let warnings = opens(|f| f.write("tokenizer.json", more.to_string())).warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("\"<pad>\" has id 16"), "{warnings:?}");
    let warnings = opens(|f| f.write("generation_config.json", json!({"eos_token_id": [2, 99]}).to_string())).warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("99"), "{warnings:?}");
}

/// `modules.json` and the pooling's own file, of sentence-transformers before version 6 and since.
fn modules(kinds: &[&str], pooling: Value) -> impl Fn(&Folder) {
    let modules: Vec<Value> = kinds.iter().map(|kind| json!({"path": "1_Pooling", "type": kind})).collect();
    move |f| {
        f.write("modules.json", json!(modules).to_string());
        fs::create_dir(f.file("1_Pooling")).expect("test files");
        f.write("1_Pooling/config.json", pooling.to_string());
    }
}

const OLD: [&str; 3] = [
    "sentence_transformers.models.Transformer",
    "sentence_transformers.models.Pooling",
    "sentence_transformers.models.Normalize",
];
const NEW: [&str; 2] = [
    "sentence_transformers.base.modules.transformer.Transformer",
    "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
];

#[test]
fn ways_of_pooling() {
    let plain = opens(|_| {});
    assert_eq!((plain.pools, plain.pooling), (false, PoolingConfig::default()));
    for (kinds, file, pooling, normalise) in [
        (&OLD[..], json!({"pooling_mode_lasttoken": true, "pooling_mode_mean_tokens": false}), Pooling::Last, true),
        (&OLD[..2], json!({"word_embedding_dimension": 8, "pooling_mode_mean_tokens": true}), Pooling::Mean, false),
        (&NEW, json!({"pooling_mode": "cls", "include_prompt": true}), Pooling::Cls, false),
    ] {
        let model = opens(modules(kinds, file));
        assert!(model.pools && model.config.head, "its head is there");
        assert_eq!((model.pooling.pooling, model.pooling.normalise), (pooling, normalise));
        let without = model.without_head();
        assert!(!without.config.head && without.tensors.get("lm_head.weight").is_none());
    }
    let sizes = |change: Value| opens(|f| f.config(change)).pooling.matryoshka;
    assert_eq!(sizes(json!({"is_matryoshka": true})), Matryoshka::Any);
    assert_eq!(sizes(json!({"matryoshka_dimensions": [4, 8]})), Matryoshka::Sizes(vec![4, 8]));
    use ErrorKind::*;
    refuses(modules(&OLD, json!({"pooling_mode_max_tokens": true})), Unsupported, &["pooling_mode", "max_tokens", "lasttoken"]);
    let both = json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true});
    refuses(modules(&OLD, both), Unsupported, &["pooling_mode", "2 ways"]);
    refuses(modules(&OLD, json!({})), Unsupported, &["pooling_mode", "0 ways"]);
    let dense = ["sentence_transformers.models.Transformer", "sentence_transformers.models.Dense"];
    refuses(modules(&dense, json!({})), Unsupported, &["modules.json", "models.Dense"]);
    let outside = json!([{"path": "../1_Pooling", "type": OLD[1]}]);
    refuses(|f| f.write("modules.json", outside.to_string()), Malformed, &["modules.json", "../1_Pooling"]);
    refuses(|f| f.write("modules.json", json!([{"path": "1_Pooling", "type": OLD[1]}]).to_string()), Missing, &["1_Pooling"]);
}

/// A body that was saved alone has no head, and its tensors lack what stands before those of a whole model.
#[test]
fn a_body_alone() {
    let body = |f: &Folder| {
        f.config(json!({"architectures": ["LlamaModel"]}));
        f.with_tensors(|tensors| {
            tensors.remove("lm_head.weight");
            let all = std::mem::take(tensors).into_iter();
            tensors.extend(all.map(|(name, shape)| (name.trim_start_matches("model.").to_owned(), shape)));
        });
    };
    let model = opens(body);
    assert!(model.pools && !model.config.head && model.warnings.is_empty(), "{:?}", model.warnings);
    assert_eq!(model.tensors.by_name.len(), 20);
    assert!(model.tensors.get("model.layers.1.self_attn.q_proj.weight").is_some());
    refuses(|f| f.config(json!({"architectures": ["BertModel"]})), ErrorKind::Unsupported, &["BertModel", "supported: llama"]);
}
