//! The form of a reply that calls tools.

use engine_text::tools::Envelope;
use serde_json::{Map, Value, json};

use super::spec::{Form, Spec, SpecError, check_schema};
use super::structural::{Often, Part, Tag};

impl Spec {
    /// The form of a reply that must be a call of one of `tools`: a list of `{"name", "parameters"}`, as vLLM makes it.
    pub fn of_required_tools(tools: &[Value], parallel: bool) -> Result<Self, SpecError> {
        let mut calls = Vec::with_capacity(tools.len());
        let mut definitions = Map::new();
        for (index, tool) in tools.iter().enumerate() {
            let (name, mut parameters) = function(tool, &format!("tools[{index}]"))?;
            // What a schema defines for itself is found from the root.
            if let Some(Value::Object(own)) = parameters.as_object_mut().and_then(|schema| schema.remove("$defs")) {
                for (key, definition) in own {
                    if definitions.get(&key).is_some_and(|known| *known != definition) {
                        let what = format!("two tools define {key:?} under `$defs`, and not alike");
                        return Err(SpecError::new(format!("tools[{index}].function.parameters"), what));
                    }
                    definitions.insert(key, definition);
                }
            }
            calls.push(json!({
                "type": "object",
                "properties": {"name": {"const": name}, "parameters": parameters},
                "required": ["name", "parameters"],
                "additionalProperties": false,
            }));
        }
        if calls.is_empty() {
            return Err(SpecError::new("tools", "a call is required, and there is no tool to call"));
        }
        let mut schema = json!({"type": "array", "minItems": 1, "items": {"anyOf": calls}});
        if !parallel {
            schema["maxItems"] = 1.into();
        }
        if !definitions.is_empty() {
            schema["$defs"] = Value::Object(definitions);
        }
        check_schema("tools", &schema)?;
        Ok(Self::any("tools", Form::Json(schema)))
    }

    /// The form of a reply that is the arguments of the function `name`.
    pub fn of_named_tool(tools: &[Value], name: &str) -> Result<Self, SpecError> {
        for (index, tool) in tools.iter().enumerate() {
            let (known, parameters) = function(tool, &format!("tools[{index}]"))?;
            if known == name {
                check_schema("tools", &parameters)?;
                return Ok(Self::any("tools", Form::Json(parameters)));
            }
        }
        Err(SpecError::new("tool_choice", format!("no tool is called {name:?}")))
    }

    /// The form of a reply that may call tools, where a tool is `strict` or one call is the most: free text, and calls whose arguments
    /// are bound, those of strict tools to their schemas. `None`: nothing is bound.
    pub fn of_auto_tools(tools: &[Value], parallel: bool, envelope: Envelope) -> Result<Option<Self>, SpecError> {
        let strict = |tool: &Value| tool.get("function").unwrap_or(tool)["strict"] == true;
        if parallel && !tools.iter().any(strict) {
            return Ok(None);
        }
        let tag = |(index, tool): (usize, &Value)| {
            let place = format!("tools[{index}]");
            let (name, mut schema) = function(tool, &place)?;
            if !strict(tool) {
                schema = json!({"type": "object"});
            }
            check_schema(&format!("{place}.function.parameters"), &schema)?;
            let begin = format!("{}{}{}", envelope.before, Value::from(name), envelope.between);
            Ok(Tag { begin, content: Part::Json(schema), ends: vec![envelope.behind.to_owned()] })
        };
        let tags = tools.iter().enumerate().map(tag).collect::<Result<Vec<_>, SpecError>>()?;
        let often = Often { at_least_one: false, stop_after_first: !parallel };
        Ok(Some(Self::any("tools", Form::Tags(Part::Triggered { triggers: vec![envelope.trigger.to_owned()], tags, often }))))
    }
}

/// A tool's name, and the schema of its parameters.
fn function(tool: &Value, place: &str) -> Result<(String, Value), SpecError> {
    let function = tool.get("function").unwrap_or(tool);
    let Some(name) = function.get("name").and_then(Value::as_str) else {
        return Err(SpecError::new(place, "has no function with a name"));
    };
    let parameters = match function.get("parameters") {
        None | Some(Value::Null) => json!({"type": "object", "properties": {}}),
        Some(schema @ Value::Object(fields)) if fields.is_empty() || fields.contains_key("type") => match fields.is_empty() {
            true => json!({"type": "object"}),
            false => schema.clone(),
        },
        Some(schema @ Value::Object(_)) => schema.clone(),
        Some(_) => return Err(SpecError::new(format!("{place}.function.parameters"), "is no JSON schema")),
    };
    Ok((name.to_owned(), parameters))
}
