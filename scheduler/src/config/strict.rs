//! Reads YAML key by key and collects every mistake with its line, instead of stopping at the first.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// Mistakes told at once.
const MISTAKES_MAX: usize = 50;
/// Items of one list or keys of one table.
const ITEMS_MAX: usize = 1024;

/// A value with the line on which it begins.
pub struct Node {
    line: u64,
    value: Value,
}

enum Value {
    Empty,
    Truth(bool),
    Whole(i128),
    Fraction(f64),
    Text(String),
    List,
    Table(Vec<(String, u64, Node)>),
}

impl Value {
    fn kind(&self) -> String {
        match self {
            Self::Empty => "empty".to_owned(),
            Self::Truth(truth) => truth.to_string(),
            Self::Whole(number) => number.to_string(),
            Self::Fraction(number) => number.to_string(),
            Self::Text(text) => format!("the text {text:?}"),
            Self::List => "a list".to_owned(),
            Self::Table(_) => "a table of keys".to_owned(),
        }
    }
}

/// Reads a document. An error here is one of YAML itself and names its line.
pub fn parse(text: &str) -> Result<Node, String> {
    if text.trim().is_empty() {
        return Ok(Node { line: 1, value: Value::Empty });
    }
    let spanned: Spanned<Value> = serde_saphyr::from_str(text).map_err(|error| error.without_snippet().to_string())?;
    Ok(Node { line: spanned.referenced.line(), value: spanned.value })
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a YAML value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Empty)
            }

            fn visit_none<E>(self) -> Result<Value, E> {
                Ok(Value::Empty)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
                Value::deserialize(deserializer)
            }

            fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
                Ok(Value::Truth(truth))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
                Ok(Value::Whole(number.into()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
                Ok(Value::Whole(number.into()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
                Ok(Value::Fraction(number))
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                // No key of this file takes a list, so that what is in one need not be kept.
                while list.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(Value::List)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut entries: Vec<(String, u64, Node)> = Vec::new();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    if entries.len() >= ITEMS_MAX {
                        return Err(serde::de::Error::custom(format_args!("a table has at most {ITEMS_MAX} keys")));
                    }
                    let value: Spanned<Value> = map.next_value()?;
                    let line = key.referenced.line();
                    if let Some((_, first, _)) = entries.iter().find(|(known, ..)| *known == key.value) {
                        let told = format_args!("line {line}: `{}` stands on line {first} already", key.value);
                        return Err(serde::de::Error::custom(told));
                    }
                    entries.push((key.value, line, Node { line: value.referenced.line().max(line), value: value.value }));
                }
                Ok(Value::Table(entries))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// Every mistake found, by line.
#[derive(Default)]
pub struct Mistakes(Vec<(u64, String)>);

impl Mistakes {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, line: u64, what: String) {
        if self.0.len() < MISTAKES_MAX {
            self.0.push((line, what));
        }
    }

    /// All of them as one text: `file:line: what`, one a line.
    pub fn told_of(mut self, file: &str) -> String {
        self.0.sort();
        let lines: Vec<String> = self.0.iter().map(|(line, what)| format!("{file}:{line}: {what}")).collect();
        lines.join("\n")
    }
}

/// One table and the keys asked of it so far.
pub struct Table<'t> {
    path: String,
    entries: &'t [(String, u64, Node)],
    asked: Vec<&'static str>,
    mistakes: &'t mut Mistakes,
}

impl<'t> Table<'t> {
    pub fn root(node: &'t Node, mistakes: &'t mut Mistakes) -> Self {
        let entries: &[_] = match &node.value {
            Value::Table(entries) => entries,
            Value::Empty => &[],
            other => {
                mistakes.add(node.line, format!("the file holds {}, not keys with values", other.kind()));
                &[]
            }
        };
        Self { path: String::new(), entries, asked: Vec::new(), mistakes }
    }

    /// The value of a key, if it is there and not empty.
    fn get(&mut self, key: &'static str) -> Option<&'t Node> {
        self.asked.push(key);
        let entries = self.entries;
        let found = entries.iter().find(|(name, ..)| name == key);
        found.map(|(.., node)| node).filter(|node| !matches!(node.value, Value::Empty))
    }

    fn mistake(&mut self, line: u64, key: &str, what: impl fmt::Display) {
        self.mistakes.add(line, format!("`{}{key}` {what}", self.path));
    }

    pub fn table(&mut self, key: &'static str, read: impl FnOnce(&mut Table<'_>)) {
        let Some(node) = self.get(key) else { return };
        let Value::Table(entries) = &node.value else {
            return self.mistake(node.line, key, format_args!("is {}, not a table of keys", node.value.kind()));
        };
        let mut table = Table { path: format!("{}{key}.", self.path), entries, asked: Vec::new(), mistakes: self.mistakes };
        read(&mut table);
        table.finish();
    }

    pub fn text(&mut self, key: &'static str, into: &mut String, check: impl FnOnce(&str) -> Result<(), String>) {
        let Some(node) = self.get(key) else { return };
        match &node.value {
            Value::Text(text) => match check(text) {
                Ok(()) => text.clone_into(into),
                Err(why) => self.mistake(node.line, key, format_args!("is {text:?}; {why}")),
            },
            other => self.mistake(node.line, key, format_args!("is {}, not a text", other.kind())),
        }
    }

    pub fn parsed<T: FromStr>(&mut self, key: &'static str, wanted: &str, into: &mut T) {
        let Some(node) = self.get(key) else { return };
        match &node.value {
            Value::Text(text) => match text.parse() {
                Ok(parsed) => *into = parsed,
                Err(_) => self.mistake(node.line, key, format_args!("is {text:?}, not {wanted}")),
            },
            other => self.mistake(node.line, key, format_args!("is {}, not {wanted}", other.kind())),
        }
    }

    pub fn whole(&mut self, key: &'static str, range: RangeInclusive<u64>, set: impl FnOnce(u64)) {
        let Some(node) = self.get(key) else { return };
        let (min, max) = (*range.start(), *range.end());
        match &node.value {
            Value::Whole(number) => match u64::try_from(*number).ok().filter(|number| range.contains(number)) {
                Some(number) => set(number),
                None => self.mistake(node.line, key, format_args!("is {number}; it goes from {min} to {max}")),
            },
            other => self.mistake(node.line, key, format_args!("is {}, not a whole number from {min} to {max}", other.kind())),
        }
    }

    pub fn weight(&mut self, key: &'static str, into: &mut f64) {
        let Some(node) = self.get(key) else { return };
        let number = match &node.value {
            Value::Whole(number) => *number as f64,
            Value::Fraction(number) => *number,
            other => return self.mistake(node.line, key, format_args!("is {}, not a number", other.kind())),
        };
        if (0.0..=1000.0).contains(&number) {
            *into = number;
        } else {
            self.mistake(node.line, key, format_args!("is {number}; a weight goes from 0 to 1000"));
        }
    }

    pub fn truth(&mut self, key: &'static str, into: &mut bool) {
        let Some(node) = self.get(key) else { return };
        match &node.value {
            Value::Truth(truth) => *into = *truth,
            other => self.mistake(node.line, key, format_args!("is {}, not true or false", other.kind())),
        }
    }

    /// Notes every key that nobody asked for, with the nearest one that is known.
    pub fn finish(&mut self) {
        for (key, line, _) in self.entries {
            if self.asked.contains(&key.as_str()) {
                continue;
            }
            let nearest = self.asked.iter().map(|asked| (distance(key, asked), *asked)).min();
            match nearest.filter(|(distance, asked)| *distance <= 1 + asked.len() / 3) {
                Some((_, asked)) => {
                    self.mistake(*line, key, format_args!("is no key; did you mean `{}{asked}`?", self.path.clone()))
                }
                None => self.mistake(*line, key, format_args!("is no key; the keys here are {}", self.asked.join(", "))),
            }
        }
    }
}

/// Edits (insert, remove, replace) between two keys: Levenshtein's distance.
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
