//! Pausing, sleeping and waking, with vLLM 0.33's meaning (`v1/engine/core.py`).
//!
//! ```text
//!             abort: all end      wait: those that run end     keep: all stand still
//!   pause ──▶ nothing new is admitted; what is in flight settles ──▶ quiet: caches dropped, memory given back, reply ──▶ resume
//! ```
//! Requests wait in the queue meanwhile; their deadlines are their clients'.

use super::Engine;
use crate::backend::{DeviceError, Sleep};
use crate::handle::{PauseMode, Quiet, Wake};
use crate::request::FinishReason;

/// How quiet the engine is.
#[derive(Default)]
pub(super) struct Pause {
    /// How far the last pause goes; `None` while the engine serves.
    mode: Option<PauseMode>,
    /// Memory that was given back: that of the weights, that of the KV cache.
    asleep: Option<(Sleep, Wake)>,
    /// What is to be done when nothing runs any more.
    due: Vec<Due>,
}

struct Due {
    quiet: Quiet,
    reply: Box<dyn FnOnce() + Send>,
}

impl Pause {
    pub fn is_paused(&self) -> bool {
        self.mode.is_some()
    }

    /// Whether a pause is to be completed.
    pub fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// 0 awake; else vLLM's level.
    pub fn sleep_level(&self) -> u8 {
        match self.asleep {
            None => 0,
            Some((Sleep::Offload, _)) => 1,
            Some((Sleep::Discard, _)) => 2,
        }
    }

    /// Whether a step has nothing to do before it is resumed.
    pub fn stands_still(&self, running: usize) -> bool {
        match self.mode {
            None => false,
            Some(PauseMode::Keep) => true,
            Some(PauseMode::Abort | PauseMode::Wait) => running == 0,
        }
    }
}

impl Engine {
    pub(super) fn pause(&mut self, mode: PauseMode, quiet: Quiet, reply: Box<dyn FnOnce() + Send>) {
        if mode == PauseMode::Abort {
            self.end_all(&FinishReason::Aborted);
        }
        self.pause.mode = Some(mode);
        self.pause.due.push(Due { quiet, reply });
    }

    /// Serves again.
    pub(super) fn resume(&mut self) {
        self.pause.mode = None;
        // Who waited for quiet is told that it is over; the engine is as awake as it was.
        self.replies.extend(self.pause.due.drain(..).map(|due| due.reply));
    }

    /// Takes memory back; says whether all is there. Then the engine serves again.
    pub(super) fn wake(&mut self, wake: Wake) -> Result<bool, DeviceError> {
        if let Some((sleep, left)) = self.pause.asleep {
            let left = Wake { weights: left.weights && !wake.weights, kv_cache: left.kv_cache && !wake.kv_cache };
            if left.weights || left.kv_cache {
                self.pause.asleep = Some((sleep, left));
                return Ok(false);
            }
            self.backend.wake()?;
            self.pause.asleep = None;
        }
        self.resume();
        Ok(true)
    }

    /// Sets what the next plan may do, and finishes a pause when nothing is in flight any more.
    pub(super) fn rest(&mut self) -> Result<(), DeviceError> {
        self.schedule.admits = self.pause.mode.is_none();
        self.schedule.runs = self.pause.mode != Some(PauseMode::Keep);
        let quiet = self.in_flight.is_empty() && self.pause.stands_still(self.schedule.running.len());
        if !quiet || self.pause.due.is_empty() {
            return Ok(());
        }
        for Due { quiet, reply } in std::mem::take(&mut self.pause.due) {
            if quiet.clear || quiet.sleep.is_some() {
                // Kept requests are computed again, and what other engines hold here or send is given up.
                self.give_up_remote();
                self.schedule.kv.end_leases();
                self.stats.preemptions += self.schedule.preempt_all() as u64;
                let lower = quiet.sleep == Some(Sleep::Discard);
                self.schedule.kv.clear(lower);
                if lower {
                    self.lower.clear();
                }
            }
            if let Some(sleep) = quiet.sleep {
                self.make_moves()?;
                self.backend.sleep(sleep)?;
                self.pause.asleep = Some((sleep, Wake { weights: true, kv_cache: true }));
            }
            self.replies.push(reply);
        }
        Ok(())
    }
}
