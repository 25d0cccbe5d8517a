//! Where wire types live: to the schedulers (`control`), from native engines (`engine`), to operators and Prometheus (`admin`).

pub mod admin;
pub mod control;
pub mod engine;
