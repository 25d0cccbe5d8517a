//! Room for templates that nest deeply, so that no template can overflow the stack of a thread that serves others.
//!
//! minijinja 3.1 bounds the nesting of blocks and parentheses, but not of operators (`- - - 1`), of `elif` chains, or of values
//! (`{% set ns.x = [ns.x] %}`), and parses, compares and drops what is nested by recursion. An overflow aborts the process. What
//! can nest is therefore bounded by its cost (fuel, bytes of source), and given a stack on which all that it can buy fits.

use std::thread;

use crate::error::TextError;

/// The largest template that is compiled. One byte buys at most one level of syntax, of less than 640 bytes of stack each
/// (measured in an unoptimised build).
pub(super) const MAX_TEMPLATE_BYTES: usize = 256 << 10;
/// What one rendering may spend: one per instruction, and one per 64 bytes made, so that it also bounds memory to 128 MB. A level
/// of nested values costs 9, and less than 640 bytes of stack. A chat of 8,192 messages needs about half.
pub(super) const FUEL: u64 = 2_000_000;
/// Fuel whose worst nesting fits into what any thread has left, about 0.9 MB. Most chats need no more, and then no thread is started.
pub(super) const SHALLOW_FUEL: u64 = 12_000;
/// More than both, 640 × 262,144 and 640 × 222,222 bytes, can need. It is reserved, not used: pages that nothing touches cost nothing.
const STACK_BYTES: usize = 256 << 20;

/// Runs `work` on a thread of its own with a deep stack, and waits for it.
pub(super) fn on_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, TextError> {
    thread::scope(|scope| {
        let spawned = thread::Builder::new().name("chat-template".to_owned()).stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let thread = spawned.map_err(|error| TextError::Template(format!("no thread to render it on: {error}")))?;
        thread.join().map_err(|_| TextError::Template("rendering it panicked".to_owned()))
    })
}
