//! A form in llguidance's terms.

use engine_text::Text;
use llguidance::api::TopLevelGrammar;
use serde_json::{Map, Value, json};

use super::spec::{Form, Space, Spec, SpecError};
use super::{gbnf, lark};

/// Between two parts of JSON where the request says nothing of it: what people and programs write. A small model at temperature 0 would
/// else write line breaks until its tokens are spent.
const SPACE: &str = r"[ \t]{1,2}|\r?\n[ \t]{0,64}";

/// The grammar of a form, for a model with this text side.
pub fn of(spec: &Spec, text: &Text) -> Result<TopLevelGrammar, SpecError> {
    Ok(match &spec.form {
        Form::Json(schema) => TopLevelGrammar::from_json_schema(with_space(schema, &spec.space)),
        Form::Regex(regex) => TopLevelGrammar::from_regex(regex),
        Form::Choice(choices) => {
            let choices: Vec<String> = choices.iter().map(|choice| quoted(choice)).collect();
            TopLevelGrammar::from_lark(format!("start: {}", choices.join(" | ")))
        }
        Form::Grammar(grammar) if gbnf::is(grammar) => TopLevelGrammar::from_lark(gbnf::to_lark(grammar)?),
        Form::Grammar(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        Form::Tags(part) => TopLevelGrammar::from_lark(lark::of(part, &spec.space, text)),
    })
}

/// A Lark literal; its escapes are JSON's.
pub fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The schema with llguidance's own key for what JSON schemas do not say. A client's key of that name stays, as in vLLM.
pub fn with_space(schema: &Value, space: &Space) -> Value {
    let own = |key: &str| schema.get("x-guidance").is_some_and(|guidance| guidance.get(key).is_some());
    let (key, value) = match space {
        Space::Any if own("whitespace_flexible") => return schema.clone(),
        Space::Any => ("whitespace_pattern", json!(SPACE)),
        Space::None => ("whitespace_flexible", json!(false)),
        Space::Pattern(pattern) => ("whitespace_pattern", json!(pattern)),
    };
    let mut schema = match schema {
        Value::Object(fields) => fields.clone(),
        // `true` allows anything, `false` nothing.
        Value::Bool(false) => Map::from_iter([("not".to_owned(), json!({}))]),
        _ => Map::new(),
    };
    let guidance = schema.entry("x-guidance").or_insert_with(|| json!({}));
    if let Value::Object(guidance) = guidance {
        guidance.entry(key).or_insert(value);
    }
    Value::Object(schema)
}
