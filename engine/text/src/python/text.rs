//! The methods of Python's `str` that templates call.

use minijinja::value::{Kwargs, Tuple, Value, from_args};
use minijinja::{Error, ErrorKind, State};

/// Calls a method of a string. `None`: it is not one of those that are done here.
pub(super) fn method(state: &State<'_, '_>, text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let value = match name {
        "strip" => strip(text, args, true, true)?,
        "lstrip" => strip(text, args, true, false)?,
        "rstrip" => strip(text, args, false, true)?,
        "split" => split(text, args)?,
        "rsplit" => rsplit(text, args)?,
        "splitlines" => {
            let (keep, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(kwargs.get("keepends")?).unwrap_or(false);
            lines(text).map(|(line, end)| Value::from(if keep { end } else { line })).collect()
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let separator = not_empty(separator)?;
            let (split, absent) = match name {
                "partition" => (text.split_once(separator), [text, "", ""]),
                _ => (text.rsplit_once(separator), ["", "", text]),
            };
            let parts = split.map_or(absent, |(before, after)| [before, separator, after]);
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "startswith" => affixed(text, args, |text, prefix| text.starts_with(prefix))?,
        "endswith" => affixed(text, args, |text, suffix| text.ends_with(suffix))?,
        "find" | "index" => found(text, args, name == "index", |text, what| text.find(what))?,
        "rfind" | "rindex" => found(text, args, name == "rindex", |text, what| text.rfind(what))?,
        "count" => {
            let (what, within) = within(text, args)?;
            Value::from(
                within.map_or(0, |(_, part)| if what.is_empty() { part.chars().count() + 1 } else { part.matches(what).count() }),
            )
        }
        "join" => join(state, text, args)?,
        "capitalize" => none_asked(args, || {
            let mut chars = text.chars();
            chars
                .next()
                .map_or_else(String::new, |first| first.to_uppercase().chain(chars.as_str().to_lowercase().chars()).collect())
        })?,
        "title" => none_asked(args, || title(text))?,
        "swapcase" => none_asked(args, || {
            let swap = |c: char| if c.is_uppercase() { c.to_lowercase().to_string() } else { c.to_uppercase().to_string() };
            text.chars().map(swap).collect::<String>()
        })?,
        "casefold" => none_asked(args, || text.to_lowercase().replace('ß', "ss"))?,
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            padded(state, text, name, width, '0')?
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (usize, Option<char>) = from_args(args)?;
            padded(state, text, name, width, fill.unwrap_or(' '))?
        }
        "isdigit" => none_asked(args, || !text.is_empty() && text.chars().all(|c| is_decimal(c) || is_raised(c)))?,
        "isdecimal" => none_asked(args, || !text.is_empty() && text.chars().all(is_decimal))?,
        "isspace" => none_asked(args, || !text.is_empty() && text.chars().all(is_space))?,
        _ => return Ok(None),
    };
    Ok(Some(value))
}

/// A method without arguments.
fn none_asked<T: Into<Value>>(args: &[Value], method: impl FnOnce() -> T) -> Result<Value, Error> {
    from_args::<()>(args)?;
    Ok(method().into())
}

fn refuse(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

fn not_empty(separator: &str) -> Result<&str, Error> {
    if separator.is_empty() { Err(refuse("empty separator")) } else { Ok(separator) }
}

/// `str.isspace` of a character: Unicode's white space and the four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// A decimal digit: a number that is no fraction, no numeral of its own, and neither raised nor enclosed.
fn is_decimal(c: char) -> bool {
    let other = matches!(c, '¼'..='¾' | '\u{2150}'..='\u{218f}' | '\u{2460}'..='\u{24ff}' | '\u{2776}'..='\u{2793}' | '\u{3007}'..='\u{3289}');
    c.is_numeric() && !other && !is_raised(c)
}

fn is_raised(c: char) -> bool {
    matches!(c, '²' | '³' | '¹' | '\u{2070}'..='\u{2079}' | '\u{2080}'..='\u{2089}')
}

fn strip(text: &str, args: &[Value], start: bool, end: bool) -> Result<Value, Error> {
    let (set,): (Option<&str>,) = from_args(args)?;
    let gone = |c: char| set.map_or_else(|| is_space(c), |set| set.contains(c));
    let text = if start { text.trim_start_matches(gone) } else { text };
    Ok(Value::from(if end { text.trim_end_matches(gone) } else { text }))
}

/// `sep` and `maxsplit`, by place or by name. Less than no splits are as many as there are.
fn splitting(args: &[Value]) -> Result<(Option<String>, usize), Error> {
    let (separator, most, kwargs): (Option<String>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.or(kwargs.get::<Option<String>>("sep")?);
    let most = most.or(kwargs.get::<Option<i64>>("maxsplit")?);
    kwargs.assert_all_used()?;
    if let Some(separator) = &separator {
        not_empty(separator)?;
    }
    Ok((separator, most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)))
}

fn split(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, most) = splitting(args)?;
    if let Some(separator) = separator {
        return Ok(text.splitn(most.saturating_add(1), separator.as_str()).map(Value::from).collect());
    }
    let mut words = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = if words.len() < most { rest.find(is_space) } else { None };
        let (word, more) = rest.split_at(end.unwrap_or(rest.len()));
        words.push(Value::from(word));
        rest = more.trim_start_matches(is_space);
    }
    Ok(Value::from(words))
}

fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, most) = splitting(args)?;
    let mut found: Vec<Value> = match separator {
        Some(separator) => text.rsplitn(most.saturating_add(1), separator.as_str()).map(Value::from).collect(),
        None => {
            let mut words = Vec::new();
            let mut rest = text.trim_end_matches(is_space);
            while !rest.is_empty() {
                let space = if words.len() < most { rest.char_indices().rev().find(|(_, c)| is_space(*c)) } else { None };
                let start = space.map_or(0, |(at, c)| at + c.len_utf8());
                words.push(Value::from(&rest[start..]));
                rest = rest[..start].trim_end_matches(is_space);
            }
            words
        }
    };
    found.reverse();
    Ok(Value::from(found))
}

/// The lines of a text by everything that Python takes for an end of line, without and with that end.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let ends = |c: char| matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = rest.find(ends).unwrap_or(rest.len());
        let behind = &rest[length..];
        let end = if behind.starts_with("\r\n") { 2 } else { behind.chars().next().map_or(0, char::len_utf8) };
        let (whole, more) = rest.split_at(length + end);
        rest = more;
        Some((&whole[..length], whole))
    })
}

/// How many characters are before a part of a text, and the part.
type Part<'a> = (usize, &'a str);

/// The part of a text that `start` and `end` leave; `None`: `start` is behind the end.
fn part(text: &str, start: Option<i64>, end: Option<i64>) -> Option<Part<'_>> {
    if start.is_none() && end.is_none() {
        return Some((0, text));
    }
    let count = text.chars().count();
    let place = |at: i64| if at < 0 { count.saturating_sub(at.unsigned_abs() as usize) } else { at as usize };
    let (start, end) = (start.map_or(0, place), end.map_or(count, place).min(count));
    if start > end {
        return None;
    }
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    Some((start, &text[byte(start)..byte(end)]))
}

/// What is looked for, and where.
fn within<'a>(text: &'a str, args: &'a [Value]) -> Result<(&'a str, Option<Part<'a>>), Error> {
    let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    Ok((what, part(text, start, end)))
}

fn found(text: &str, args: &[Value], must: bool, find: impl Fn(&str, &str) -> Option<usize>) -> Result<Value, Error> {
    let (what, within) = within(text, args)?;
    let place = within.and_then(|(before, part)| find(part, what).map(|at| before + part[..at].chars().count()));
    match place {
        Some(place) => Ok(Value::from(place)),
        None if must => Err(refuse("substring not found")),
        None => Ok(Value::from(-1)),
    }
}

fn affixed(text: &str, args: &[Value], test: impl Fn(&str, &str) -> bool) -> Result<Value, Error> {
    let (affix, start, end): (Value, Option<i64>, Option<i64>) = from_args(args)?;
    let Some((_, part)) = part(text, start, end) else { return Ok(Value::from(false)) };
    let one = |affix: &Value| {
        affix.as_str().map(|affix| test(part, affix)).ok_or_else(|| refuse(format!("{} is no string", affix.kind())))
    };
    if affix.as_str().is_some() || !affix.is_tuple() {
        return one(&affix).map(Value::from);
    }
    for affix in affix.try_iter()? {
        if one(&affix)? {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

fn join(state: &State<'_, '_>, separator: &str, args: &[Value]) -> Result<Value, Error> {
    let (values,): (Value,) = from_args(args)?;
    let mut out = String::new();
    for (at, value) in values.try_iter()?.enumerate() {
        if at > 0 {
            out.push_str(separator);
        }
        let text =
            value.as_str().ok_or_else(|| refuse(format!("sequence item {at}: expected str instance, {} found", value.kind())))?;
        charge(state, separator.len())?;
        out.push_str(text);
    }
    Ok(Value::from(out))
}

/// The first cased letter of each run of them in upper case, the others in lower case.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        inside = c.is_lowercase() || c.is_uppercase();
    }
    out
}

/// `zfill`, `ljust`, `rjust` or `center` to `width` characters.
pub(super) fn padded(state: &State<'_, '_>, text: &str, how: &str, width: usize, fill: char) -> Result<Value, Error> {
    let missing = width.saturating_sub(text.chars().count());
    charge(state, missing)?;
    let left = match how {
        "ljust" => 0,
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    let (sign, text) = text.split_at(usize::from(how == "zfill" && text.starts_with(['+', '-'])));
    let pad = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
    Ok(Value::from(format!("{sign}{}{text}{}", pad(left), pad(missing - left))))
}

/// Pays for bytes that are about to be made, one fuel per 64 as minijinja does.
pub(super) fn charge(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    if bytes < 64 { Ok(()) } else { state.consume_fuel(bytes as u64 / 64) }
}
