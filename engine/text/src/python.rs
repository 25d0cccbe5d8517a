//! Values as Python writes them, where templates expect Python: `json.dumps`, `str()` and `strftime`.

mod date;
mod write;

pub(crate) use self::date::strftime;
pub(crate) use self::write::{JsonStyle, json, str};
