//! Methods of Python's values that Jinja's do not have by themselves: strings here, what is left by `minijinja-contrib`.

use minijinja::value::{Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat;

use super::text;

/// Calls a method of a value.
pub(crate) fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && let Some(result) = text::method(state, text, name, args)?
    {
        return Ok(result);
    }
    match (value.kind(), name) {
        (ValueKind::Seq, "index") => {
            let (wanted,): (Value,) = from_args(args)?;
            let place = value.try_iter()?.position(|item| item == wanted);
            place.map(Value::from).ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("{wanted} is not in list")))
        }
        (ValueKind::Seq | ValueKind::Map, "copy") => {
            from_args::<()>(args)?;
            Ok(value.clone())
        }
        _ => pycompat::unknown_method_callback(state, value, name, args),
    }
}
