//! The engine's edge through real HTTP and ZMQ, over the fake backend and over tiny models on the CPU.

mod adapters;
mod admin;
mod choices;
mod client;
mod contract;
mod corpus;
mod errors;
mod events;
mod forms;
mod headers;
mod inference;
mod life;
mod logprobs;
mod messages;
mod metrics;
mod parsers;
mod replies;
mod responses;
mod sampling;
mod script;
mod server;
mod state;
mod stops;
mod structured;
mod tokens;
mod transcripts;
