//! Everything that needs more than one crate; `support` is the library, each suite a binary.
#![forbid(unsafe_code)]
