//! The only door between the engine's thread and all others: requests, aborts and commands in, a snapshot of statistics out.
//!
//! Everything meets in one [`Door`]: a mutex that either side holds for a few moves of pointers, and a bell that wakes the engine
//! when it is idle. What can be checked of a request is checked on the caller's thread, and its block hashes are computed there, so
//! that a bad or long request costs the running ones nothing.

mod door;
mod limits;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use domain::AdapterKey;
use engine_assets::Adapter;

pub use crate::adapters::AdapterError;
use crate::backend::Sleep;
use crate::kv::event::BlockList;
use crate::kv::hash::BlockHash;
use crate::kv::lease::LeaseId;
use crate::observe::Stats;
use crate::request::{FinishReason, NewRequest, Rejected, RequestId};
use crate::sample::SharedState;
use crate::speculate::Lookup;
pub(crate) use door::{Command, Departed, Door, Mail, Outlook, Submitted};
pub use limits::Limits;

/// Output tokens that a sequence has room for before its vector grows.
const OUTPUT_TOKENS_USUAL: usize = 1024;

/// Speaks to the engine from any thread, and never waits for it. When the last handle is dropped, the engine finishes what it has
/// and ends.
#[derive(Clone)]
pub struct Handle {
    door: Arc<Door>,
    /// Shared by the handles alone: its drop tells the engine that nobody can come any more.
    _last: Arc<LastHandle>,
}

impl Handle {
    pub(crate) fn new(door: Arc<Door>) -> Self {
        Self { door: Arc::clone(&door), _last: Arc::new(LastHandle(door)) }
    }

    /// Sizes of the device, and the engine's limits.
    pub fn limits(&self) -> &Limits {
        &self.door.limits
    }

    /// Puts a request into the queue. Outputs come through its sink from now on, the last one is
    /// [`Output::Finished`](crate::request::Output::Finished), unless the engine's thread ends before: then the sink is dropped.
    pub fn submit(&self, mut request: NewRequest) -> Result<RequestId, Rejected> {
        let limits = &self.door.limits;
        limits.admits(&request)?;
        // Under overload, a request is turned away before its prompt is hashed.
        self.door.lock().has_room(limits, request.prompt.len())?;
        // The sequence grows by its output; room for an answer of usual length is made here.
        let length_usual = request.prompt.len() + (request.finish.tokens_max as usize).min(OUTPUT_TOKENS_USUAL);
        let mut hashes = Vec::new();
        if limits.config.prefix_caching {
            hashes.reserve_exact(length_usual / limits.capacity.block_tokens);
            limits.hasher.clone().extend(&mut hashes, &request.prompt, &request.extra);
        }
        let mut tokens = Vec::with_capacity(length_usual);
        tokens.extend_from_slice(&request.prompt);
        let state = SharedState::new(request.extras.clone(), request.mask.take(), &request.finish, &request.prompt);
        let lookup =
            limits.config.speculation.map(|speculation| Box::new(Lookup::new(speculation, &request.prompt, tokens.capacity())));
        let mut inbox = self.door.lock();
        inbox.has_room(limits, tokens.len())?;
        let id = RequestId(inbox.next_id);
        inbox.next_id += 1;
        inbox.waiting += 1;
        inbox.waiting_tokens += tokens.len();
        inbox.mail.submitted.push(Submitted { id, request, tokens, hashes, state, lookup });
        drop(inbox);
        self.door.bell.notify_one();
        Ok(id)
    }

    /// Ends a request: its blocks are free in the next step. An id that is unknown or has ended is ignored.
    pub fn abort(&self, id: RequestId, reason: FinishReason) {
        let mut inbox = self.door.lock();
        if inbox.dead || id.0 >= inbox.next_id {
            return;
        }
        if inbox.mail.aborts.len() >= self.door.limits.aborts_max() {
            inbox.dropped += 1;
            return;
        }
        inbox.mail.aborts.push((id, reason));
        drop(inbox);
        self.door.bell.notify_one();
    }

    /// Takes nothing new from now on; the engine's thread ends when all that it has is finished.
    pub fn drain(&self) {
        self.door.lock().draining = true;
        self.door.bell.notify_one();
    }

    /// Ends all requests, waiting and running, in the next step.
    pub fn abort_all(&self, reason: FinishReason) -> Result<(), Busy> {
        self.command(Command::AbortAll(reason))
    }

    /// Admits nothing new from now on. `reply` is called when what runs has come to rest as `mode` says and what `quiet` asks for is
    /// done. With `refuse`, new requests are turned away meanwhile ([`Rejected::Paused`]), else they wait.
    pub fn pause(&self, mode: PauseMode, quiet: Quiet, refuse: bool, reply: impl FnOnce() + Send + 'static) -> Result<(), Busy> {
        self.command(Command::Pause(mode, quiet, Box::new(reply)))?;
        self.door.lock().refuses |= refuse;
        Ok(())
    }

    /// Serves again after a pause.
    pub fn resume(&self, reply: impl FnOnce() + Send + 'static) -> Result<(), Busy> {
        self.command(Command::Resume(Box::new(reply)))
    }

    /// Takes memory back that a sleep gave away; when all is back the engine serves again, and `reply` hears `true`.
    pub fn wake(&self, wake: Wake, reply: impl FnOnce(bool) + Send + 'static) -> Result<(), Busy> {
        self.command(Command::Wake(wake, Box::new(reply)))
    }

    /// Forgets all cached blocks, unless one of them is in use: `reply` tells whether it was done.
    pub fn reset_prefix_cache(&self, reset: Reset, reply: impl FnOnce(bool) + Send + 'static) -> Result<(), Busy> {
        self.command(Command::ResetPrefixCache(reset, Box::new(reply)))
    }

    /// Lists the cached blocks, with the sequence of the event batch that comes next; the engine makes the list beside its next steps. `reply` is called on
    /// the engine's thread.
    pub fn blocks(&self, reply: impl FnOnce(BlockList) + Send + 'static) -> Result<(), Busy> {
        self.command(Command::Blocks(Box::new(reply)))
    }

    /// Keeps the cached blocks of a chain, first block first, until `expires`: as many from its start as are cached and as
    /// [`Config::pinned_blocks_max`] allows. `None`: not even the first.
    pub fn lease(
        &self,
        chain: Vec<BlockHash>,
        expires: Instant,
        reply: impl FnOnce(Option<Leased>) + Send + 'static,
    ) -> Result<(), Busy> {
        self.command(Command::Lease { chain, expires, reply: Box::new(reply) })
    }

    /// Moves a lease's end. A lease that has ended stays ended.
    pub fn renew(&self, lease: LeaseId, expires: Instant) -> Result<(), Busy> {
        self.command(Command::Renew(lease, expires))
    }

    /// Ends a lease.
    pub fn release(&self, lease: LeaseId) -> Result<(), Busy> {
        self.command(Command::Release(lease))
    }

    /// The transfer that fills a waiting request's blocks has ended and will write no more. On success the first `tokens` of the
    /// prompt are there; after a failure the engine computes them itself.
    pub fn remote_done(&self, id: RequestId, outcome: RemoteOutcome) -> Result<(), Busy> {
        self.command(Command::Remote(id, outcome))
    }

    /// Loads an adapter between two steps; requests name it by `key` in their [`ExtraKeys`](domain::ExtraKeys). Who submits such a request
    /// waits for `reply` first. With `replaces`, one that has the name is unloaded. `reply` is called on the engine's thread.
    pub fn load_adapter(
        &self,
        key: AdapterKey,
        adapter: Arc<Adapter>,
        replaces: bool,
        reply: impl FnOnce(Result<(), AdapterError>) + Send + 'static,
    ) -> Result<(), Busy> {
        self.command(Command::LoadAdapter { key, adapter, replaces, reply: Box::new(reply) })
    }

    /// Unloads an adapter: no new request finds it, those that have it go on, and after the last of them its place is free and its cached
    /// blocks are forgotten. Until then these are known by its key: who loads other weights under the same name gives the key another
    /// path. `reply` tells whether there was one.
    pub fn unload_adapter(&self, name: Arc<str>, reply: impl FnOnce(bool) + Send + 'static) -> Result<(), Busy> {
        self.command(Command::UnloadAdapter { name, reply: Box::new(reply) })
    }

    /// What the engine did and has, as of its last step.
    pub fn stats(&self) -> Stats {
        // The step's part first: a request between the two is then counted as waiting, never twice.
        let stats = self.door.stats();
        let inbox = self.door.lock();
        Stats {
            waiting: stats.waiting + inbox.mail.submitted.len(),
            waiting_tokens: inbox.waiting_tokens,
            draining: inbox.draining,
            rejected: inbox.rejected,
            dropped_commands: inbox.dropped,
            ..stats
        }
    }

    /// Whether the engine's thread can still answer.
    pub fn is_alive(&self) -> bool {
        !self.door.lock().dead
    }

    fn command(&self, command: Command) -> Result<(), Busy> {
        let mut inbox = self.door.lock();
        if inbox.dead {
            return Err(Busy::EngineDead);
        }
        if inbox.mail.commands.len() >= self.door.limits.config.commands_max {
            inbox.dropped += 1;
            return Err(Busy::QueueFull);
        }
        inbox.mail.commands.push(command);
        drop(inbox);
        self.door.bell.notify_one();
        Ok(())
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

/// What becomes of requests when the engine pauses; vLLM's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseMode {
    /// They end, waiting ones too.
    Abort,
    /// Those that run come to their end.
    Wait,
    /// They stand still and go on later.
    Keep,
}

/// What is done once a pause is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quiet {
    /// The prefix cache is forgotten, lower tiers apart.
    pub clear: bool,
    /// Memory is given back.
    pub sleep: Option<Sleep>,
}

/// Memory that is taken back: vLLM's tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    pub weights: bool,
    pub kv_cache: bool,
}

/// How far a reset of the prefix cache goes; vLLM's `reset_running_requests` and `reset_external`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reset {
    /// Running requests lose their blocks and are computed again, so that they hold nothing up.
    pub running: bool,
    /// Lower tiers forget as well.
    pub lower: bool,
}

/// Why a command was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    #[error("too many commands wait for the engine's next step")]
    QueueFull,
    #[error("the engine's thread has ended")]
    EngineDead,
}

/// How a transfer of remote KV ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteOutcome {
    Received { tokens: u32 },
    Failed,
}

/// A granted lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leased {
    pub id: LeaseId,
    /// How many blocks of the chain it keeps, from its start.
    pub blocks: usize,
}

struct LastHandle(Arc<Door>);

impl Drop for LastHandle {
    fn drop(&mut self) {
        self.0.lock().draining = true;
        self.0.bell.notify_one();
    }
}
