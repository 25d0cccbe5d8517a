//! What is told to the schedulers, and when: pure of the wire, so that a test can drive it with a clock of its own.

pub mod blocks;
pub mod state;
