//! Structured outputs: what a request may be answered with, as a grammar, and the grammar as a mask over the vocabulary.
//!
//! ```text
//!   request ──▶ Spec (pure: one of six kinds, checked) ──▶ Grammar (llguidance's terms)
//!           ──▶ Guides::compile (own thread, bounded, cached) ──▶ Compiled ──▶ Guide (engine::sample::LogitMask)
//! ```
//! The grammar engine is crate `llguidance`, which vLLM 0.33 offers as its `guidance` backend. The mask of the next token is computed
//! on a thread of [`workers`] beside the forward pass. Every step has a limit: the request's text, its nesting, the time to compile, the
//! work for one mask, the memory of all compiled grammars. What exceeds one fails alone: a 400 before the first token, an
//! error of this request after it.

mod budget;
mod cache;
mod calls;
mod compile;
mod gbnf;
mod grammar;
mod lark;
mod mask;
mod spec;
mod structural;
mod vocabulary;
mod workers;

pub(crate) use budget::Budget;
pub use compile::Guides;
pub(crate) use compile::{Compiled, NotCompiled};
pub use mask::Guide;
pub use spec::Spec;
pub(crate) use spec::SpecError;
