//! Turns prompts into the tokens the engine will run, with the model's own tokenizer and chat template, by their digest.

mod model;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use domain::AssetsDigest;
use engine_text::Recall;
use serde_json::{Map, Value};

pub use model::read_assets;

/// Distinct tokenizers held at a time.
pub const TEXTS_MAX: usize = 64;
/// A node that has not sent a tokenizer by then is not waited for; another may be asked.
const AWAITED_MAX: Duration = Duration::from_secs(60);
/// Longest text that is tokenised for routing; what is longer is routed by load alone.
pub const PROMPT_BYTES_MAX: usize = 8 << 20;

/// What a client asks to be continued.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Nothing that could be tokenised: any engine of the model will do.
    Unknown,
    Tokens(Vec<u32>),
    Text {
        text: String,
        add_special_tokens: bool,
    },
    Chat(Box<Chat>),
}

/// A conversation, as the chat template reads it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    pub messages: Vec<Value>,
    pub tools: Option<Vec<Value>>,
    pub documents: Option<Vec<Value>>,
    /// The client's own template, instead of the model's.
    pub template: Option<String>,
    /// Variables for the template.
    pub variables: Map<String, Value>,
    pub add_generation_prompt: bool,
    pub continue_final_message: bool,
    pub add_special_tokens: bool,
}

/// Turns a prompt into tokens. One implementation reads models' assets; the trait keeps the decision's tests free of them.
pub trait Tokenise: Send + Sync {
    fn tokens(&self, prompt: &Prompt) -> Result<Vec<u32>, String>;

    /// How much of the prompts it remembers.
    fn recall(&self) -> Recall;
}

#[derive(Clone)]
enum Entry {
    /// A node was asked for it.
    Awaited {
        since: Instant,
    },
    Ready(Arc<dyn Tokenise>),
    /// It cannot be had or used; requests go by load alone.
    Failed(Arc<str>),
}

/// Tokenizers of all models in the fleet.
#[derive(Default)]
pub struct Texts {
    entries: RwLock<HashMap<AssetsDigest, Entry>>,
}

impl Texts {
    fn get(&self, digest: &AssetsDigest) -> Option<Entry> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    pub fn ready(&self, digest: &AssetsDigest) -> Option<Arc<dyn Tokenise>> {
        match self.get(digest) {
            Some(Entry::Ready(text)) => Some(text),
            _ => None,
        }
    }

    /// Why a digest has no tokenizer, for status pages: `None` when it has one.
    pub fn lack(&self, digest: &AssetsDigest) -> Option<Arc<str>> {
        match self.get(digest) {
            Some(Entry::Ready(_)) => None,
            Some(Entry::Awaited { .. }) => Some("asked for".into()),
            Some(Entry::Failed(why)) => Some(why),
            None => Some("unknown".into()),
        }
    }

    /// How well each tokenizer remembers prompts, by the digest of its assets.
    pub fn recalls(&self) -> Vec<(AssetsDigest, Recall)> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let recall = |(digest, entry): (&AssetsDigest, &Entry)| match entry {
            Entry::Ready(text) => Some((*digest, text.recall())),
            Entry::Awaited { .. } | Entry::Failed(_) => None,
        };
        entries.iter().filter_map(recall).collect()
    }

    /// Claims a digest that nobody is asked for; true once, and again when that failed, was released or took too long.
    pub fn claim(&self, digest: AssetsDigest, now: Instant) -> bool {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let free = match entries.get(&digest) {
            Some(Entry::Ready(_)) => false,
            Some(Entry::Awaited { since }) => now.saturating_duration_since(*since) > AWAITED_MAX,
            Some(Entry::Failed(_)) => true,
            None => entries.len() < TEXTS_MAX,
        };
        if free {
            entries.insert(digest, Entry::Awaited { since: now });
        }
        free
    }

    /// The node that was asked is gone: another may be asked.
    pub fn release(&self, digest: &AssetsDigest) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(entries.get(digest), Some(Entry::Awaited { .. })) {
            entries.remove(digest);
        }
    }

    pub fn insert(&self, digest: AssetsDigest, text: Arc<dyn Tokenise>) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).insert(digest, Entry::Ready(text));
    }

    pub fn fail(&self, digest: AssetsDigest, why: &str) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).insert(digest, Entry::Failed(why.into()));
    }

    /// Forgets tokenizers of models that no engine serves any more.
    pub fn keep(&self, wanted: impl Fn(&AssetsDigest) -> bool) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).retain(|digest, _| wanted(digest));
    }
}
