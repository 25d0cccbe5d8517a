//! The output of a response, item by item, and the events that tell of it. Whole and streamed answers are both made here, so that they
//! say the same. Events and their order are those of vLLM 0.33.
//!
//! ```text
//!   piece ──▶ the item that it belongs to: reasoning | message | function_call
//!             opened (output_item.added), grown (….delta), closed (….done, output_item.done) when another begins
//! ```

use engine_text::reply::Delta;
use serde_json::{Value, json};

use crate::edge::choice::Piece;

/// An event but for its number.
pub struct Event {
    pub name: &'static str,
    pub body: Value,
}

/// Items as they grow.
#[derive(Default)]
pub struct Items {
    done: Vec<Value>,
    open: Option<Open>,
    events: Vec<Event>,
}

/// The item that grows.
struct Open {
    kind: Kind,
    id: String,
    /// Of the item so far: what was thought, said, or the call's arguments.
    text: String,
    /// Of a message, where they are told.
    logprobs: Vec<Value>,
}

enum Kind {
    Reasoning,
    Message,
    Call { call_id: String, name: String },
}

impl Open {
    fn new(kind: Kind) -> Self {
        let prefix = match kind {
            Kind::Reasoning => "rs",
            Kind::Message => "msg",
            Kind::Call { .. } => "fc",
        };
        Self { kind, id: format!("{prefix}_{:032x}", rand::random::<u128>()), text: String::new(), logprobs: Vec::new() }
    }

    /// The item's one part; a call has none.
    fn part(&self) -> Value {
        let logprobs = Some(&self.logprobs).filter(|logprobs| !logprobs.is_empty());
        match self.kind {
            Kind::Reasoning => json!({"type": "reasoning_text", "text": self.text}),
            Kind::Message => json!({"type": "output_text", "text": self.text, "annotations": [], "logprobs": logprobs}),
            Kind::Call { .. } => Value::Null,
        }
    }

    /// The item, with its part once it has one.
    fn item(&self, status: &str) -> Value {
        let content = if status == "in_progress" { json!([]) } else { json!([self.part()]) };
        let mut item = match &self.kind {
            Kind::Reasoning => json!({"type": "reasoning", "id": self.id, "summary": [], "content": content}),
            Kind::Message => json!({"type": "message", "id": self.id, "role": "assistant", "content": content}),
            Kind::Call { call_id, name } => {
                json!({"type": "function_call", "id": self.id, "call_id": call_id, "name": name, "arguments": self.text})
            }
        };
        item["status"] = status.into();
        item
    }
}

impl Items {
    /// Takes a piece of the answer with the log probabilities of its text. `call_id` makes ids of calls.
    pub fn take(&mut self, piece: Piece, logprobs: Vec<Value>, call_id: impl Fn() -> String) {
        if !piece.reasoning.is_empty() {
            self.enter(|kind| matches!(kind, Kind::Reasoning), || Kind::Reasoning);
            self.grow("response.reasoning_text.delta", &piece.reasoning, None);
        }
        if !piece.text.is_empty() {
            self.enter(|kind| matches!(kind, Kind::Message), || Kind::Message);
            self.grow("response.output_text.delta", &piece.text, Some(logprobs));
        }
        for delta in piece.calls {
            match delta {
                Delta::Call { name, .. } => self.enter(|_| false, || Kind::Call { call_id: call_id(), name }),
                Delta::Arguments { fragment, .. } => self.grow("response.function_call_arguments.delta", &fragment, None),
                Delta::Content(_) | Delta::Reasoning(_) => {}
            }
        }
    }

    /// Closes the last item, whose status says whether the answer was cut within it.
    pub fn end(&mut self, status: &str) {
        self.close(status);
    }

    /// The items that are whole.
    pub fn done(&self) -> &[Value] {
        &self.done
    }

    /// What happened since this was called last.
    pub fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Goes on with the open item if it is the one, else closes it and opens another.
    fn enter(&mut self, is: impl Fn(&Kind) -> bool, kind: impl FnOnce() -> Kind) {
        if self.open.as_ref().is_some_and(|open| is(&open.kind)) {
            return;
        }
        self.close("completed");
        let open = Open::new(kind());
        self.tell("response.output_item.added", json!({"item": open.item("in_progress")}));
        if !matches!(open.kind, Kind::Call { .. }) {
            self.tell("response.content_part.added", json!({"item_id": open.id, "content_index": 0, "part": open.part()}));
        }
        self.open = Some(open);
    }

    fn grow(&mut self, event: &'static str, text: &str, logprobs: Option<Vec<Value>>) {
        let Some(open) = &mut self.open else { return };
        open.text.push_str(text);
        let mut body = json!({"item_id": open.id, "delta": text});
        if !matches!(open.kind, Kind::Call { .. }) {
            body["content_index"] = 0.into();
        }
        if let Some(logprobs) = logprobs {
            open.logprobs.extend(logprobs.iter().cloned());
            body["logprobs"] = logprobs.into();
        }
        self.tell(event, body);
    }

    fn close(&mut self, status: &str) {
        let Some(open) = self.open.take() else { return };
        let Open { id, text, .. } = &open;
        match &open.kind {
            Kind::Reasoning => {
                self.tell("response.reasoning_text.done", json!({"item_id": id, "content_index": 0, "text": text}));
            }
            Kind::Message => {
                let logprobs = &open.logprobs;
                let body = json!({"item_id": id, "content_index": 0, "text": text, "logprobs": logprobs});
                self.tell("response.output_text.done", body);
            }
            Kind::Call { name, .. } => {
                self.tell("response.function_call_arguments.done", json!({"item_id": id, "name": name, "arguments": text}));
            }
        }
        if !matches!(open.kind, Kind::Call { .. }) {
            self.tell("response.content_part.done", json!({"item_id": id, "content_index": 0, "part": open.part()}));
        }
        let item = open.item(status);
        self.tell("response.output_item.done", json!({"item": item}));
        self.done.push(item);
    }

    fn tell(&mut self, name: &'static str, mut body: Value) {
        body["output_index"] = self.done.len().into();
        self.events.push(Event { name, body });
    }
}
