//! The node agent: starts and watches engines, senses the node, reports to every scheduler.
#![forbid(unsafe_code)]
