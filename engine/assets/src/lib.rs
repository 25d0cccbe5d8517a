//! Finds a model and parses its headers: config, safetensors, GGUF, tokenizer and template bytes; no tensors.
#![forbid(unsafe_code)]
