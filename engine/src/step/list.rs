//! Lists of the cached blocks, one after the other, each a part in every step.

use std::collections::VecDeque;

use super::Engine;
use crate::kv::event::BlockList;

/// Blocks that one step looks at: a fraction of a millisecond.
const PLACES_MAX: usize = 4096;

/// Lists that wait, at most. The next one is dropped with its reply: whoever asked hears that there is none.
const LISTS_MAX: usize = 64;

/// Who waits for a list; the first one's is being made.
pub(super) type Lists = VecDeque<Box<dyn FnOnce(BlockList) + Send>>;

impl Engine {
    pub(super) fn list(&mut self, reply: Box<dyn FnOnce(BlockList) + Send>) {
        if self.lists.is_empty() {
            self.begin_list();
        }
        if self.lists.len() < LISTS_MAX {
            self.lists.push_back(reply);
        }
    }

    /// The list holds between two batches of events.
    fn begin_list(&mut self) {
        self.publish_events();
        self.schedule.kv.begin_list();
    }

    /// Goes on with the list that is being made, if there is one.
    pub(super) fn go_on_list(&mut self) {
        if self.lists.is_empty() {
            return;
        }
        let Some(list) = self.schedule.kv.go_on_list(PLACES_MAX) else { return };
        let reply = self.lists.pop_front().expect("somebody waits for it");
        reply(list);
        if !self.lists.is_empty() {
            self.begin_list();
        }
    }
}
