//! The `trackside` binary: parses, composes, calls the rest.
#![forbid(unsafe_code)]
