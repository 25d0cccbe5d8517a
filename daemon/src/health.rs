//! Facts → verdict: what is seen of each GPU, judged by one table of rules, held steady, and told to schedulers and supervisors.
//!
//! [`rules`] is the table and is pure. [`hold`] keeps a finding from flickering: it rises after it was true for a while, and falls only when it
//! has been untrue for long, or, where a repair is needed, on evidence of one. [`monitor`] is the loop around both.
//!
//! A verdict moves work; it ends nothing. Without facts there is no verdict, and routing is as good as without an agent.

pub mod hold;
pub mod monitor;
pub mod rules;
pub mod store;

pub use self::hold::{Judgement, Memory};
pub use self::monitor::{Monitor, Settings};
