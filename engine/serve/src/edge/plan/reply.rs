//! What a chat says of the form of its answer: tools, `tool_choice`, `response_format`, `structured_outputs`.

use engine_text::Text;
use engine_text::reasoning::Opening;
use engine_text::reply::{Reply, ReplyFormat};
use engine_text::tools;
use proto::openai::Request;
use serde_json::Value;

use super::Endpoint;
use crate::edge::answer::ApiError;
use crate::guide::{Spec, SpecError};

/// How the text of an answer is read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplyPlan {
    pub format: ReplyFormat,
    pub reads: Reads,
    /// The request's tools, whose schemas type what the model writes.
    pub tools: Vec<Value>,
    /// Whether the answer shows the thought.
    pub include_reasoning: bool,
    /// Most tokens of the thought. `None`: as many as the model likes.
    pub thought_tokens_max: Option<u32>,
}

/// What there may be to read.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Reads {
    /// Text as it is.
    #[default]
    Plain,
    /// Thoughts and calls.
    Parts,
    /// The arguments of this function.
    Named(String),
}

impl ReplyPlan {
    /// A reader of one choice. `opening` says where the prompt leaves the thought.
    pub fn reader(&self, opening: Opening) -> Option<Reply> {
        match &self.reads {
            Reads::Plain => None,
            Reads::Parts => Some(Reply::new(self.format, opening, &self.tools)),
            Reads::Named(name) => Some(Reply::named(self.format.reasoning, opening, name)),
        }
    }

    /// A new id of a call, as vLLM makes them.
    pub fn call_id(&self) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        match self.format.tools.is_some_and(|format| format.short_ids) {
            true => (0..9).map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())])).collect(),
            false => format!("chatcmpl-tool-{:032x}", rand::random::<u128>()),
        }
    }

    /// Whether special tokens must be seen for it.
    pub fn shows_special(&self, text: &Text) -> bool {
        let special = |marker: &str| text.token_id(marker).is_some_and(|id| text.is_special(id));
        let reads = self.reads != Reads::Plain;
        reads
            && (self.format.tools.is_some_and(|format| format.markers().any(special))
                || self.format.reasoning.is_some_and(|format| format.markers().any(special)))
    }
}

/// The form of the output, and how it is read.
pub(super) fn read(endpoint: Endpoint, request: &Request, model: ReplyFormat) -> Result<(Option<Spec>, ReplyPlan), ApiError> {
    let spec = Spec::of_request(request.response_format.as_ref(), request.structured_outputs.as_ref()).map_err(refused)?;
    let thought_tokens_max = thought_tokens_max(endpoint, request, model)?;
    if endpoint == Endpoint::Completion {
        return Ok((spec, ReplyPlan::default()));
    }
    let tools = request.tools.clone().unwrap_or_default();
    let mut plan = ReplyPlan {
        format: ReplyFormat { tools: None, ..model },
        include_reasoning: request.include_reasoning.unwrap_or(true),
        thought_tokens_max,
        ..ReplyPlan::default()
    };
    let spec = match request.tool_choice.as_ref().filter(|choice| !choice.is_null()) {
        Some(Value::String(choice)) if choice == "none" => spec,
        Some(Value::String(choice)) if choice == "required" => {
            plan.format.tools = Some(tools::REQUIRED);
            Some(Spec::of_required_tools(&tools, request.parallel_tool_calls.unwrap_or(true)).map_err(refused)?)
        }
        None => auto(request, model, &tools, spec, &mut plan)?,
        Some(Value::String(choice)) if choice == "auto" => auto(request, model, &tools, spec, &mut plan)?,
        Some(choice) => {
            let function = choice.get("function").unwrap_or(choice);
            let Some(name) = function.get("name").and_then(Value::as_str) else {
                let what = "`tool_choice` must be \"none\", \"auto\", \"required\" or name a function.";
                return Err(ApiError::parameter("tool_choice", what));
            };
            plan.reads = Reads::Named(name.to_owned());
            Some(Spec::of_named_tool(&tools, name).map_err(refused)?)
        }
    };
    if plan.reads == Reads::Plain && (plan.format.tools.is_some() || plan.format.reasoning.is_some()) {
        plan.reads = Reads::Parts;
    }
    plan.tools = tools;
    Ok((spec, plan))
}

/// The model calls what it likes. A form that the client gives goes before what its tools would bind.
fn auto(
    request: &Request,
    model: ReplyFormat,
    tools: &[Value],
    spec: Option<Spec>,
    plan: &mut ReplyPlan,
) -> Result<Option<Spec>, ApiError> {
    plan.format.tools = model.tools.filter(|_| !tools.is_empty());
    match (spec, plan.format.tools.and_then(|format| format.envelope)) {
        (None, Some(envelope)) => {
            Spec::of_auto_tools(tools, request.parallel_tool_calls.unwrap_or(true), envelope).map_err(refused)
        }
        (spec, _) => Ok(spec),
    }
}

/// The budget of the thought; -1 is none, as in vLLM.
fn thought_tokens_max(endpoint: Endpoint, request: &Request, model: ReplyFormat) -> Result<Option<u32>, ApiError> {
    const PARAM: &str = "thinking_token_budget";
    let Some(asked) = request.thinking_token_budget.as_ref().filter(|asked| !asked.is_null() && **asked != -1) else {
        return Ok(None);
    };
    let Some(tokens) = asked.as_u64() else {
        let shown: String = asked.to_string().chars().take(40).collect();
        let what = format!("`{PARAM}` is {shown}; it must be a whole number of at least 0, or -1 for no limit.");
        return Err(ApiError::parameter(PARAM, what));
    };
    if endpoint == Endpoint::Completion {
        return Err(ApiError::parameter(PARAM, format!("`{PARAM}` belongs to chats; in completions nothing tells a thought.")));
    }
    if model.reasoning.is_none() {
        let what = format!("`{PARAM}`: nothing says how this model marks its thought (--reasoning-parser).");
        return Err(ApiError::parameter(PARAM, what));
    }
    Ok(Some(u32::try_from(tokens).unwrap_or(u32::MAX)))
}

fn refused(error: SpecError) -> ApiError {
    let message = crate::edge::answer::sentence(&error);
    proto::openai::ErrorBody::new(400, message).naming(error.param).into()
}
