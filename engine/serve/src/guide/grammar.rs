//! A form in llguidance's terms.

use llguidance::api::TopLevelGrammar;
use serde_json::{Map, Value, json};

use super::gbnf;
use super::spec::{Form, Space, Spec, SpecError};

/// Between two parts of JSON where the request says nothing of it: what people and programs write. A small model at temperature 0 would
/// else write line breaks until its tokens are spent.
const SPACE: &str = r"[ \t]{1,2}|\r?\n[ \t]{0,64}";

/// The grammar of a form.
pub fn of(spec: &Spec) -> Result<TopLevelGrammar, SpecError> {
    Ok(match &spec.form {
        Form::Json(schema) => TopLevelGrammar::from_json_schema(with_space(schema, &spec.space)),
        Form::Regex(regex) => TopLevelGrammar::from_regex(regex),
        Form::Choice(choices) => {
            let choices: Vec<String> = choices.iter().map(|choice| quoted(choice)).collect();
            TopLevelGrammar::from_lark(format!("start: {}", choices.join(" | ")))
        }
        Form::Grammar(text) if gbnf::is(text) => TopLevelGrammar::from_lark(gbnf::to_lark(text)?),
        Form::Grammar(text) => TopLevelGrammar::from_lark(text.clone()),
        Form::Tags(tags) => {
            // Free text up to a trigger, as short as can be; then the rest of the beginning, the JSON and the end.
            let names: Vec<String> = (0..tags.len()).map(|index| format!("tag_{index}")).collect();
            let mut lark = format!("start: ({})* rest\nrest: TEXT\nTEXT: /(.|\\n)*/\n", names.join(" | "));
            for (index, tag) in tags.iter().enumerate() {
                let behind = tag.begin.strip_prefix(tag.trigger.as_str()).unwrap_or_default();
                let literal = |text: &str| if text.is_empty() { String::new() } else { format!("{} ", quoted(text)) };
                let schema = with_space(&tag.schema, &spec.space);
                lark += &format!(
                    "tag_{index}: trigger_{index} {}%json {schema} {}\ntrigger_{index}[lazy]: TEXT {}\n",
                    literal(behind),
                    literal(&tag.end),
                    quoted(&tag.trigger),
                );
            }
            TopLevelGrammar::from_lark(lark)
        }
    })
}

/// A Lark literal; its escapes are JSON's.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The schema with llguidance's own key for what JSON schemas do not say. A client's key of that name stays, as in vLLM.
fn with_space(schema: &Value, space: &Space) -> Value {
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
