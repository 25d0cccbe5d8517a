//! Calls that are read once they are whole, where the arguments' types or escapes need all of them.

use serde_json::{Map, Value};

use super::{Calls, Region, Step, is_name};
use crate::marker::{Found, Search};

/// Reads a call's inside: its name and arguments. The value says how a parameter is typed: the request's tools.
pub(super) type Read = fn(&str, &Schemas) -> Option<(String, Map<String, Value>)>;

/// A region that is one call.
pub(super) struct Whole {
    read: Read,
    schemas: Schemas,
    close: &'static str,
    search: Search,
    inside: String,
    scratch: String,
}

impl Whole {
    pub fn new(close: &'static str, read: Read, tools: &[Value]) -> Self {
        let search = Search::new([close]);
        Self { read, schemas: Schemas::new(tools), close, search, inside: String::new(), scratch: String::new() }
    }

    fn call(&mut self, calls: &mut Calls<'_>) -> bool {
        let Some((name, arguments)) = (self.read)(&self.inside, &self.schemas).filter(|(name, _)| is_name(name)) else {
            return false;
        };
        calls.begin(&name);
        calls.arguments(&Value::Object(arguments).to_string());
        true
    }
}

impl Region for Whole {
    fn begin(&mut self, _: &'static str) {
        self.inside.clear();
        self.search = Search::new([self.close]);
    }

    fn push(&mut self, c: char, calls: &mut Calls<'_>) -> Step {
        match self.search.push(c, &mut self.scratch) {
            Found::Nothing => Step::More,
            Found::Text(text) => {
                self.inside.push_str(text);
                Step::More
            }
            Found::Marker(text, _) => {
                self.inside.push_str(text);
                if self.call(calls) { Step::Done } else { Step::Broken }
            }
        }
    }

    fn finish(&mut self, calls: &mut Calls<'_>) -> bool {
        // Some models end their turn without the marker.
        self.call(calls)
    }
}

/// The types of the request's functions' parameters.
pub(super) struct Schemas(Vec<(String, Map<String, Value>)>);

impl Schemas {
    pub fn new(tools: &[Value]) -> Self {
        let schema = |tool: &Value| {
            let function = tool.get("function").unwrap_or(tool);
            let properties = function.get("parameters").and_then(|parameters| parameters.get("properties"));
            Some((function.get("name")?.as_str()?.to_owned(), properties?.as_object()?.clone()))
        };
        Self(tools.iter().filter_map(schema).collect())
    }

    /// Is this parameter text, whatever it looks like? So is one whose type the request does not tell, if it is no JSON.
    pub fn is_text(&self, function: &str, parameter: &str) -> Option<bool> {
        let (_, properties) = self.0.iter().find(|(name, _)| name == function)?;
        let schema = properties.get(parameter)?;
        match schema.get("type") {
            Some(Value::String(kind)) => Some(kind == "string"),
            Some(Value::Array(kinds)) => Some(kinds.iter().all(|kind| kind == "string" || kind == "null")),
            _ if schema.get("enum").and_then(Value::as_array).is_some_and(|values| values.iter().all(Value::is_string)) => {
                Some(true)
            }
            _ => None,
        }
    }

    /// A parameter's value as JSON, out of its text.
    pub fn value(&self, function: &str, parameter: &str, text: &str) -> Value {
        if self.is_text(function, parameter) == Some(true) {
            return Value::from(text);
        }
        let trimmed = text.trim();
        match trimmed {
            "True" => Value::from(true),
            "False" => Value::from(false),
            "None" => Value::Null,
            _ => serde_json::from_str(trimmed).unwrap_or_else(|_| Value::from(text)),
        }
    }
}
