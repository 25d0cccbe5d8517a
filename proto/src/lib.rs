//! The wire: trackside.v1 gRPC, OpenAI bodies, the engine's own state bodies; conversions, no logic.
#![forbid(unsafe_code)]
