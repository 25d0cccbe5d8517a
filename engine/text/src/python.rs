//! Values as Python writes them, where templates expect Python: `json.dumps`, `str()` and `strftime`; its methods; and Jinja's filters as Python sees them.

mod date;
mod filters;
mod methods;
mod text;
mod write;

pub(crate) use self::date::strftime;
pub(crate) use self::filters::install as install_filters;
pub(crate) use self::methods::method;
pub(crate) use self::write::{JsonStyle, json, str};
