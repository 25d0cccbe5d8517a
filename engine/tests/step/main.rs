//! The engine through its public doors, over the fake device: by hand, by chance, and as a thread.

mod cases;
mod property;
mod thread;
mod world;
