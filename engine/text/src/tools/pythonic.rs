//! Calls as Python writes them: `[f(a=1, b="x"), g()]` (Llama 3.2, ToolACE; Llama 4 between markers).

use serde_json::{Map, Number, Value};

use super::{Calls, Region, Step, ToolFormat, is_name};

pub(super) const FORMAT: ToolFormat = ToolFormat {
    names: &["pythonic"],
    opens: &[],
    bare: &['['],
    signs: &[],
    region: |_| Box::new(Pythonic::new()),
    envelope: None,
    short_ids: false,
};

pub(super) const LLAMA4: ToolFormat = ToolFormat {
    names: &["llama4_pythonic"],
    opens: &["<|python_start|>"],
    bare: &['['],
    signs: &[&["<|python_start|>"]],
    region: |_| Box::new(Pythonic::new()),
    envelope: None,
    short_ids: false,
};

const END: &str = "<|python_end|>";
/// Longest literal, in bytes.
const LITERAL_BYTES_MAX: usize = 1 << 20;
/// Deepest nesting of a literal.
const DEPTH_MAX: usize = 64;

struct Pythonic {
    at: At,
    held: String,
    function: String,
    key: String,
    literal: Literal,
    arguments: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before the list.
    List,
    /// Before a function's name.
    Function,
    Key,
    Value,
    /// Behind a call.
    Next,
    /// Behind the list.
    End,
}

impl Pythonic {
    fn new() -> Self {
        Self {
            at: At::List,
            held: String::new(),
            function: String::new(),
            key: String::new(),
            literal: Literal::default(),
            arguments: 0,
        }
    }

    fn to(&mut self, at: At) -> Step {
        self.at = at;
        self.held.clear();
        Step::More
    }

    fn key(&mut self, c: char, calls: &mut Calls<'_>) -> Step {
        match c {
            ')' if self.held.trim().is_empty() => {
                if self.arguments == 0 {
                    calls.begin(&self.function);
                }
                self.end_call(calls)
            }
            '=' if is_name(self.held.trim()) => {
                self.key = self.held.trim().to_owned();
                self.literal = Literal::default();
                self.to(At::Value)
            }
            _ if self.held.len() < 256 && (c.is_alphanumeric() || c == '_' || c.is_whitespace()) => {
                self.held.push(c);
                Step::More
            }
            _ => Step::Broken,
        }
    }

    fn value(&mut self, c: char, calls: &mut Calls<'_>) -> Step {
        if !self.literal.ends_before(c) {
            self.held.push(c);
            return if self.held.len() > LITERAL_BYTES_MAX { Step::Broken } else { Step::More };
        }
        let Some(value) = literal(&self.held) else { return Step::Broken };
        if self.arguments == 0 {
            calls.begin(&self.function);
        }
        calls.arguments(if self.arguments == 0 { "{" } else { ", " });
        calls.arguments(&format!("{}: {value}", Value::from(self.key.as_str())));
        self.arguments += 1;
        if c == ')' { self.end_call(calls) } else { self.to(At::Key) }
    }

    fn end_call(&mut self, calls: &mut Calls<'_>) -> Step {
        calls.arguments(if self.arguments == 0 { "{}" } else { "}" });
        self.to(At::Next)
    }
}

impl Region for Pythonic {
    fn begin(&mut self, _: &'static str) {
        *self = Self::new();
    }

    fn push(&mut self, c: char, calls: &mut Calls<'_>) -> Step {
        match self.at {
            At::Key => self.key(c, calls),
            At::Value => self.value(c, calls),
            At::Function if c == '(' && is_function(self.held.trim()) => {
                self.function = self.held.trim().to_owned();
                self.arguments = 0;
                self.to(At::Key)
            }
            At::Function
                if self.held.len() < 256 && (c.is_alphanumeric() || matches!(c, '_' | '.' | '-') || c.is_whitespace()) =>
            {
                self.held.push(c);
                Step::More
            }
            At::Function => Step::Broken,
            At::End => {
                if self.held.is_empty() && c.is_whitespace() {
                    return Step::More;
                }
                self.held.push(c);
                match END.strip_prefix(self.held.as_str()) {
                    Some("") => Step::Done,
                    Some(_) => Step::More,
                    None => Step::Broken,
                }
            }
            _ if c.is_whitespace() => Step::More,
            At::List if c == '[' => self.to(At::Function),
            At::Next if c == ',' => self.to(At::Function),
            At::Next if c == ']' => self.to(At::End),
            At::List | At::Next => Step::Broken,
        }
    }

    fn finish(&mut self, calls: &mut Calls<'_>) -> bool {
        match self.at {
            At::List => false,
            At::Function => *calls.count > 0 && self.held.is_empty(),
            At::Key | At::Value if self.arguments == 0 => false,
            At::Key | At::Value => {
                calls.arguments("}");
                true
            }
            At::Next | At::End => true,
        }
    }
}

fn is_function(name: &str) -> bool {
    is_name(name) && name.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Where a literal ends, which is all that is known before it is whole.
#[derive(Default)]
struct Literal {
    depth: u32,
    quote: Option<char>,
    escaped: bool,
}

impl Literal {
    fn ends_before(&mut self, c: char) -> bool {
        if let Some(quote) = self.quote {
            if std::mem::take(&mut self.escaped) {
            } else if c == '\\' {
                self.escaped = true;
            } else if c == quote {
                self.quote = None;
            }
            return false;
        }
        match c {
            '"' | '\'' => self.quote = Some(c),
            '[' | '{' | '(' => self.depth += 1,
            ')' | ',' if self.depth == 0 => return true,
            ']' | '}' | ')' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        false
    }
}

/// A Python literal as JSON: strings, numbers, True, False, None, and lists, tuples and dictionaries of them.
fn literal(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text.trim(), depth: 0 };
    let value = reader.value()?;
    reader.rest.trim().is_empty().then_some(value)
}

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

impl Reader<'_> {
    fn eat(&mut self, c: char) -> bool {
        self.rest = self.rest.trim_start();
        self.rest.strip_prefix(c).map(|rest| self.rest = rest).is_some()
    }

    fn value(&mut self) -> Option<Value> {
        self.rest = self.rest.trim_start();
        match self.rest.chars().next()? {
            '"' | '\'' => self.string().map(Value::from),
            open @ ('[' | '(' | '{') => {
                self.depth += 1;
                self.eat(open);
                let value = match (self.depth > DEPTH_MAX, open) {
                    (true, _) => return None,
                    (false, '{') => Value::Object(self.entries()?),
                    (false, _) => Value::Array(self.items(if open == '[' { ']' } else { ')' })?),
                };
                self.depth -= 1;
                Some(value)
            }
            _ => self.word(),
        }
    }

    fn items(&mut self, close: char) -> Option<Vec<Value>> {
        let mut items = Vec::new();
        loop {
            if self.eat(close) {
                return Some(items);
            }
            items.push(self.value()?);
            if !self.eat(',') {
                return self.eat(close).then_some(items);
            }
        }
    }

    fn entries(&mut self) -> Option<Map<String, Value>> {
        let mut entries = Map::new();
        loop {
            if self.eat('}') {
                return Some(entries);
            }
            let key = match self.value()? {
                Value::String(key) => key,
                other => other.to_string(),
            };
            if !self.eat(':') {
                return None;
            }
            let value = self.value()?;
            entries.insert(key, value);
            if !self.eat(',') {
                return self.eat('}').then_some(entries);
            }
        }
    }

    fn word(&mut self) -> Option<Value> {
        let end = self.rest.find([',', ':', ']', '}', ')']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match word.trim() {
            "True" | "true" => Some(Value::Bool(true)),
            "False" | "false" => Some(Value::Bool(false)),
            "None" | "null" => Some(Value::Null),
            number => {
                let plain = number.replace('_', "");
                serde_json::from_str::<Number>(&plain).ok().map(Value::Number).or_else(|| {
                    // `1.`, `.5` and `+1` are numbers to Python alone.
                    plain.parse::<f64>().ok().filter(|number| number.is_finite()).and_then(Number::from_f64).map(Value::Number)
                })
            }
        }
    }

    fn string(&mut self) -> Option<String> {
        let quote = self.rest.chars().next()?;
        let mut out = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.rest = &self.rest[at + c.len_utf8()..];
                    return Some(out);
                }
                '\\' => match chars.next()?.1 {
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    'r' => out.push('\r'),
                    'b' => out.push('\u{8}'),
                    'f' => out.push('\u{c}'),
                    '\n' => {}
                    escaped @ ('x' | 'u' | 'U') => {
                        let digits = match escaped {
                            'x' => 2,
                            'u' => 4,
                            _ => 8,
                        };
                        let mut code = 0u32;
                        for _ in 0..digits {
                            code = code * 16 + chars.next()?.1.to_digit(16)?;
                        }
                        out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                    c @ ('\\' | '\'' | '"') => out.push(c),
                    other => out.extend(['\\', other]),
                },
                c => out.push(c),
            }
        }
        None
    }
}
