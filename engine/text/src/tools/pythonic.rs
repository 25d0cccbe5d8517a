//! Calls as Python writes them: `[f(a=1, b="x"), g()]` (Llama 3.2, ToolACE; Llama 4 between markers).

use serde_json::Value;

use super::literal::{Literal, literal};
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
