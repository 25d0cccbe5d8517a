//! Where the handles and the engine meet: one mutex that either side holds for a few moves of pointers, and a bell.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::AdapterKey;
use engine_assets::Adapter;

use super::{Leased, Limits, PauseMode, Quiet, RemoteOutcome, Reset, Wake};
use crate::adapters::AdapterError;
use crate::config::Config;
use crate::kv::event::BlockList;
use crate::kv::hash::BlockHash;
use crate::kv::lease::LeaseId;
use crate::observe::Stats;
use crate::request::{FinishReason, NewRequest, Rejected, RequestId};
use crate::sample::SharedState;
use crate::speculate::Lookup;

pub(crate) struct Door {
    pub limits: Limits,
    inbox: Mutex<Inbox>,
    pub(super) bell: Condvar,
    stats: Mutex<Stats>,
}

/// What lies at the door. Every list has a maximum: `submitted` by [`Inbox::has_room`], the others where they are pushed.
#[derive(Default)]
pub(super) struct Inbox {
    pub mail: Mail,
    pub next_id: u64,
    /// Requests submitted and not yet admitted to the running batch, here and in the engine.
    pub waiting: usize,
    pub waiting_tokens: usize,
    pub rejected: u64,
    pub dropped: u64,
    pub draining: bool,
    /// New requests are turned away until the engine is resumed.
    pub refuses: bool,
    pub dead: bool,
    /// Somebody other than a handle has something for the engine.
    pub nudged: bool,
}

/// What the engine takes from the door at once.
#[derive(Default)]
pub(crate) struct Mail {
    pub submitted: Vec<Submitted>,
    pub aborts: Vec<(RequestId, FinishReason)>,
    pub commands: Vec<Command>,
}

impl Mail {
    pub fn is_empty(&self) -> bool {
        let Self { submitted, aborts, commands } = self;
        submitted.is_empty() && aborts.is_empty() && commands.is_empty()
    }
}

pub(crate) struct Submitted {
    pub id: RequestId,
    pub request: NewRequest,
    /// The prompt, with room to grow.
    pub tokens: Vec<u32>,
    /// Of the prompt's full blocks; empty without prefix caching.
    pub hashes: Vec<BlockHash>,
    pub state: Option<SharedState>,
    pub lookup: Option<Box<Lookup>>,
}

pub(crate) enum Command {
    AbortAll(FinishReason),
    Pause(PauseMode, Quiet, Box<dyn FnOnce() + Send>),
    Resume(Box<dyn FnOnce() + Send>),
    Wake(Wake, Box<dyn FnOnce(bool) + Send>),
    ResetPrefixCache(Reset, Box<dyn FnOnce(bool) + Send>),
    Blocks(Box<dyn FnOnce(BlockList) + Send>),
    Lease {
        chain: Vec<BlockHash>,
        expires: Instant,
        reply: Box<dyn FnOnce(Option<Leased>) + Send>,
    },
    Renew(LeaseId, Instant),
    Release(LeaseId),
    Remote(RequestId, RemoteOutcome),
    LoadAdapter {
        key: AdapterKey,
        adapter: Arc<Adapter>,
        replaces: bool,
        reply: Box<dyn FnOnce(Result<(), AdapterError>) + Send>,
    },
    UnloadAdapter {
        name: Arc<str>,
        reply: Box<dyn FnOnce(bool) + Send>,
    },
}

/// Requests that left the queue in a step: admitted, or ended before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Departed {
    pub requests: usize,
    pub prompt_tokens: usize,
}

/// Whether the engine goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outlook {
    Open,
    /// Nothing new will come.
    Draining,
}

impl Inbox {
    fn outlook(&self) -> Outlook {
        if self.draining { Outlook::Draining } else { Outlook::Open }
    }

    pub fn has_room(&mut self, limits: &Limits, prompt_tokens: usize) -> Result<(), Rejected> {
        let Config { waiting_max, waiting_tokens_max, .. } = limits.config;
        let refused = if self.dead {
            Rejected::EngineDead
        } else if self.draining {
            Rejected::Draining
        } else if self.refuses {
            Rejected::Paused
        } else if self.waiting >= waiting_max {
            Rejected::QueueFull { waiting: self.waiting, waiting_max }
        } else if self.waiting_tokens + prompt_tokens > waiting_tokens_max {
            Rejected::QueueTokensFull { tokens: self.waiting_tokens + prompt_tokens, tokens_max: waiting_tokens_max }
        } else {
            return Ok(());
        };
        self.rejected += 1;
        Err(refused)
    }
}

impl Door {
    pub fn new(limits: Limits) -> Self {
        Self { limits, inbox: Mutex::default(), bell: Condvar::new(), stats: Mutex::default() }
    }

    /// Takes all mail into `mail`, which must be empty, without waiting.
    pub fn take(&self, mail: &mut Mail) -> Outlook {
        assert!(mail.is_empty(), "mail is handled before more is taken");
        let mut inbox = self.lock();
        std::mem::swap(&mut inbox.mail, mail);
        inbox.nudged = false;
        inbox.outlook()
    }

    /// Wakes the engine to look at its ports.
    pub fn nudge(&self) {
        self.lock().nudged = true;
        self.bell.notify_one();
    }

    /// Waits until there is mail, the outlook is no longer `outlook`, or `timeout` has passed; says what it is then.
    pub fn wait(&self, outlook: Outlook, timeout: Option<Duration>) -> Outlook {
        let inbox = self.lock();
        let idle = |inbox: &mut Inbox| inbox.mail.is_empty() && !inbox.nudged && inbox.outlook() == outlook;
        let inbox = match timeout {
            Some(timeout) => self.bell.wait_timeout_while(inbox, timeout, idle).unwrap_or_else(PoisonError::into_inner).0,
            None => self.bell.wait_while(inbox, idle).unwrap_or_else(PoisonError::into_inner),
        };
        inbox.outlook()
    }

    pub(super) fn stats(&self) -> Stats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows what a step did, and makes room in the queue for those who left it.
    pub fn publish(&self, stats: &Stats, departed: Departed) {
        if departed != Departed::default() {
            let mut inbox = self.lock();
            inbox.waiting = inbox.waiting.checked_sub(departed.requests).expect("who leaves the queue was in it");
            inbox.waiting_tokens = inbox.waiting_tokens.checked_sub(departed.prompt_tokens).expect("its tokens were in it too");
        }
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = *stats;
    }

    /// Takes new requests again.
    pub fn accept(&self) {
        self.lock().refuses = false;
    }

    /// The engine's thread ends: nothing is taken any more, and what lies here is dropped, sinks and replies with it.
    pub fn close(&self) {
        let mail = {
            let mut inbox = self.lock();
            inbox.dead = true;
            std::mem::take(&mut inbox.mail)
        };
        drop(mail);
    }

    /// Nothing that panics runs under the lock but the assertions of `publish`, after which the engine is gone and says so.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
