//! One JSON value, checked character by character (RFC 8259), so that its end is known without a second reading.

/// Deepest nesting.
const DEPTH_MAX: usize = 128;

/// A value that is being read. Strings may hold raw control characters, which models write; see [`Json::in_string`].
#[derive(Debug, Clone)]
pub(super) struct Json {
    /// Open containers; true is an object.
    open: Vec<bool>,
    at: At,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Value,
    ValueOrClose,
    Key,
    KeyOrClose,
    Colon,
    CommaOrClose,
    Text { key: bool },
    Escape { key: bool },
    Hex { key: bool, left: u8 },
    Word { rest: &'static str },
    Number(Number),
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    Sign,
    Power,
}

/// What a character means for the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    More,
    /// It ends the value.
    End,
    /// The value ended before it; numbers end so.
    EndBefore,
    Bad,
}

impl Json {
    pub fn new() -> Self {
        Self { open: Vec::new(), at: At::Value }
    }

    /// The character read last stands in a string.
    pub fn in_string(&self) -> bool {
        matches!(self.at, At::Text { .. })
    }

    pub fn push(&mut self, c: char) -> Read {
        let space = matches!(c, ' ' | '\t' | '\n' | '\r');
        match self.at {
            At::Over => Read::Bad,
            At::Text { key } => {
                self.at = match c {
                    '"' => return if key { self.to(At::Colon) } else { self.ended() },
                    '\\' => At::Escape { key },
                    _ => return Read::More,
                };
                Read::More
            }
            At::Escape { key } => match c {
                '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => self.to(At::Text { key }),
                'u' => self.to(At::Hex { key, left: 4 }),
                _ => Read::Bad,
            },
            At::Hex { key, left } if c.is_ascii_hexdigit() => {
                self.to(if left == 1 { At::Text { key } } else { At::Hex { key, left: left - 1 } })
            }
            At::Hex { .. } => Read::Bad,
            At::Word { rest } => match rest.strip_prefix(c) {
                Some("") => self.ended(),
                Some(rest) => self.to(At::Word { rest }),
                None => Read::Bad,
            },
            At::Number(number) => self.number(number, c),
            _ if space => Read::More,
            At::Value => self.value(c),
            At::ValueOrClose if c == ']' => self.close(false),
            At::ValueOrClose => self.value(c),
            At::Key | At::KeyOrClose if c == '"' => self.to(At::Text { key: true }),
            At::KeyOrClose if c == '}' => self.close(true),
            At::Key | At::KeyOrClose => Read::Bad,
            At::Colon if c == ':' => self.to(At::Value),
            At::Colon => Read::Bad,
            At::CommaOrClose => match (c, self.open.last()) {
                (',', Some(true)) => self.to(At::Key),
                (',', Some(false)) => self.to(At::Value),
                ('}', Some(true)) => self.close(true),
                (']', Some(false)) => self.close(false),
                _ => Read::Bad,
            },
        }
    }

    fn to(&mut self, at: At) -> Read {
        self.at = at;
        Read::More
    }

    fn value(&mut self, c: char) -> Read {
        let at = match c {
            '"' => At::Text { key: false },
            '{' | '[' if self.open.len() == DEPTH_MAX => return Read::Bad,
            '{' => {
                self.open.push(true);
                At::KeyOrClose
            }
            '[' => {
                self.open.push(false);
                At::ValueOrClose
            }
            't' => At::Word { rest: "rue" },
            'f' => At::Word { rest: "alse" },
            'n' => At::Word { rest: "ull" },
            '-' => At::Number(Number::Minus),
            '0' => At::Number(Number::Zero),
            '1'..='9' => At::Number(Number::Digits),
            _ => return Read::Bad,
        };
        self.to(at)
    }

    fn number(&mut self, number: Number, c: char) -> Read {
        let next = match (number, c) {
            (Number::Minus, '0') => Number::Zero,
            (Number::Minus, '1'..='9') | (Number::Digits, '0'..='9') => Number::Digits,
            (Number::Zero | Number::Digits, '.') => Number::Point,
            (Number::Point | Number::Fraction, '0'..='9') => Number::Fraction,
            (Number::Zero | Number::Digits | Number::Fraction, 'e' | 'E') => Number::Exponent,
            (Number::Exponent, '+' | '-') => Number::Sign,
            (Number::Exponent | Number::Sign | Number::Power, '0'..='9') => Number::Power,
            (Number::Zero | Number::Digits | Number::Fraction | Number::Power, _) => {
                return match self.ended() {
                    Read::End => Read::EndBefore,
                    _ => self.push(c),
                };
            }
            _ => return Read::Bad,
        };
        self.to(At::Number(next))
    }

    fn close(&mut self, object: bool) -> Read {
        if self.open.pop() == Some(object) { self.ended() } else { Read::Bad }
    }

    fn ended(&mut self) -> Read {
        self.at = if self.open.is_empty() { At::Over } else { At::CommaOrClose };
        if self.at == At::Over { Read::End } else { Read::More }
    }
}

/// Writes a character of a JSON string's inside as it must be written, where the model wrote a raw control character.
pub(super) fn escaped(c: char) -> Option<String> {
    match c {
        '\n' => Some("\\n".to_owned()),
        '\r' => Some("\\r".to_owned()),
        '\t' => Some("\\t".to_owned()),
        c if c < ' ' => Some(format!("\\u{:04x}", u32::from(c))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many characters of `text` the first value has.
    fn value_len(text: &str) -> Option<usize> {
        let mut json = Json::new();
        for (at, c) in text.chars().enumerate() {
            match json.push(c) {
                Read::More => {}
                Read::End => return Some(at + 1),
                Read::EndBefore => return Some(at),
                Read::Bad => return None,
            }
        }
        None
    }

    #[test]
    fn ends_where_serde_ends() {
        let pieces = [
            "{", "}", "[", "]", ",", ":", "\"", "\"a\"", "\\", "\\u00e9", "1", "-", "0", ".", "e", "5", "true", "null", " ",
            "\n", "é",
        ];
        proptest!(ProptestConfig::with_cases(20_000), |(picks in proptest::collection::vec(0..pieces.len(), 1..14))| {
            // A space behind it ends a number.
            let text: String = picks.iter().map(|pick| pieces[*pick]).chain([" "]).collect();
            let mut values = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>();
            let by_serde = match values.next() {
                Some(Ok(_)) => Some(text[..values.byte_offset()].chars().count()),
                _ => None,
            };
            // serde refuses raw control characters, numbers that overflow, lone surrogates, and a number with a letter behind it.
            if let Some(length) = by_serde {
                prop_assert_eq!(value_len(&text), Some(length), "{}", text);
            }
        });
    }

    #[test]
    fn refuses_what_is_no_json() {
        for text in
            ["{a", "{\"a\" 1", "[1,,", "[1,]", "{\"a\":1,}", "tru ", "nul]", "-a", "1.e", "\"\\x", "\"\\u00g", "01 ", "]", "[1}"]
        {
            assert!(value_len(text).is_none_or(|length| text == "01 " && length == 1), "{text}");
        }
        assert_eq!(value_len(&"[".repeat(1000)), None);
    }
}
