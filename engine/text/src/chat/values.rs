//! JSON to template values, and the variables that a template sees.

use minijinja::value::Value as Jinja;
use serde_json::Value;

use super::messages;
use super::{ChatRequest, Templates};
use crate::error::TextError;

/// Variables that the request's own fields fill; `chat_template_kwargs` must not.
const RESERVED: [&str; 5] = ["messages", "tools", "documents", "add_generation_prompt", "continue_final_message"];

/// All variables of one rendering.
pub(super) fn variables(templates: &Templates, request: &ChatRequest<'_>) -> Result<Jinja, TextError> {
    let mut messages = messages::normalise(request.messages, templates.goes_through_parts(request))?;
    if request.continue_final_message {
        let last = request.messages.len() - 1;
        let place = format!("messages[{last}]");
        // What is null has no text; what is empty has one, and goes on from its beginning.
        if request.messages[last].get("content").is_none_or(Value::is_null) {
            return Err(TextError::request(place, "has no text to continue"));
        }
        super::mark_final_message(&mut messages, &place)?;
    }
    let list = |items: &[Value]| if items.is_empty() { Jinja::from(()) } else { items.iter().map(from_json).collect() };
    let mut variables: Vec<(&str, Jinja)> = templates.special_tokens().map(|(name, token)| (name, Jinja::from(token))).collect();
    variables.push(("messages", messages.iter().map(|message| from_json(message)).collect()));
    variables.push(("tools", list(request.tools)));
    variables.push(("documents", list(request.documents)));
    variables.push(("add_generation_prompt", Jinja::from(request.add_generation_prompt)));
    for (name, value) in templates.defaults()?.iter().chain(request.kwargs.into_iter().flatten()) {
        if RESERVED.contains(&name.as_str()) {
            return Err(TextError::request(
                format!("chat_template_kwargs.{name}"),
                "is a field of the request itself; set it there",
            ));
        }
        variables.push((name, from_json(value)));
    }
    variables.push(("strftime_now", super::template::strftime_now(request.now)));
    Ok(Jinja::from_pairs(variables))
}

fn from_json(value: &Value) -> Jinja {
    match value {
        Value::Null => Jinja::from(()),
        Value::Bool(flag) => Jinja::from(*flag),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => Jinja::from(number),
            (None, Some(number)) => Jinja::from(number),
            (None, None) => Jinja::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Jinja::from(text.as_str()),
        Value::Array(items) => items.iter().map(from_json).collect(),
        Value::Object(object) => Jinja::from_pairs(object.iter().map(|(key, value)| (key.as_str(), from_json(value)))),
    }
}
