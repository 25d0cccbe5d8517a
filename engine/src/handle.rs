//! The only door between the engine's thread and all others: requests, aborts and commands in, a snapshot of statistics out.
//!
//! Everything meets in one [`Door`]: a mutex that either side holds for a few moves of pointers, and a bell that wakes the engine
//! when it is idle. What can be checked of a request is checked on the caller's thread, and its block hashes are computed there, so
//! that a bad or long request costs the running ones nothing.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::Capacity;
use crate::config::Config;
use crate::kv::event::BlockList;
use crate::kv::hash::{BlockHash, BlockHasher};
use crate::kv::lease::LeaseId;
use crate::observe::Stats;
use crate::request::{FinishReason, NewRequest, Rejected, RequestId};

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
    pub fn submit(&self, request: NewRequest) -> Result<RequestId, Rejected> {
        let limits = &self.door.limits;
        limits.admits(&request)?;
        // Under overload, a request is turned away before its prompt is hashed.
        self.door.lock().has_room(limits, request.prompt.len())?;
        let mut hashes = Vec::new();
        if limits.config.prefix_caching {
            hashes.reserve_exact(request.prompt.len() / limits.capacity.block_tokens);
            limits.hasher.clone().extend(&mut hashes, &request.prompt, &request.extra);
        }
        // The sequence grows by its output; room for an answer of usual length is made here.
        let mut tokens = Vec::with_capacity(request.prompt.len() + (request.finish.tokens_max as usize).min(OUTPUT_TOKENS_USUAL));
        tokens.extend_from_slice(&request.prompt);
        let mut inbox = self.door.lock();
        inbox.has_room(limits, tokens.len())?;
        let id = RequestId(inbox.next_id);
        inbox.next_id += 1;
        inbox.waiting += 1;
        inbox.waiting_tokens += tokens.len();
        inbox.mail.submitted.push(Submitted { id, request, tokens, hashes });
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

    /// Forgets all cached blocks, unless one of them is in use: `reply` tells whether it was done.
    pub fn reset_prefix_cache(&self, reply: impl FnOnce(bool) + Send + 'static) -> Result<(), Busy> {
        self.command(Command::ResetPrefixCache(Box::new(reply)))
    }

    /// Lists the cached blocks, parents before children, with the sequence of the event batch that comes next. `reply` is called on
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

    /// What the engine did and has, as of its last step.
    pub fn stats(&self) -> Stats {
        // The step's part first: a request between the two is then counted as waiting, never twice.
        let stats = *self.door.stats.lock().unwrap_or_else(PoisonError::into_inner);
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

/// What the door knows without asking the engine; fixed for life.
#[derive(Debug)]
pub struct Limits {
    pub capacity: Capacity,
    pub config: Config,
    /// Longest sequence, prompt and output: [`Config::length_max`].
    pub length_max: usize,
    hasher: BlockHasher,
}

impl Limits {
    pub(crate) fn new(capacity: Capacity, config: Config) -> Self {
        let length_max = config.length_max(&capacity);
        let hasher = BlockHasher::new(&config.hash_seed, capacity.block_tokens);
        Self { capacity, config, length_max, hasher }
    }

    pub(crate) fn hasher(&self) -> BlockHasher {
        self.hasher.clone()
    }

    /// Whether `request` could be served at all.
    fn admits(&self, request: &NewRequest) -> Result<(), Rejected> {
        let tokens = request.prompt.len();
        if tokens == 0 {
            return Err(Rejected::EmptyPrompt);
        }
        if tokens >= self.config.max_model_len {
            return Err(Rejected::PromptTooLong { tokens, context_length: self.config.max_model_len });
        }
        if tokens >= self.length_max {
            let block_tokens = self.capacity.block_tokens;
            return Err(Rejected::NeverFits {
                blocks: (tokens + 1).div_ceil(block_tokens),
                pool_blocks: self.length_max / block_tokens,
            });
        }
        let (stop, vocabulary) = (&request.finish.stop, self.capacity.vocabulary);
        if stop.len() > self.config.stop_ids_max {
            return Err(Rejected::TooManyStopIds { ids: stop.len(), ids_max: self.config.stop_ids_max });
        }
        match request.prompt.iter().chain(stop).find(|&&token| token as usize >= vocabulary) {
            Some(&token) => Err(Rejected::TokenOutsideVocabulary { token, vocabulary }),
            None => Ok(()),
        }
    }

    /// A client aborts a request once, perhaps as it ends by itself: twice the requests that can be open is never reached by
    /// callers that keep to that.
    fn aborts_max(&self) -> usize {
        2 * (self.config.waiting_max + self.config.max_num_seqs)
    }
}

/// Where the handles and the engine meet.
pub(crate) struct Door {
    pub limits: Limits,
    inbox: Mutex<Inbox>,
    bell: Condvar,
    stats: Mutex<Stats>,
}

/// What lies at the door. Every list has a maximum: `submitted` by [`Inbox::has_room`], the others where they are pushed.
#[derive(Default)]
struct Inbox {
    mail: Mail,
    next_id: u64,
    /// Requests submitted and not yet admitted to the running batch, here and in the engine.
    waiting: usize,
    waiting_tokens: usize,
    rejected: u64,
    dropped: u64,
    draining: bool,
    dead: bool,
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
}

pub(crate) enum Command {
    AbortAll(FinishReason),
    ResetPrefixCache(Box<dyn FnOnce(bool) + Send>),
    Blocks(Box<dyn FnOnce(BlockList) + Send>),
    Lease { chain: Vec<BlockHash>, expires: Instant, reply: Box<dyn FnOnce(Option<Leased>) + Send> },
    Renew(LeaseId, Instant),
    Release(LeaseId),
    Remote(RequestId, RemoteOutcome),
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

    fn has_room(&mut self, limits: &Limits, prompt_tokens: usize) -> Result<(), Rejected> {
        let Config { waiting_max, waiting_tokens_max, .. } = limits.config;
        let refused = if self.dead {
            Rejected::EngineDead
        } else if self.draining {
            Rejected::Draining
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
        inbox.outlook()
    }

    /// Waits until there is mail, the outlook is no longer `outlook`, or `timeout` has passed; says what it is then.
    pub fn wait(&self, outlook: Outlook, timeout: Option<Duration>) -> Outlook {
        let inbox = self.lock();
        let idle = |inbox: &mut Inbox| inbox.mail.is_empty() && inbox.outlook() == outlook;
        let inbox = match timeout {
            Some(timeout) => self.bell.wait_timeout_while(inbox, timeout, idle).unwrap_or_else(PoisonError::into_inner).0,
            None => self.bell.wait_while(inbox, idle).unwrap_or_else(PoisonError::into_inner),
        };
        inbox.outlook()
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
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct LastHandle(Arc<Door>);

impl Drop for LastHandle {
    fn drop(&mut self) {
        self.0.lock().draining = true;
        self.0.bell.notify_one();
    }
}
