//! Kimi K2: `<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{…}<|tool_call_end|>` within a section.

use super::ToolFormat;
use super::named::{Named, Shape};

const OPEN: &str = "<|tool_call_begin|>";

pub(super) const FORMAT: ToolFormat = ToolFormat {
    names: &["kimi_k2"],
    opens: &["<|tool_calls_section_begin|>", OPEN],
    bare: &[],
    signs: &[&["<|tool_calls_section_begin|>"]],
    region: |_| {
        static SHAPE: Shape = Shape { open: OPEN, name, close: "<|tool_call_end|>", end: "<|tool_calls_section_end|>" };
        Box::new(Named::new(&SHAPE))
    },
    envelope: None,
    short_ids: false,
};

/// `functions.f:0` calls f.
fn name(head: &str) -> Option<&str> {
    let id = head.split_once("<|tool_call_argument_begin|>")?.0.trim();
    let id = id.rsplit_once(':').map_or(id, |(name, _)| name);
    Some(id.strip_prefix("functions.").unwrap_or(id))
}
