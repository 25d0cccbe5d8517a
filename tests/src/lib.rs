//! What the suites share: the tree's root, processes that end with their test, HTTP without ceremony, waiting for a condition.
#![forbid(unsafe_code)]

pub mod http;
pub mod ledger;
pub mod process;
pub mod tree;
