//! Mistral: `[TOOL_CALLS]` and a list of objects, or from tokenizer version 11 on `[TOOL_CALLS]f[ARGS]{…}`, again for each call.

use super::listed::{Listed, MISTRAL_LIST};
use super::named::{Named, Shape};
use super::{Calls, Region, Step, ToolFormat};

pub(super) const FORMAT: ToolFormat = ToolFormat {
    names: &["mistral"],
    opens: &["[TOOL_CALLS]"],
    bare: &[],
    signs: &[&["[TOOL_CALLS]"]],
    region: |_| {
        static SHAPE: Shape = Shape { open: "", name, close: "", end: "" };
        Box::new(Mistral { at: At::Begin, listed: Listed::new(&MISTRAL_LIST), named: Named::new(&SHAPE) })
    },
    envelope: None,
    short_ids: true,
};

/// `f`, `f[ARGS]` or `f[CALL_ID]abc[ARGS]`.
fn name(head: &str) -> Option<&str> {
    head.split('[').next()
}

struct Mistral {
    at: At,
    listed: Listed,
    named: Named,
}

#[derive(Clone, Copy)]
enum At {
    Begin,
    Listed,
    Named,
}

impl Region for Mistral {
    fn begin(&mut self, marker: &'static str) {
        self.at = At::Begin;
        self.listed.begin(marker);
        self.named.begin(marker);
    }

    fn push(&mut self, c: char, calls: &mut Calls<'_>) -> Step {
        if let At::Begin = self.at {
            if c.is_whitespace() {
                return Step::More;
            }
            self.at = if matches!(c, '[' | '{') { At::Listed } else { At::Named };
        }
        match self.at {
            At::Listed => self.listed.push(c, calls),
            At::Begin | At::Named => self.named.push(c, calls),
        }
    }

    fn finish(&mut self, calls: &mut Calls<'_>) -> bool {
        match self.at {
            At::Begin => false,
            At::Listed => self.listed.finish(calls),
            At::Named => self.named.finish(calls),
        }
    }
}
