//! What is asked of the fleet, reduced to what the decision needs.

use std::sync::Arc;

use crate::block::ExtraKeys;
use crate::id::ModelId;

/// One inference request as the scheduler sees it: independent of HTTP, so that gateway and ext-proc ask the same question.
#[derive(Clone, Debug)]
pub struct Ask {
    pub model: ModelId,
    /// Prompt as the engine will run it. Empty where it could not be tokenised: routing then goes by load alone.
    pub tokens: Arc<[u32]>,
    pub extra: ExtraKeys,
    /// Upper bound of tokens to generate, where the client gave one.
    pub tokens_max: Option<u32>,
}
