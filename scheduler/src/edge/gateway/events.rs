//! Server-sent events on their way through: passed on as they are, but only whole ones, so that an error can follow them.

use bytes::{Bytes, BytesMut};

/// An event that is longer is passed on in pieces.
const EVENT_BYTES_MAX: usize = 4 << 20;

/// What the last whole event was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Last {
    /// None yet, or only comments.
    #[default]
    Nothing,
    Data,
    Error,
    Done,
}

/// Cuts a byte stream at the ends of its events.
#[derive(Debug, Default)]
pub struct Events {
    partial: BytesMut,
    last: Last,
}

impl Events {
    /// Takes a chunk and returns what is whole so far: the chunk itself, uncopied, where it ends with an event.
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        let mut bytes = if self.partial.is_empty() {
            chunk
        } else {
            self.partial.extend_from_slice(&chunk);
            self.partial.split().freeze()
        };
        let whole = end_of_last_event(&bytes);
        if whole == 0 && bytes.len() > EVENT_BYTES_MAX {
            return bytes;
        }
        let rest = bytes.split_off(whole);
        self.partial.extend_from_slice(&rest);
        self.note(&bytes);
        bytes
    }

    fn note(&mut self, whole: &[u8]) {
        let before_end = whole.trim_ascii_end();
        let start = end_of_last_event(before_end);
        let Some(data) = before_end[start..].trim_ascii().strip_prefix(b"data:") else {
            // A comment or a named event: data may still stand before it.
            if self.last == Last::Nothing && (whole.starts_with(b"data:") || whole.windows(6).any(|line| line == b"\ndata:")) {
                self.last = Last::Data;
            }
            return;
        };
        self.last = match data.trim_ascii_start() {
            b"[DONE]" => Last::Done,
            data if data.starts_with(b"{\"error\"") || data.starts_with(b"{\"object\":\"error\"") => Last::Error,
            _ => Last::Data,
        };
    }

    /// Whether a data event has passed.
    pub fn has_begun(&self) -> bool {
        self.last != Last::Nothing
    }

    /// Whether the stream said that it is complete.
    pub fn is_done(&self) -> bool {
        self.last == Last::Done
    }

    /// What follows the last whole event when the stream breaks off: the reason, unless the engine gave one, and the end. What came
    /// of a further event is dropped.
    pub fn broken_off(&mut self, error_body: &str) -> Bytes {
        self.partial.clear();
        match self.last {
            Last::Error => Bytes::from_static(b"data: [DONE]\n\n"),
            _ => format!("data: {error_body}\n\ndata: [DONE]\n\n").into(),
        }
    }
}

/// Position behind the last blank line.
fn end_of_last_event(bytes: &[u8]) -> usize {
    if bytes.ends_with(b"\n\n") {
        return bytes.len();
    }
    let blank = |at: &usize| {
        let before = &bytes[..*at];
        before.ends_with(b"\n\n") || before.ends_with(b"\n\r\n") || before.ends_with(b"\r\r")
    };
    (2..=bytes.len()).rev().find(blank).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b": hello\n\ndata: {\"a\":1}\n\ndata: {\"b\":\"\\n\"}\r\n\r\nevent: x\ndata: 1\n\ndata: [DONE]\n\n";

    #[test]
    fn whatever_the_cuts_every_byte_passes_once_and_in_whole_events() {
        for first in 0..STREAM.len() {
            for second in first..STREAM.len() {
                let mut events = Events::default();
                let mut passed = Vec::new();
                for chunk in [&STREAM[..first], &STREAM[first..second], &STREAM[second..]] {
                    passed.extend_from_slice(&events.push(Bytes::copy_from_slice(chunk)));
                    assert!(
                        passed.is_empty() || passed.ends_with(b"\n\n") || passed.ends_with(b"\r\n"),
                        "cut at {first}, {second}"
                    );
                    assert!(STREAM.starts_with(&passed));
                }
                assert_eq!(passed, STREAM);
                assert!(events.is_done());
            }
        }
    }

    #[test]
    fn a_comment_begins_nothing() {
        let mut events = Events::default();
        events.push(Bytes::from_static(b": ping\n\n"));
        assert!(!events.has_begun());
        events.push(Bytes::from_static(b"data: {}\n\n: ping\n\n"));
        assert!(events.has_begun() && !events.is_done());
    }

    #[test]
    fn a_broken_stream_ends_with_an_error_and_done() {
        let mut events = Events::default();
        assert_eq!(events.push(Bytes::from_static(b"data: 1\n\ndata: {\"ha")), "data: 1\n\n");
        assert_eq!(events.broken_off("{\"error\":1}"), "data: {\"error\":1}\n\ndata: [DONE]\n\n");
        let mut told = Events::default();
        told.push(Bytes::from_static(b"data: {\"error\": {}}\n\n"));
        assert_eq!(told.broken_off("{\"error\":1}"), "data: [DONE]\n\n", "the engine's own error is enough");
    }
}
