//! Jinja's filters and tests where minijinja's write or see values otherwise than Python's.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

use super::text::{charge, is_space, lines, padded};
use super::write::str;

/// Puts them into an environment.
pub(crate) fn install(environment: &mut Environment<'_>) {
    environment.add_filter("string", |value: &Value| str(value));
    environment.add_filter("join", join);
    environment.add_filter("indent", indent);
    environment.add_filter("trim", trim);
    environment.add_filter("center", center);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    // Whatever has a length and items is a sequence to Jinja in Python, so strings and mappings are.
    let sequence =
        |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map | ValueKind::Undefined);
    environment.add_test("sequence", sequence);
    environment.add_test("iterable", move |value: &Value| sequence(value) || value.kind() == ValueKind::Iterable);
}

fn join(state: &State<'_, '_>, values: &Value, separator: Option<&str>, kwargs: Kwargs) -> Result<String, Error> {
    let separator = separator.or(kwargs.get("d")?).unwrap_or_default();
    let attribute: Option<&str> = kwargs.get("attribute")?;
    kwargs.assert_all_used()?;
    let mut out = String::new();
    for (at, value) in values.try_iter()?.enumerate() {
        if at > 0 {
            charge(state, separator.len())?;
            out.push_str(separator);
        }
        match attribute {
            Some(path) => {
                let item = path.split('.').try_fold(value, |value, name| value.get_attr(name))?;
                out.push_str(&str(&item)?);
            }
            None => out.push_str(&str(&value)?),
        }
    }
    Ok(out)
}

/// `do_indent` of Jinja: a last empty line counts as a line.
fn indent(
    state: &State<'_, '_>,
    text: &Value,
    width: Option<Value>,
    first: Option<bool>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let width = width.or(kwargs.get("width")?).unwrap_or_else(|| Value::from(4));
    let first = first.or(kwargs.get("first")?).unwrap_or(false);
    let blank = kwargs.get::<Option<bool>>("blank")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let indention = match (width.as_str(), width.as_usize()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(width)) => {
            charge(state, width)?;
            " ".repeat(width)
        }
        (None, None) => return Err(Error::new(ErrorKind::InvalidOperation, "indent takes a width or a text")),
    };
    let text = str(text)? + "\n";
    let mut out = String::with_capacity(text.len());
    for (at, (line, _)) in lines(&text).enumerate() {
        if at > 0 {
            out.push('\n');
        }
        let indented = if at == 0 { first } else { blank || !line.is_empty() };
        if indented {
            charge(state, indention.len())?;
            out.push_str(&indention);
        }
        out.push_str(line);
    }
    Ok(out)
}

fn trim(text: &Value, set: Option<&str>) -> Result<String, Error> {
    let text = str(text)?;
    Ok(text.trim_matches(|c| set.map_or_else(|| is_space(c), |set| set.contains(c))).to_owned())
}

fn center(state: &State<'_, '_>, text: &Value, width: Option<usize>) -> Result<Value, Error> {
    padded(state, &str(text)?, "center", width.unwrap_or(80), ' ')
}

fn default(value: &Value, other: Option<Value>, boolean: Option<bool>, kwargs: Kwargs) -> Result<Value, Error> {
    let other = other.or(kwargs.get("default_value")?).unwrap_or_else(|| Value::from(""));
    let boolean = boolean.or(kwargs.get("boolean")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let missing = value.is_undefined() || boolean && !value.is_true();
    Ok(if missing { other } else { value.clone() })
}

/// With the entities that Python's `markupsafe` writes.
fn escape(value: &Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value.clone());
    }
    let text = str(value)?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    Ok(Value::from_safe_string(out))
}

/// `int(value)` of Python, after `float(value)` where the text is one; else the default.
fn int(value: &Value, default: Option<Value>, base: Option<u32>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = default.or(kwargs.get("default")?).unwrap_or_else(|| Value::from(0));
    let base = base.or(kwargs.get("base")?).unwrap_or(10);
    kwargs.assert_all_used()?;
    let Some(text) = value.as_str() else {
        return Ok(match value.kind() {
            ValueKind::Bool => Value::from(i64::from(value.is_true())),
            ValueKind::Number if value.is_integer() => value.clone(),
            ValueKind::Number => f64::try_from(value.clone()).ok().and_then(whole).unwrap_or(default),
            _ => default,
        });
    };
    let text = text.trim_matches(is_space).replace('_', "");
    let (negative, digits) = text.strip_prefix('-').map_or((false, text.trim_start_matches('+')), |digits| (true, digits));
    let prefix = match base {
        2 => ["0b", "0B"],
        8 => ["0o", "0O"],
        16 => ["0x", "0X"],
        _ => ["", ""],
    };
    let digits = prefix.iter().find_map(|prefix| digits.strip_prefix(prefix)).unwrap_or(digits);
    let number = (2..=36).contains(&base).then(|| i64::from_str_radix(digits, base).ok()).flatten();
    Ok(match number {
        Some(number) => Value::from(if negative { -number } else { number }),
        None => text.parse::<f64>().ok().and_then(whole).unwrap_or(default),
    })
}

/// A float cut to its whole part, where an integer holds it.
fn whole(x: f64) -> Option<Value> {
    (x.abs() < i64::MAX as f64).then(|| Value::from(x.trunc() as i64))
}

fn float(value: &Value, default: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = default.or(kwargs.get("default")?).unwrap_or_else(|| Value::from(0.0));
    kwargs.assert_all_used()?;
    let number = match value.as_str() {
        Some(text) => text.trim_matches(is_space).replace('_', "").parse::<f64>().ok(),
        None if value.kind() == ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        None => f64::try_from(value.clone()).ok(),
    };
    Ok(number.map_or(default, Value::from))
}
