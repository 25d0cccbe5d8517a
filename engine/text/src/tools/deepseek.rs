//! DeepSeek V3 and R1 (arguments fenced as a code block) and V3.1 (bare).

use super::ToolFormat;
use super::named::{Named, Shape};

const OPENS: &[&str] = &["<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"];
const OPEN: &str = "<｜tool▁call▁begin｜>";
const CLOSE: &str = "<｜tool▁call▁end｜>";
const END: &str = "<｜tool▁calls▁end｜>";
const SEPARATOR: &str = "<｜tool▁sep｜>";

/// `function<｜tool▁sep｜>f` and a fenced block of arguments.
pub(super) const V3: ToolFormat = ToolFormat {
    names: &["deepseek_v3"],
    opens: OPENS,
    bare: &[],
    signs: &[&[OPEN, "```json"]],
    region: |_| {
        static SHAPE: Shape = Shape { open: OPEN, name: behind_separator, close: CLOSE, end: END };
        Box::new(Named::new(&SHAPE))
    },
    envelope: None,
    short_ids: false,
};

/// `f<｜tool▁sep｜>{…}`.
pub(super) const V31: ToolFormat = ToolFormat {
    names: &["deepseek_v31"],
    opens: OPENS,
    bare: &[],
    signs: &[&[OPEN]],
    region: |_| {
        static SHAPE: Shape = Shape { open: OPEN, name: before_separator, close: CLOSE, end: END };
        Box::new(Named::new(&SHAPE))
    },
    envelope: None,
    short_ids: false,
};

fn behind_separator(head: &str) -> Option<&str> {
    let (_, name) = head.split_once(SEPARATOR)?;
    let name = name.trim_end();
    Some(name.strip_suffix("```json").unwrap_or(name))
}

fn before_separator(head: &str) -> Option<&str> {
    Some(head.split_once(SEPARATOR)?.0)
}
