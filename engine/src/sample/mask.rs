//! Structured output: what a grammar lets through, as a mask over the vocabulary.

/// Rules out tokens of one request, above all those that a grammar does not allow next.
///
/// ```text
///   begin ──▶ (a worker thread computes, beside the forward pass) ──▶ join ──▶ sampling ──▶ accept ──▶ begin …
/// ```
/// A mask is never taken back: only tokens that were sampled are accepted, also where drafts are verified. Drafts are looked ahead at
/// with [`foresee`](Self::foresee), by whoever can.
///
/// Called by one thread at a time. A method that panics fails its own request alone.
pub trait LogitMask: Send {
    /// Begins to compute the mask of the next token, and does not wait for it: that is the work of a thread that the implementor owns.
    /// Called once before the first token, and once after each accepted one that is not the last.
    fn begin(&mut self);

    /// Says what `drafts`, the tokens that may come next, could be under the mask: how many of them, from the first on, it lets
    /// through. An implementor that can copy its state also begins to compute the masks behind them; one that cannot leaves it
    /// at this default, and the masks behind drafts are computed when sampling gets there.
    fn foresee(&mut self, drafts: &[u32]) -> usize {
        drafts.len()
    }

    /// Waits for what was begun: the mask of the next token. Bit `token % 32` of word `token / 32` is set where a token is allowed;
    /// tokens behind the last word are not.
    fn join(&mut self) -> Result<&[u32], MaskError>;

    /// `token`, which the mask let through, was sampled.
    fn accept(&mut self, token: u32) -> Result<Accepted, MaskError>;
}

/// What may come behind an accepted token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    More,
    /// Nothing: the output is complete, and the request ends as at an end-of-sequence id.
    Ended,
}

/// Why there is no mask; the request fails with these words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("structured output: {0}")]
pub struct MaskError(pub String);
