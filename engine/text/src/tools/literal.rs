//! Literals as Python writes them.

use serde_json::{Map, Number, Value};

/// Deepest nesting of a literal.
const DEPTH_MAX: usize = 64;

/// Where a literal ends, which is all that is known before it is whole.
#[derive(Default)]
pub(super) struct Literal {
    depth: u32,
    quote: Option<char>,
    escaped: bool,
}

impl Literal {
    /// Whether the literal, to which all characters so far belong, ends before this one.
    pub fn ends_before(&mut self, c: char) -> bool {
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
pub(super) fn literal(text: &str) -> Option<Value> {
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
