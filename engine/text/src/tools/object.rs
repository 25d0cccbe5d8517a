//! One call as a JSON object: `{"name": "f", "arguments": {…}}`, with the keys in any order.

use super::json::{Json, Read, escaped};
use super::{Calls, is_name};

/// Longest key that is read.
const KEY_BYTES_MAX: usize = 256;

/// What an object must be to be a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Without arguments it is none: where no marker told a call from an answer in JSON.
    pub arguments_required: bool,
    /// With a key of another name it is none, for the same reason.
    pub known_keys_only: bool,
}

/// What a character means for the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grown {
    More,
    /// It ends the object, which was a call.
    Done,
    /// The call's arguments were whole, but the object does not go on as one.
    Cut,
    /// Within the arguments, which have begun, it is no JSON.
    Torn,
    /// No call.
    Broken,
}

/// The object, as far as it is read.
#[derive(Debug)]
pub(super) struct Object {
    rules: Rules,
    at: At,
    key: String,
    name: Option<String>,
    /// Arguments that came before the name, or are a string.
    held: String,
    value: Json,
    arguments: Arguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Open,
    KeyOrClose,
    Key,
    InKey,
    Colon,
    Value,
    InName,
    InArguments,
    InOther,
    CommaOrClose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arguments {
    None,
    /// An object, written out as it comes once the name is known.
    Object,
    /// JSON in a string; some models quote it.
    Text,
    Null,
    Whole,
}

impl Object {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            at: At::Open,
            key: String::new(),
            name: None,
            held: String::new(),
            value: Json::new(),
            arguments: Arguments::None,
        }
    }

    /// The name is known and the arguments have begun: the call was given.
    fn is_given(&self) -> bool {
        self.name.is_some() && matches!(self.arguments, Arguments::Object | Arguments::Whole)
    }

    /// The reply ended. True: the call was given.
    pub fn finish(&self) -> bool {
        self.is_given()
    }

    pub fn push(&mut self, c: char, calls: &mut Calls<'_>) -> Grown {
        let space = matches!(c, ' ' | '\t' | '\n' | '\r');
        match self.at {
            At::InKey | At::InName => self.text(c, calls),
            At::InArguments => self.in_arguments(c, calls),
            At::InOther => match self.value.push(c) {
                Read::More => Grown::More,
                Read::End => self.to(At::CommaOrClose),
                Read::EndBefore => {
                    self.at = At::CommaOrClose;
                    self.push(c, calls)
                }
                Read::Bad => self.broken(),
            },
            _ if space => Grown::More,
            At::Open if c == '{' => self.to(At::KeyOrClose),
            At::KeyOrClose | At::Key if c == '"' => {
                self.key.clear();
                self.value = Json::new();
                self.value.push(c);
                self.to(At::InKey)
            }
            At::Colon if c == ':' => self.to(At::Value),
            At::Value => self.begin_value(c, calls),
            At::CommaOrClose if c == ',' => self.to(At::Key),
            At::CommaOrClose if c == '}' => self.close(calls),
            _ => self.broken(),
        }
    }

    fn to(&mut self, at: At) -> Grown {
        self.at = at;
        Grown::More
    }

    fn broken(&self) -> Grown {
        if self.arguments == Arguments::Whole && self.name.is_some() { Grown::Cut } else { Grown::Broken }
    }

    /// A character of a key or of the name.
    fn text(&mut self, c: char, calls: &mut Calls<'_>) -> Grown {
        match self.value.push(c) {
            Read::More if self.key.len() < KEY_BYTES_MAX => {
                self.key.push(c);
                Grown::More
            }
            Read::End => {
                let Some(text) = unquoted(&self.key) else { return self.broken() };
                if self.at == At::InKey {
                    self.key = text;
                    return self.to(At::Colon);
                }
                if !is_name(&text) {
                    return self.broken();
                }
                if self.arguments != Arguments::None {
                    calls.begin(&text);
                    calls.arguments(&self.held);
                }
                self.name = Some(text);
                self.to(At::CommaOrClose)
            }
            _ => self.broken(),
        }
    }

    fn begin_value(&mut self, c: char, calls: &mut Calls<'_>) -> Grown {
        self.value = Json::new();
        let read = self.value.push(c);
        match (self.key.as_str(), c) {
            ("name", '"') if self.name.is_none() => {
                self.key.clear();
                self.to(At::InName)
            }
            ("arguments" | "parameters", '{' | '"' | 'n') if self.arguments == Arguments::None => {
                self.arguments = match c {
                    '{' => Arguments::Object,
                    'n' => Arguments::Null,
                    _ => Arguments::Text,
                };
                self.held.clear();
                if let (Some(name), '{') = (&self.name, c) {
                    calls.begin(name);
                }
                self.argument(c, calls);
                self.to(At::InArguments)
            }
            ("name" | "arguments" | "parameters", _) => self.broken(),
            ("type" | "id" | "description", _) => self.other(read),
            _ if self.rules.known_keys_only => self.broken(),
            _ => self.other(read),
        }
    }

    fn other(&mut self, read: Read) -> Grown {
        if read == Read::More { self.to(At::InOther) } else { self.broken() }
    }

    fn in_arguments(&mut self, c: char, calls: &mut Calls<'_>) -> Grown {
        match self.value.push(c) {
            Read::More => {
                self.argument(c, calls);
                Grown::More
            }
            Read::End => {
                self.argument(c, calls);
                let whole = match std::mem::replace(&mut self.arguments, Arguments::Whole) {
                    Arguments::Text => serde_json::from_str::<String>(&self.held).ok(),
                    Arguments::Null => Some(String::new()),
                    _ => return self.to(At::CommaOrClose),
                };
                let Some(whole) = whole else { return Grown::Broken };
                self.held = if whole.trim().is_empty() { "{}".to_owned() } else { whole };
                if let Some(name) = &self.name {
                    calls.begin(name);
                    calls.arguments(&self.held);
                }
                self.to(At::CommaOrClose)
            }
            Read::EndBefore | Read::Bad if self.name.is_some() && self.arguments == Arguments::Object => Grown::Torn,
            Read::EndBefore | Read::Bad => Grown::Broken,
        }
    }

    /// Writes a character of the arguments, or holds it.
    fn argument(&mut self, c: char, calls: &mut Calls<'_>) {
        let mut bytes = [0; 4];
        let raw;
        let text: &str = match escaped(c).filter(|_| self.value.in_string()) {
            Some(escape) => {
                raw = escape;
                &raw
            }
            None => c.encode_utf8(&mut bytes),
        };
        if self.name.is_some() && self.arguments == Arguments::Object { calls.arguments(text) } else { self.held.push_str(text) }
    }

    fn close(&mut self, calls: &mut Calls<'_>) -> Grown {
        match (&self.name, self.arguments) {
            (Some(_), Arguments::Whole) => Grown::Done,
            (Some(name), Arguments::None) if !self.rules.arguments_required => {
                calls.begin(name);
                calls.arguments("{}");
                Grown::Done
            }
            _ => self.broken(),
        }
    }
}

/// The text of a JSON string's inside.
fn unquoted(inside: &str) -> Option<String> {
    serde_json::from_str(&format!("\"{inside}\"")).ok()
}
