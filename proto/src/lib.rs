//! The wire: `trackside.v1` gRPC, OpenAI bodies, the engine's own state bodies; conversions to and from the nouns of `domain`.
//!
//! No logic. Only the `edge` modules of the daemon, the scheduler and the engine's edge use what is here.
#![forbid(unsafe_code)]

pub mod anthropic;
pub mod convert;
pub mod limit;
pub mod openai;
pub mod state;

/// Generated from `trackside/v1/node.proto`.
pub mod v1 {
    #![expect(clippy::allow_attributes_without_reason, reason = "generated code")]
    tonic::include_proto!("trackside.v1");
}
