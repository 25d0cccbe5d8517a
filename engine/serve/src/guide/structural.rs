//! Structural tags: free text in which what stands between tags is bound. Both of vLLM 0.33's forms, the older list of `structures`
//! and XGrammar's `format`, are read into one tree.

use serde_json::{Value, json};

use super::spec::{SpecError, check_schema, regex};

/// Most parts of one tree.
const PARTS_MAX: usize = 1024;

/// What may be written in one place.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    Text(String),
    /// JSON under a schema.
    Json(Value),
    Regex(String),
    /// Anything, within a tag up to its end.
    Any,
    Sequence(Vec<Part>),
    Or(Vec<Part>),
    Tag(Box<Tag>),
    /// Free text; where one of the triggers is written, one of the tags that begin with it goes on from there.
    Triggered {
        triggers: Vec<String>,
        tags: Vec<Tag>,
        often: Often,
    },
    /// Tags alone, with this between them.
    Separated {
        separator: String,
        tags: Vec<Tag>,
        often: Often,
    },
}

/// From `begin` to one of `ends`.
#[derive(Debug, Clone, PartialEq)]
pub struct Tag {
    pub begin: String,
    pub content: Part,
    pub ends: Vec<String>,
}

/// How many tags there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Often {
    pub at_least_one: bool,
    pub stop_after_first: bool,
}

/// Reads `{"structures": [{"begin", "schema", "end"}], "triggers": […]}` or `{"format": {"type": …}}`.
pub fn read(param: &str, value: &Value) -> Result<Part, SpecError> {
    let mut reader = Reader { parts: 0 };
    match value.get("format") {
        Some(format) => reader.part(&format!("{param}.format"), format),
        None => reader.structures(param, value),
    }
}

/// Counts what it reads. Bodies nest 128 deep at most, so its recursion is bounded.
struct Reader {
    parts: usize,
}

impl Reader {
    fn structures(&mut self, param: &str, value: &Value) -> Result<Part, SpecError> {
        let triggers = texts(&format!("{param}.triggers"), value.get("triggers"))?;
        let read = |reader: &mut Self, place: &str, structure: &Value| {
            reader.count(place)?;
            let schema = structure.get("schema").cloned().unwrap_or(json!({"type": "object"}));
            check_schema(&format!("{place}.schema"), &schema)?;
            let (begin, end) = (text(place, structure, "begin")?, text(place, structure, "end")?);
            Ok(Tag { begin, content: Part::Json(schema), ends: vec![end] })
        };
        let tags = self.list(&format!("{param}.structures"), value.get("structures"), read)?;
        triggered(&format!("{param}.structures"), triggers, tags, Often::default())
    }

    fn part(&mut self, place: &str, value: &Value) -> Result<Part, SpecError> {
        self.count(place)?;
        let inside = |key: &str| format!("{place}.{key}");
        let often = Often { at_least_one: value["at_least_one"] == true, stop_after_first: value["stop_after_first"] == true };
        let tags = |reader: &mut Self| reader.list(&inside("tags"), value.get("tags"), Self::tag);
        let elements = |reader: &mut Self| reader.list(&inside("elements"), value.get("elements"), Self::part);
        Ok(match value["type"].as_str().unwrap_or_default() {
            "const_string" => Part::Text(text(place, value, "value")?),
            "json_schema" => {
                check_schema(&inside("json_schema"), &value["json_schema"])?;
                Part::Json(value["json_schema"].clone())
            }
            "regex" => Part::Regex(regex(&inside("pattern"), &value["pattern"])?),
            "any_text" => Part::Any,
            "sequence" => Part::Sequence(elements(self)?),
            "or" => Part::Or(elements(self)?),
            "tag" => Part::Tag(Box::new(self.tag(place, value)?)),
            "triggered_tags" => {
                let triggers = texts(&inside("triggers"), value.get("triggers"))?;
                triggered(&inside("tags"), triggers, tags(self)?, often)?
            }
            "tags_with_separator" => Part::Separated { separator: text(place, value, "separator")?, tags: tags(self)?, often },
            other => {
                let kinds = "const_string, json_schema, regex, any_text, sequence, or, tag, triggered_tags, tags_with_separator";
                let other: String = other.chars().take(40).collect();
                return Err(SpecError::new(inside("type"), format!("is {other:?}; this engine serves {kinds}")));
            }
        })
    }

    fn tag(&mut self, place: &str, value: &Value) -> Result<Tag, SpecError> {
        let ends = match &value["end"] {
            Value::Array(_) => texts(&format!("{place}.end"), value.get("end"))?,
            _ => vec![text(place, value, "end")?],
        };
        let content = self.part(&format!("{place}.content"), &value["content"])?;
        Ok(Tag { begin: text(place, value, "begin")?, content, ends })
    }

    fn list<T>(
        &mut self,
        place: &str,
        value: Option<&Value>,
        read: impl Fn(&mut Self, &str, &Value) -> Result<T, SpecError>,
    ) -> Result<Vec<T>, SpecError> {
        let items = value.and_then(Value::as_array).filter(|items| !items.is_empty());
        let items = items.ok_or_else(|| SpecError::new(place, "is not a list of at least one"))?;
        items.iter().enumerate().map(|(index, item)| read(self, &format!("{place}[{index}]"), item)).collect()
    }

    fn count(&mut self, place: &str) -> Result<(), SpecError> {
        self.parts += 1;
        match self.parts <= PARTS_MAX {
            true => Ok(()),
            false => Err(SpecError::new(place, format!("is one part too many; at most {PARTS_MAX} are possible"))),
        }
    }
}

/// Free text with tags, each of which begins with a trigger.
fn triggered(place: &str, triggers: Vec<String>, tags: Vec<Tag>, often: Often) -> Result<Part, SpecError> {
    let stray = |tag: &&Tag| !triggers.iter().any(|trigger| tag.begin.starts_with(trigger));
    match tags.iter().enumerate().find(|(_, tag)| stray(tag)) {
        Some((index, _)) => Err(SpecError::new(format!("{place}[{index}].begin"), "begins with none of the triggers")),
        None => Ok(Part::Triggered { triggers, tags, often }),
    }
}

fn text(place: &str, value: &Value, key: &str) -> Result<String, SpecError> {
    let text = value.get(key).and_then(Value::as_str).map(str::to_owned);
    text.ok_or_else(|| SpecError::new(format!("{place}.{key}"), "is not a string"))
}

/// A list of texts with something in them.
fn texts(place: &str, value: Option<&Value>) -> Result<Vec<String>, SpecError> {
    let texts = value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).filter(|text| !text.is_empty());
    let texts: Vec<String> = texts.map(str::to_owned).collect();
    match (1..=PARTS_MAX).contains(&texts.len()) {
        true => Ok(texts),
        false => Err(SpecError::new(place, format!("is not a list of 1 to {PARTS_MAX} texts"))),
    }
}
