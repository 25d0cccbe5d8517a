//! What `engine_assets::open` makes of models: good ones, broken ones and hostile ones, through the public door only.
#![forbid(unsafe_code)]

mod adapters;
mod configuration;
mod fixtures;
mod folder;
mod gguf;
mod gguf_faults;
mod mutations;
mod split;
mod upload;
