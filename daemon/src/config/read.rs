//! Reads a table of a configuration file key by key, and collects every mistake instead of stopping at the first.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde_json::{Map, Value};

/// Longest name of a node or an engine: it names files too.
const NAME_BYTES_MAX: usize = 64;
/// Most mistakes told at once.
const MISTAKES_MAX: usize = 50;

/// One table and the keys asked of it so far.
pub struct Table<'a> {
    path: String,
    entries: Option<&'a Map<String, Value>>,
    asked: Vec<String>,
    mistakes: &'a mut Vec<String>,
}

impl<'a> Table<'a> {
    pub fn root(value: &'a Value, mistakes: &'a mut Vec<String>) -> Self {
        let mut table = Self { path: String::new(), entries: value.as_object(), asked: Vec::new(), mistakes };
        if table.entries.is_none() && !value.is_null() {
            table.mistake("", format!("the file holds {}, not keys with values", kind(value)));
        }
        table
    }

    /// Notes a mistake at `key`; an empty key means the table itself.
    pub fn mistake(&mut self, key: &str, what: impl AsRef<str>) {
        if self.mistakes.len() < MISTAKES_MAX {
            let place = [self.path.as_str(), key].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".");
            let separator = if place.is_empty() { "" } else { ": " };
            self.mistakes.push(format!("{place}{separator}{}", what.as_ref()));
        }
    }

    /// Notes that a key is needed, unless it is there and its mistake was told.
    pub fn missing(&mut self, key: &str, what: &str) {
        if self.get(key).is_none() {
            self.mistake(key, format!("is missing; give {what}"));
        }
    }

    fn get(&mut self, key: &str) -> Option<&'a Value> {
        if !self.asked.iter().any(|asked| asked == key) {
            self.asked.push(key.to_owned());
        }
        self.entries?.get(key).filter(|value| !value.is_null())
    }

    fn read<T>(&mut self, key: &str, wanted: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.get(key)?;
        let read = read(value);
        if read.is_none() {
            self.mistake(key, format!("is {}, not {wanted}", kind(value)));
        }
        read
    }

    pub fn string(&mut self, key: &str) -> Option<String> {
        self.read(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// A name that is fit for a file, a label and a URL.
    pub fn name(&mut self, key: &str) -> Option<String> {
        let name = self.string(key)?;
        let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.starts_with('.') || !name.chars().all(fit) {
            self.mistake(key, format!("{name:?} is no name: letters, digits, '-', '_' and '.', at most {NAME_BYTES_MAX}"));
            return None;
        }
        Some(name)
    }

    pub fn boolean(&mut self, key: &str) -> Option<bool> {
        self.read(key, "true or false", Value::as_bool)
    }

    pub fn number(&mut self, key: &str, min: u64, max: u64) -> Option<u64> {
        let number = self.read(key, "a whole number", Value::as_u64)?;
        if !(min..=max).contains(&number) {
            self.mistake(key, format!("{number} is not in {min}..={max}"));
            return None;
        }
        Some(number)
    }

    pub fn parsed<T: FromStr>(&mut self, key: &str, wanted: &str) -> Option<T> {
        let text = self.string(key)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.mistake(key, format!("{text:?} is not {wanted}"));
        }
        parsed
    }

    pub fn one_of<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.string(key)?;
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.mistake(key, format!("{text:?} is none of {}", names.join(", ")));
        }
        found
    }

    pub fn strings(&mut self, key: &str) -> Option<Vec<String>> {
        self.read(key, "a list of texts", |value| value.as_array()?.iter().map(scalar).collect())
    }

    pub fn string_map(&mut self, key: &str) -> BTreeMap<String, String> {
        let read = self.read(key, "keys with texts", |value| {
            value.as_object()?.iter().map(|(key, value)| Some((key.clone(), scalar(value)?))).collect()
        });
        read.unwrap_or_default()
    }

    /// Reads each table of a list.
    pub fn each(&mut self, key: &str, max: usize, mut read: impl FnMut(usize, &mut Table<'_>)) {
        let Some(list) = self.read(key, "a list", Value::as_array) else { return };
        if list.len() > max {
            self.mistake(key, format!("lists {}, at most {max}", list.len()));
            return;
        }
        for (i, value) in list.iter().enumerate() {
            let separator = if self.path.is_empty() { "" } else { "." };
            let path = format!("{}{separator}{key}[{i}]", self.path);
            let mut table = Table { path, entries: value.as_object(), asked: Vec::new(), mistakes: &mut *self.mistakes };
            match table.entries {
                Some(_) => read(i, &mut table),
                None => table.mistake("", format!("is {}, not keys with values", kind(value))),
            }
        }
    }

    /// Reads a table below a key.
    pub fn inside(&mut self, key: &str, read: impl FnOnce(&mut Table<'_>)) {
        let Some(entries) = self.read(key, "keys with values", Value::as_object) else { return };
        let separator = if self.path.is_empty() { "" } else { "." };
        let path = format!("{}{separator}{key}", self.path);
        read(&mut Table { path, entries: Some(entries), asked: Vec::new(), mistakes: &mut *self.mistakes });
    }

    /// Notes every key that was never asked for, with the nearest one that was.
    pub fn finish(&mut self) {
        let unknown: Vec<&String> =
            self.entries.into_iter().flat_map(Map::keys).filter(|key| !self.asked.contains(key)).collect();
        for key in unknown {
            let nearest = self.asked.iter().map(|asked| (distance(key, asked), asked)).min();
            let hint = match nearest {
                Some((distance, asked)) if distance <= 1 + asked.len() / 3 => format!("is no key here; did you mean {asked}?"),
                _ => format!("is no key here; known: {}", self.asked.join(", ")),
            };
            self.mistake(key, hint);
        }
    }
}

/// A text, or a number or truth value written without quotes where a text is meant.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "empty".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("the text {text:?}"),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a table".into(),
    }
}

/// Edits (insert, remove, replace) between two keys.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = corner + usize::from(from != *to);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
