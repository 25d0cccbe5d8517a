//! GLM 4.5 and later: `<tool_call>f`, then `<arg_key>a</arg_key><arg_value>1</arg_value>` for each argument, `</tool_call>`.

use serde_json::{Map, Value};

use super::ToolFormat;
use super::whole::{Schemas, Whole};

pub(super) const FORMAT: ToolFormat = ToolFormat {
    names: &["glm45", "glm47"],
    opens: &["<tool_call>"],
    bare: &[],
    signs: &[&["<tool_call>", "<arg_key>"]],
    region: |tools| Box::new(Whole::new("</tool_call>", read, tools)),
    envelope: None,
    short_ids: false,
};

fn read(inside: &str, schemas: &Schemas) -> Option<(String, Map<String, Value>)> {
    let (name, mut rest) = inside.split_once("<arg_key>").unwrap_or((inside, ""));
    let name = name.trim();
    let mut arguments = Map::new();
    while !rest.is_empty() {
        let (key, behind) = rest.split_once("</arg_key>")?;
        let (_, value) = behind.split_once("<arg_value>")?;
        let (value, behind) = value.split_once("</arg_value>").unwrap_or((value, ""));
        let key = key.trim();
        arguments.insert(key.to_owned(), schemas.value(name, key, value));
        rest = behind.split_once("<arg_key>").map_or("", |(_, rest)| rest);
    }
    Some((name.to_owned(), arguments))
}
