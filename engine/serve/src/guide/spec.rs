//! What a request says of its output's form: `response_format`, `structured_outputs` or `tool_choice`, as one checked noun.

use serde_json::{Value, json};

use super::structural::{self, Part};

/// Longest text of one form, in bytes: a schema, a grammar, a regular expression, all choices together.
const TEXT_BYTES_MAX: usize = 256 << 10;
/// Longest regular expression, in bytes.
const REGEX_BYTES_MAX: usize = 16 << 10;
/// Deepest nesting of a schema, and of brackets in a grammar or a regular expression.
const DEPTH_MAX: usize = 64;
/// Most choices.
const CHOICES_MAX: usize = 4096;

/// The form of an output.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    pub form: Form,
    /// White space between JSON's tokens; only where the form is JSON.
    pub space: Space,
    /// The parameter that asked, to name where the form turns out to be impossible.
    pub param: &'static str,
}

/// Exactly one of these.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    /// A JSON schema.
    Json(Value),
    Regex(String),
    Choice(Vec<String>),
    /// A grammar in llguidance's Lark dialect, or in GBNF.
    Grammar(String),
    /// Free text with tags in it.
    Tags(Part),
}

/// White space in JSON.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Space {
    /// As the model likes.
    #[default]
    Any,
    None,
    /// What matches this expression.
    Pattern(String),
}

/// What is wrong with a form, in which parameter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{param}`: {what}")]
pub struct SpecError {
    /// Such as `structured_outputs.regex`.
    pub param: String,
    pub what: String,
}

impl SpecError {
    pub fn new(param: impl Into<String>, what: impl Into<String>) -> Self {
        Self { param: param.into(), what: what.into() }
    }
}

impl Spec {
    pub(super) fn any(param: &'static str, form: Form) -> Self {
        Self { form, space: Space::Any, param }
    }

    /// The form that a request asks for, if it does. `response_format` and `structured_outputs` exclude each other.
    pub fn of_request(response_format: Option<&Value>, structured_outputs: Option<&Value>) -> Result<Option<Self>, SpecError> {
        let by_format = response_format.filter(|format| !format.is_null()).map(of_response_format).transpose()?.flatten();
        let by_outputs = structured_outputs.filter(|outputs| !outputs.is_null()).map(of_structured_outputs).transpose()?;
        match (by_format, by_outputs) {
            (Some(_), Some(_)) => {
                Err(SpecError::new("structured_outputs", "`response_format` says what to write already; leave one of them out"))
            }
            (spec, None) | (None, spec) => Ok(spec),
        }
    }
}

fn of_response_format(format: &Value) -> Result<Option<Spec>, SpecError> {
    const PARAM: &str = "response_format";
    let kind = format.get("type").and_then(Value::as_str).unwrap_or_default();
    let form = match kind {
        "text" => return Ok(None),
        "json_object" => Form::Json(json!({"type": "object"})),
        "json_schema" => {
            let schema = format.get("json_schema").and_then(|json_schema| json_schema.get("schema"));
            Form::Json(schema_of(&format!("{PARAM}.json_schema.schema"), schema.unwrap_or(&Value::Null))?)
        }
        "structural_tag" => Form::Tags(structural::read(PARAM, format)?),
        _ => {
            let what = "must be \"text\", \"json_object\", \"json_schema\" or \"structural_tag\"";
            return Err(SpecError::new(format!("{PARAM}.type"), what));
        }
    };
    Ok(Some(Spec::any(PARAM, form)))
}

/// The forms of `structured_outputs`, and the parameter that asks for each.
const OUTPUTS: [(&str, &str); 6] = [
    ("json", "structured_outputs.json"),
    ("regex", "structured_outputs.regex"),
    ("choice", "structured_outputs.choice"),
    ("grammar", "structured_outputs.grammar"),
    ("json_object", "structured_outputs.json_object"),
    ("structural_tag", "structured_outputs.structural_tag"),
];

fn of_structured_outputs(outputs: &Value) -> Result<Spec, SpecError> {
    const PARAM: &str = "structured_outputs";
    let Value::Object(fields) = outputs else { return Err(SpecError::new(PARAM, "is not an object")) };
    let asks = |(kind, _): &&(&str, &str)| match fields.get(*kind) {
        None | Some(Value::Null) => false,
        Some(value) => *kind != "json_object" || *value == Value::Bool(true),
    };
    let asked: Vec<(&str, &'static str)> = OUTPUTS.iter().filter(asks).copied().collect();
    let [(kind, param)] = asked[..] else {
        let names = |of: &[(&str, &str)], between: &str| of.iter().map(|(kind, _)| *kind).collect::<Vec<_>>().join(between);
        let got = if asked.is_empty() { "none of them".to_owned() } else { names(&asked, " and ") };
        return Err(SpecError::new(PARAM, format!("must hold exactly one of {}, and holds {got}", names(&OUTPUTS, ", "))));
    };
    let value = &fields[kind];
    let form = match kind {
        "json" => Form::Json(schema_of(param, value)?),
        "json_object" => Form::Json(json!({"type": "object"})),
        "regex" => Form::Regex(regex(param, value)?),
        "choice" => Form::Choice(choices(param, value)?),
        "grammar" => Form::Grammar(text(param, value, TEXT_BYTES_MAX)?),
        _ => Form::Tags(structural::read(param, &parsed(param, value)?)?),
    };
    let space = match (fields.get("disable_any_whitespace"), fields.get("whitespace_pattern")) {
        (_, Some(pattern @ Value::String(_))) => Space::Pattern(regex(&format!("{PARAM}.whitespace_pattern"), pattern)?),
        (Some(Value::Bool(true)), _) => Space::None,
        _ => Space::Any,
    };
    Ok(Spec { form, space, param })
}

fn text(param: &str, value: &Value, bytes_max: usize) -> Result<String, SpecError> {
    let Some(text) = value.as_str() else { return Err(SpecError::new(param, "is not a string")) };
    if text.is_empty() {
        return Err(SpecError::new(param, "is empty"));
    }
    if text.len() > bytes_max {
        return Err(SpecError::new(param, format!("has {} bytes; at most {bytes_max} are possible", text.len())));
    }
    let (mut depth, mut deepest) = (0usize, 0usize);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > DEPTH_MAX {
        return Err(SpecError::new(param, format!("nests {deepest} brackets; at most {DEPTH_MAX} are possible")));
    }
    Ok(text.to_owned())
}

pub(super) fn regex(param: &str, value: &Value) -> Result<String, SpecError> {
    let text = text(param, value, REGEX_BYTES_MAX)?;
    // Anchors say what is so in any case: the whole output matches.
    let text = text.strip_prefix('^').unwrap_or(&text);
    let text = text.strip_suffix('$').filter(|text| !text.ends_with('\\')).unwrap_or(text);
    Ok(text.to_owned())
}

fn choices(param: &str, value: &Value) -> Result<Vec<String>, SpecError> {
    let choices = value.as_array().filter(|choices| !choices.is_empty());
    let Some(choices) = choices else { return Err(SpecError::new(param, "is not a list of at least one string")) };
    if choices.len() > CHOICES_MAX {
        return Err(SpecError::new(param, format!("has {} items; at most {CHOICES_MAX} are possible", choices.len())));
    }
    let mut bytes = 0;
    let choice = |(index, choice): (usize, &Value)| {
        let Some(text) = choice.as_str().filter(|text| !text.is_empty()) else {
            return Err(SpecError::new(format!("{param}[{index}]"), "is not a string of at least one character"));
        };
        bytes += text.len();
        if bytes > TEXT_BYTES_MAX {
            return Err(SpecError::new(param, format!("has more than {TEXT_BYTES_MAX} bytes")));
        }
        Ok(text.to_owned())
    };
    choices.iter().enumerate().map(choice).collect()
}

/// Some clients send JSON in a string.
fn parsed(param: &str, value: &Value) -> Result<Value, SpecError> {
    match value {
        Value::String(text) if text.len() > TEXT_BYTES_MAX => {
            Err(SpecError::new(param, format!("has {} bytes; at most {TEXT_BYTES_MAX} are possible", text.len())))
        }
        Value::String(text) => serde_json::from_str(text).map_err(|error| SpecError::new(param, format!("is no JSON: {error}"))),
        other => Ok(other.clone()),
    }
}

fn schema_of(param: &str, value: &Value) -> Result<Value, SpecError> {
    let schema = parsed(param, value)?;
    check_schema(param, &schema)?;
    Ok(schema)
}

pub(super) fn check_schema(param: &str, schema: &Value) -> Result<(), SpecError> {
    if !matches!(schema, Value::Object(_) | Value::Bool(_)) {
        return Err(SpecError::new(param, "is no JSON schema"));
    }
    let bytes = schema.to_string().len();
    if bytes > TEXT_BYTES_MAX {
        return Err(SpecError::new(param, format!("has {bytes} bytes; at most {TEXT_BYTES_MAX} are possible")));
    }
    let depth = depth(schema);
    if depth > DEPTH_MAX {
        return Err(SpecError::new(param, format!("nests {depth} deep; at most {DEPTH_MAX} are possible")));
    }
    Ok(())
}

/// How deep a value nests. Bodies are read with a limit of their own, 128, so the recursion is bounded.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
