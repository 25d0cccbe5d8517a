//! The engine through its public doors, over the fake device: by hand, by chance, and as a thread.
#![expect(clippy::unwrap_used, reason = "a test whose own scaffolding breaks has failed")]

mod cases;
mod disk;
mod oracle;
mod pause;
mod pooling;
mod property;
mod thread;
mod tiers;
mod world;
