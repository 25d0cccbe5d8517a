//! The machine that all formats share: content until a marker, then a region of calls, then content again.

use serde_json::Value;

use super::{Calls, Region, Step, ToolFormat};
use crate::marker::{Found, Search};
use crate::reply::{Delta, Kind, push};

/// Most calls of one reply; what looks like one more is content.
const CALLS_MAX: u32 = 128;
/// Most text that waits to become a call, in bytes.
const RAW_BYTES_MAX: usize = 64 << 10;
/// Most white space that waits for what follows it, in bytes.
const SPACE_BYTES_MAX: usize = 1 << 10;
/// Reads what follows the thought.
pub(crate) struct Tools {
    mode: Mode,
    count: u32,
}

enum Mode {
    /// All is content.
    None,
    /// All is the arguments of this function.
    Named {
        name: String,
        begun: bool,
    },
    Marked(Box<Marked>),
}

impl Tools {
    pub fn none() -> Self {
        Self { mode: Mode::None, count: 0 }
    }

    pub fn named(name: &str) -> Self {
        Self { mode: Mode::Named { name: name.to_owned(), begun: false }, count: 0 }
    }

    pub fn new(format: &'static ToolFormat, tools: &[Value]) -> Self {
        let marked = Marked {
            format,
            region: (format.region)(tools),
            search: Search::new(format.opens.iter().copied()),
            within: false,
            raw: String::new(),
            space: String::new(),
            fresh: true,
            started: false,
            scratch: String::new(),
        };
        Self { mode: Mode::Marked(Box::new(marked)), count: 0 }
    }

    pub fn calls(&self) -> u32 {
        self.count
    }

    pub fn feed(&mut self, text: &str, out: &mut Vec<Delta>) {
        match &mut self.mode {
            Mode::None => push(out, Kind::Content, text),
            Mode::Named { name, begun } => {
                let mut calls = Calls { out, count: &mut self.count, touched: false };
                if !text.is_empty() && !std::mem::replace(begun, true) {
                    calls.begin(name);
                }
                if *begun {
                    calls.arguments(text);
                }
            }
            Mode::Marked(marked) => {
                for c in text.chars() {
                    marked.push(c, &mut Calls { out: &mut *out, count: &mut self.count, touched: false });
                }
            }
        }
    }

    pub fn finish(&mut self, out: &mut Vec<Delta>) {
        if let Mode::Marked(marked) = &mut self.mode {
            marked.finish(&mut Calls { out, count: &mut self.count, touched: false });
        }
    }
}

/// Content with regions of calls in it.
struct Marked {
    format: &'static ToolFormat,
    region: Box<dyn Region>,
    search: Search,
    within: bool,
    /// Within a region: what came since the last piece of a call.
    raw: String,
    /// White space that is content if content follows, and nothing if calls do.
    space: String,
    /// Nothing but white space came since the reply began or a call ended.
    fresh: bool,
    /// The reply has begun.
    started: bool,
    scratch: String,
}

impl Marked {
    fn push(&mut self, c: char, calls: &mut Calls<'_>) {
        if self.within { self.within(c, calls) } else { self.outside(c, calls) }
    }

    fn outside(&mut self, c: char, calls: &mut Calls<'_>) {
        let begins = !self.started && !c.is_whitespace();
        self.started |= begins;
        if begins && self.format.bare.contains(&c) {
            self.enter("");
            return self.within(c, calls);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        match self.search.push(c, &mut scratch) {
            Found::Nothing => {}
            Found::Text(text) => self.content(text, calls),
            Found::Marker(text, marker) => {
                self.content(text, calls);
                if *calls.count < CALLS_MAX { self.enter(marker) } else { self.content(marker, calls) }
            }
        }
        self.scratch = scratch;
    }

    fn enter(&mut self, marker: &'static str) {
        self.raw = std::mem::take(&mut self.space) + marker;
        self.region.begin(marker);
        self.within = true;
    }

    fn within(&mut self, c: char, calls: &mut Calls<'_>) {
        let step = self.region.push(c, calls);
        if calls.touched {
            self.raw.clear();
        }
        match step {
            Step::More if self.raw.len() < RAW_BYTES_MAX => {
                if !calls.touched {
                    self.raw.push(c);
                }
            }
            Step::Done => self.leave(),
            Step::Back => {
                self.leave();
                self.outside(c, calls);
            }
            Step::More | Step::Broken => {
                let raw = std::mem::take(&mut self.raw);
                self.leave();
                self.content(&raw, calls);
                self.outside(c, calls);
            }
        }
    }

    fn leave(&mut self) {
        self.raw.clear();
        self.within = false;
        self.fresh = true;
    }

    fn content(&mut self, text: &str, calls: &mut Calls<'_>) {
        for c in text.chars() {
            if self.fresh && c.is_whitespace() && self.space.len() < SPACE_BYTES_MAX {
                self.space.push(c);
                continue;
            }
            self.fresh = false;
            push(calls.out, Kind::Content, &self.space);
            self.space.clear();
            push(calls.out, Kind::Content, c.encode_utf8(&mut [0; 4]));
        }
    }

    fn finish(&mut self, calls: &mut Calls<'_>) {
        if self.within {
            let raw = std::mem::take(&mut self.raw);
            let belongs = self.region.finish(calls);
            self.leave();
            if !belongs {
                self.content(&raw, calls);
            }
        } else {
            let held = self.search.finish();
            self.content(&held, calls);
        }
        if *calls.count == 0 {
            push(calls.out, Kind::Content, &self.space);
        }
        self.space.clear();
    }
}
