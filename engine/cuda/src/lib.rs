//! All of the engine's GPU unsafe; implements engine::backend.
