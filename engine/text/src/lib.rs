//! Tokenizer, chat template and incremental detokenizer, shared by engine, gateway and scheduler.
#![forbid(unsafe_code)]
