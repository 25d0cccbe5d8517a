//! Values as Python writes them, where templates expect Python: `json.dumps`, `str()` and `strftime`; and its methods.

mod date;
mod methods;
mod write;

pub(crate) use self::date::strftime;
pub(crate) use self::methods::method;
pub(crate) use self::write::{JsonStyle, json, str};
