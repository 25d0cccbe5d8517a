//! The fake device: deterministic tokens at a scripted speed, settled late.
