//! The one table of architectures: a line each, made of groups of tensors that several share.

use super::{Architecture, Bias, Defaults, Experts, HEAD, Tensor, Windowed};
use crate::config::{ModelConfig, RopePairing};

/// All architectures that the engine runs. Defaults are those of transformers 5.24.
#[rustfmt::skip]
pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture { output_bias: Bias::Configured, qkv_bias: Bias::Configured, gguf_pairing: RopePairing::Adjacent,
        tensors: &[ENDS, ATTENTION, QKV_BIASES, OUTPUT_BIAS, FEED_FORWARD_NORM, MLP, MLP_BIASES], ..PLAIN },
    Architecture { model_type: "mistral", class: "MistralForCausalLM", windowed: Windowed::All,
        tensors: &[ENDS, ATTENTION, FEED_FORWARD_NORM, MLP], ..PLAIN },
    Architecture { name: "qwen2", model_type: "qwen2", class: "Qwen2ForCausalLM", gguf: ("qwen2", Experts::None),
        qkv_bias: Bias::Always, windowed: Windowed::LateIfUsed,
        tensors: &[ENDS, ATTENTION, QKV_BIASES, FEED_FORWARD_NORM, MLP], ..PLAIN },
    Architecture { name: "qwen3", model_type: "qwen3", class: "Qwen3ForCausalLM", gguf: ("qwen3", Experts::None),
        defaults: Defaults { head_dim: Some(128), ..PLAIN.defaults }, qkv_bias: Bias::Configured, output_bias: Bias::Configured, windowed: Windowed::LateIfUsed,
        tensors: &[ENDS, ATTENTION, QKV_BIASES, OUTPUT_BIAS, QK_NORMS, FEED_FORWARD_NORM, MLP], ..PLAIN },
    Architecture { name: "qwen3_moe", model_type: "qwen3_moe", class: "Qwen3MoeForCausalLM", gguf: ("qwen3moe", Experts::Configured),
        qkv_bias: Bias::Configured, output_bias: Bias::Configured, windowed: Windowed::AllIfUsed,
        tensors: &[ENDS, ATTENTION, QKV_BIASES, OUTPUT_BIAS, QK_NORMS, FEED_FORWARD_NORM, MLP, QWEN_EXPERTS], ..PLAIN },
    Architecture { name: "mixtral", model_type: "mixtral", class: "MixtralForCausalLM", gguf: ("llama", Experts::Everywhere),
        defaults: Defaults { rms_norm_eps: 1e-5, rope_theta: 1e6, ..PLAIN.defaults }, windowed: Windowed::All, gguf_pairing: RopePairing::Adjacent,
        tensors: &[ENDS, ATTENTION, FEED_FORWARD_NORM, MIXTRAL_EXPERTS], ..PLAIN },
    Architecture { name: "gemma3", model_type: "gemma3_text", class: "Gemma3ForCausalLM", gguf: ("gemma3", Experts::None),
        defaults: Defaults { tied: true, head_dim: Some(256), rope_theta: 1e6, ..PLAIN.defaults }, qkv_bias: Bias::Configured, output_bias: Bias::Configured,
        windowed: Windowed::AllButEachSixth, activation: "gelu_pytorch_tanh", gemma: true,
        tensors: &[ENDS, ATTENTION, QKV_BIASES, OUTPUT_BIAS, QK_NORMS, GEMMA_NORMS, MLP], ..PLAIN },
];

/// Llama without what is its own alone.
#[rustfmt::skip]
const PLAIN: Architecture = Architecture {
    name: "llama", model_type: "llama", class: "LlamaForCausalLM", gguf: ("llama", Experts::None),
    defaults: Defaults { tied: false, head_dim: None, rms_norm_eps: 1e-6, rope_theta: 10_000.0 },
    qkv_bias: Bias::Never, output_bias: Bias::Never, windowed: Windowed::Never, activation: "silu", gguf_pairing: RopePairing::Halves, gemma: false,
    tensors: &[],
};

const fn always(_: &ModelConfig, _: usize) -> bool {
    true
}

fn qkv_bias(config: &ModelConfig, _: usize) -> bool {
    config.qkv_bias
}

fn output_bias(config: &ModelConfig, _: usize) -> bool {
    config.output_bias
}

fn dense(config: &ModelConfig, layer: usize) -> bool {
    !sparse(config, layer)
}

fn dense_bias(config: &ModelConfig, layer: usize) -> bool {
    config.mlp_bias && dense(config, layer)
}

fn sparse(config: &ModelConfig, layer: usize) -> bool {
    config.experts.as_ref().is_some_and(|experts| experts.layers.get(layer) == Some(&true))
}

fn expert_rows(config: &ModelConfig) -> usize {
    config.experts.as_ref().map_or(0, |experts| experts.intermediate_size)
}

fn experts(config: &ModelConfig) -> usize {
    config.experts.as_ref().map_or(0, |experts| experts.count)
}

#[rustfmt::skip]
const ENDS: &[Tensor] = &[
    Tensor { name: "model.embed_tokens.weight", gguf: "token_embd.weight", shape: |c| vec![c.vocab_size, c.hidden_size], wanted: always },
    Tensor { name: "model.norm.weight", gguf: "output_norm.weight", shape: |c| vec![c.hidden_size], wanted: always },
    Tensor { name: HEAD, gguf: "output.weight", shape: |c| vec![c.vocab_size, c.hidden_size], wanted: |c, _| c.head && !c.tie_word_embeddings },
];

#[rustfmt::skip]
const ATTENTION: &[Tensor] = &[
    Tensor { name: "model.layers.{}.input_layernorm.weight", gguf: "blk.{}.attn_norm.weight", shape: |c| vec![c.hidden_size], wanted: always },
    Tensor { name: "model.layers.{}.self_attn.q_proj.weight", gguf: "blk.{}.attn_q.weight", shape: |c| vec![c.heads * c.head_dim, c.hidden_size], wanted: always },
    Tensor { name: "model.layers.{}.self_attn.k_proj.weight", gguf: "blk.{}.attn_k.weight", shape: |c| vec![c.kv_heads * c.head_dim, c.hidden_size], wanted: always },
    Tensor { name: "model.layers.{}.self_attn.v_proj.weight", gguf: "blk.{}.attn_v.weight", shape: |c| vec![c.kv_heads * c.head_dim, c.hidden_size], wanted: always },
    Tensor { name: "model.layers.{}.self_attn.o_proj.weight", gguf: "blk.{}.attn_output.weight", shape: |c| vec![c.hidden_size, c.heads * c.head_dim], wanted: always },
];

#[rustfmt::skip]
const QKV_BIASES: &[Tensor] = &[
    Tensor { name: "model.layers.{}.self_attn.q_proj.bias", gguf: "blk.{}.attn_q.bias", shape: |c| vec![c.heads * c.head_dim], wanted: qkv_bias },
    Tensor { name: "model.layers.{}.self_attn.k_proj.bias", gguf: "blk.{}.attn_k.bias", shape: |c| vec![c.kv_heads * c.head_dim], wanted: qkv_bias },
    Tensor { name: "model.layers.{}.self_attn.v_proj.bias", gguf: "blk.{}.attn_v.bias", shape: |c| vec![c.kv_heads * c.head_dim], wanted: qkv_bias },
];

#[rustfmt::skip]
const OUTPUT_BIAS: &[Tensor] = &[
    Tensor { name: "model.layers.{}.self_attn.o_proj.bias", gguf: "blk.{}.attn_output.bias", shape: |c| vec![c.hidden_size], wanted: output_bias },
];

#[rustfmt::skip]
const QK_NORMS: &[Tensor] = &[
    Tensor { name: "model.layers.{}.self_attn.q_norm.weight", gguf: "blk.{}.attn_q_norm.weight", shape: |c| vec![c.head_dim], wanted: always },
    Tensor { name: "model.layers.{}.self_attn.k_norm.weight", gguf: "blk.{}.attn_k_norm.weight", shape: |c| vec![c.head_dim], wanted: always },
];

#[rustfmt::skip]
const FEED_FORWARD_NORM: &[Tensor] = &[
    Tensor { name: "model.layers.{}.post_attention_layernorm.weight", gguf: "blk.{}.ffn_norm.weight", shape: |c| vec![c.hidden_size], wanted: always },
];

#[rustfmt::skip]
const GEMMA_NORMS: &[Tensor] = &[
    Tensor { name: "model.layers.{}.post_attention_layernorm.weight", gguf: "blk.{}.post_attention_norm.weight", shape: |c| vec![c.hidden_size], wanted: always },
    Tensor { name: "model.layers.{}.pre_feedforward_layernorm.weight", gguf: "blk.{}.ffn_norm.weight", shape: |c| vec![c.hidden_size], wanted: always },
    Tensor { name: "model.layers.{}.post_feedforward_layernorm.weight", gguf: "blk.{}.post_ffw_norm.weight", shape: |c| vec![c.hidden_size], wanted: always },
];

#[rustfmt::skip]
const MLP: &[Tensor] = &[
    Tensor { name: "model.layers.{}.mlp.gate_proj.weight", gguf: "blk.{}.ffn_gate.weight", shape: |c| vec![c.intermediate_size, c.hidden_size], wanted: dense },
    Tensor { name: "model.layers.{}.mlp.up_proj.weight", gguf: "blk.{}.ffn_up.weight", shape: |c| vec![c.intermediate_size, c.hidden_size], wanted: dense },
    Tensor { name: "model.layers.{}.mlp.down_proj.weight", gguf: "blk.{}.ffn_down.weight", shape: |c| vec![c.hidden_size, c.intermediate_size], wanted: dense },
];

#[rustfmt::skip]
const MLP_BIASES: &[Tensor] = &[
    Tensor { name: "model.layers.{}.mlp.gate_proj.bias", gguf: "blk.{}.ffn_gate.bias", shape: |c| vec![c.intermediate_size], wanted: dense_bias },
    Tensor { name: "model.layers.{}.mlp.up_proj.bias", gguf: "blk.{}.ffn_up.bias", shape: |c| vec![c.intermediate_size], wanted: dense_bias },
    Tensor { name: "model.layers.{}.mlp.down_proj.bias", gguf: "blk.{}.ffn_down.bias", shape: |c| vec![c.hidden_size], wanted: dense_bias },
];

#[rustfmt::skip]
const QWEN_EXPERTS: &[Tensor] = &[
    Tensor { name: "model.layers.{}.mlp.gate.weight", gguf: "blk.{}.ffn_gate_inp.weight", shape: |c| vec![experts(c), c.hidden_size], wanted: sparse },
    Tensor { name: "model.layers.{}.mlp.experts.{e}.gate_proj.weight", gguf: "blk.{}.ffn_gate_exps.weight", shape: |c| vec![expert_rows(c), c.hidden_size], wanted: sparse },
    Tensor { name: "model.layers.{}.mlp.experts.{e}.up_proj.weight", gguf: "blk.{}.ffn_up_exps.weight", shape: |c| vec![expert_rows(c), c.hidden_size], wanted: sparse },
    Tensor { name: "model.layers.{}.mlp.experts.{e}.down_proj.weight", gguf: "blk.{}.ffn_down_exps.weight", shape: |c| vec![c.hidden_size, expert_rows(c)], wanted: sparse },
];

#[rustfmt::skip]
const MIXTRAL_EXPERTS: &[Tensor] = &[
    Tensor { name: "model.layers.{}.block_sparse_moe.gate.weight", gguf: "blk.{}.ffn_gate_inp.weight", shape: |c| vec![experts(c), c.hidden_size], wanted: sparse },
    Tensor { name: "model.layers.{}.block_sparse_moe.experts.{e}.w1.weight", gguf: "blk.{}.ffn_gate_exps.weight", shape: |c| vec![expert_rows(c), c.hidden_size], wanted: sparse },
    Tensor { name: "model.layers.{}.block_sparse_moe.experts.{e}.w3.weight", gguf: "blk.{}.ffn_up_exps.weight", shape: |c| vec![expert_rows(c), c.hidden_size], wanted: sparse },
    Tensor { name: "model.layers.{}.block_sparse_moe.experts.{e}.w2.weight", gguf: "blk.{}.ffn_down_exps.weight", shape: |c| vec![c.hidden_size, expert_rows(c)], wanted: sparse },
];
