//! Methods of Python's strings and lists that templates call and `minijinja-contrib` does not have.

use minijinja::value::{Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat;

/// Calls a method that Jinja values do not have by themselves.
pub(crate) fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.as_str(), name) {
        (Some(text), "rsplit") => rsplit(text, args),
        (Some(text), "removeprefix") => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        (Some(text), "removesuffix") => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        (Some(text), "partition" | "rpartition") => {
            let (separator,): (&str,) = from_args(args)?;
            let (split, absent) = match name {
                "partition" => (text.split_once(separator), [text, "", ""]),
                _ => (text.rsplit_once(separator), ["", "", text]),
            };
            let parts = split.map_or(absent, |(before, after)| [before, separator, after]);
            Ok(parts.into_iter().map(Value::from).collect())
        }
        (None, "index") if value.kind() == ValueKind::Seq => {
            let (wanted,): (Value,) = from_args(args)?;
            let place = value.try_iter()?.position(|item| item == wanted);
            place.map(Value::from).ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("{wanted} is not in list")))
        }
        _ => pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
    // A negative number of splits is any number, as in Python.
    let parts = most.and_then(|most| usize::try_from(most).ok()).map_or(usize::MAX, |most| most.saturating_add(1));
    let mut found: Vec<&str> = match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(separator) => text.rsplitn(parts, separator).collect(),
        None => {
            let mut rest = text.trim();
            let mut words = Vec::new();
            while !rest.is_empty() {
                match rest.char_indices().rev().find(|(_, c)| c.is_whitespace()).filter(|_| words.len() + 1 < parts) {
                    Some((at, space)) => {
                        words.push(&rest[at + space.len_utf8()..]);
                        rest = rest[..at].trim_end();
                    }
                    None => words.push(std::mem::take(&mut rest)),
                }
            }
            words
        }
    };
    found.reverse();
    Ok(found.into_iter().map(Value::from).collect())
}
