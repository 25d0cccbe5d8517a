//! `json.dumps` and `str` over template values.

use std::fmt::Write;

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Values nest no deeper; JSON bodies cannot, but a template can build what it likes.
const MAX_DEPTH: usize = 128;

/// The arguments of `json.dumps` that templates use.
#[derive(Debug, Clone)]
pub(crate) struct JsonStyle {
    pub ensure_ascii: bool,
    /// Spaces per level; `None` is one line.
    pub indent: Option<usize>,
    pub item_separator: String,
    pub key_separator: String,
    pub sort_keys: bool,
}

/// `json.dumps(value, …)`.
pub(crate) fn json(value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let mut out = String::new();
    write_json(&mut out, value, style, 0)?;
    Ok(out)
}

fn write_json(out: &mut String, value: &Value, style: &JsonStyle, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "value is nested too deeply"));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => number(out, value, ["NaN", "Infinity", "-Infinity"]),
        ValueKind::String => json_string(out, value.as_str().unwrap_or_default(), style.ensure_ascii),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            enclosed(out, style, depth, '[', ']', &items, |out, item| write_json(out, item, style, depth + 1))?;
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort_keys {
                keys.sort();
            }
            enclosed(out, style, depth, '{', '}', &keys, |out, key| {
                let mut text = String::new();
                match key.kind() {
                    ValueKind::String => text.push_str(key.as_str().unwrap_or_default()),
                    ValueKind::None | ValueKind::Bool | ValueKind::Number => write_json(&mut text, key, style, depth + 1)?,
                    other => return Err(not_serializable(other)),
                }
                json_string(out, &text, style.ensure_ascii);
                out.push_str(&style.key_separator);
                write_json(out, &value.get_item(key)?, style, depth + 1)
            })?;
        }
        other => return Err(not_serializable(other)),
    }
    Ok(())
}

fn not_serializable(kind: ValueKind) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("Object of type {kind} is not JSON serializable"))
}

fn enclosed(
    out: &mut String,
    style: &JsonStyle,
    depth: usize,
    open: char,
    close: char,
    items: &[Value],
    mut item: impl FnMut(&mut String, &Value) -> Result<(), Error>,
) -> Result<(), Error> {
    let new_line = |out: &mut String, depth: usize| {
        if let Some(indent) = style.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    out.push(open);
    for (at, value) in items.iter().enumerate() {
        if at > 0 {
            out.push_str(&style.item_separator);
        }
        new_line(out, depth + 1);
        item(out, value)?;
    }
    if !items.is_empty() {
        new_line(out, depth);
    }
    out.push(close);
    Ok(())
}

fn json_string(out: &mut String, text: &str, ensure_ascii: bool) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || ensure_ascii && !matches!(c, ' '..='~') => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    push(out, format_args!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// `str(value)`, as Jinja prints it: strings as they are, everything else as `repr` writes it.
pub(crate) fn str(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    match value.as_str() {
        Some(text) => out.push_str(text),
        None => repr(&mut out, value, 0)?,
    }
    Ok(out)
}

fn repr(out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "value is nested too deeply"));
    }
    let list = |out: &mut String, items: &mut dyn Iterator<Item = Value>, map: bool| {
        for (at, item) in items.enumerate() {
            if at > 0 {
                out.push_str(", ");
            }
            repr(out, &item, depth + 1)?;
            if map {
                out.push_str(": ");
                repr(out, &value.get_item(&item)?, depth + 1)?;
            }
        }
        Ok::<(), Error>(())
    };
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => number(out, value, ["nan", "inf", "-inf"]),
        ValueKind::String => repr_string(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq if value.is_tuple() => {
            out.push('(');
            list(out, &mut value.try_iter()?, false)?;
            out.push_str(if value.len() == Some(1) { ",)" } else { ")" });
        }
        ValueKind::Seq => {
            out.push('[');
            list(out, &mut value.try_iter()?, false)?;
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            list(out, &mut value.try_iter()?, true)?;
            out.push('}');
        }
        _ => push(out, format_args!("{value}")),
    }
    Ok(())
}

fn repr_string(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => match u32::from(c) {
                code @ 0..=0xFF => push(out, format_args!("\\x{code:02x}")),
                code @ 0x100..=0xFFFF => push(out, format_args!("\\u{code:04x}")),
                code => push(out, format_args!("\\U{code:08x}")),
            },
        }
    }
    out.push(quote);
}

/// `str.isprintable`, for the characters that occur: controls, spaces other than the one, and marks that show nothing are not.
fn is_printable(c: char) -> bool {
    let shows_nothing = matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e000}'..='\u{f8ff}');
    !(c.is_control() || c.is_whitespace() && c != ' ' || shows_nothing)
}

fn number(out: &mut String, value: &Value, [nan, infinity, negative_infinity]: [&str; 3]) {
    if value.is_integer() {
        return push(out, format_args!("{value}"));
    }
    match f64::try_from(value.clone()) {
        Ok(x) if x.is_nan() => out.push_str(nan),
        Ok(x) if x.is_infinite() => out.push_str(if x > 0.0 { infinity } else { negative_infinity }),
        Ok(x) => float(out, x),
        Err(_) => push(out, format_args!("{value}")),
    }
}

/// `repr(float)`: the shortest digits that read back, with an exponent from 1e16 on and below 1e-4.
fn float(out: &mut String, x: f64) {
    if x == 0.0 || (1e-4..1e16).contains(&x.abs()) {
        let start = out.len();
        push(out, format_args!("{x}"));
        if !out[start..].contains('.') {
            out.push_str(".0");
        }
        return;
    }
    let scientific = format!("{x:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    push(out, format_args!("{mantissa}e{sign}{digits:0>2}"));
}

fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("writing to a string cannot fail");
}
