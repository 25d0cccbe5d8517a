//! Grammars compiled off everybody's way, within limits, and remembered.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use engine_text::Text;
use llguidance::{Matcher, ParserFactory};
use tokio::sync::oneshot;

use super::cache::Cache;
use super::mask::Machine;
use super::spec::{Spec, SpecError};
use super::workers::Workers;
use super::{grammar, vocabulary};

/// Most memory of all compiled grammars, by llguidance's own account.
const CACHE_BYTES_MAX: usize = 64 << 20;
/// Most grammars that are compiled at once.
const COMPILING_MAX: usize = 4;
/// How long a client waits for its grammar.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(10);
/// Grammars are read by recursion; what they may nest is limited, and this is enough for it.
const STACK_BYTES: usize = 128 << 20;
/// Threads that compute masks. One mask takes some ten microseconds, so few serve many requests.
const WORKERS: usize = 2;

/// A grammar, compiled.
pub struct Compiled(Mutex<Matcher>);

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCompiled {
    /// The client can mend it.
    #[error(transparent)]
    Refused(#[from] SpecError),
    /// Too many are being compiled; another try may help.
    #[error("{COMPILING_MAX} grammars are being compiled already")]
    Busy,
    /// The model has no vocabulary that grammars can be laid over.
    #[error("structured outputs are not possible with this model: {0}")]
    NoVocabulary(String),
}

/// All grammars of a model.
pub struct Guides {
    text: Text,
    factory: Arc<OnceLock<Result<ParserFactory, String>>>,
    cache: Mutex<Cache<Arc<Compiled>>>,
    compiling: Arc<AtomicUsize>,
    workers: Workers<Machine>,
}

impl Guides {
    /// Begins to lay out the vocabulary, in the background. `vocabulary` is the number of logits, `eos` end an output.
    pub fn start(text: Text, vocabulary: usize, eos: Vec<u32>) -> Arc<Self> {
        let factory = Arc::new(OnceLock::new());
        let place = Arc::clone(&factory);
        let of = text.clone();
        let body = move || {
            let begun = Instant::now();
            let made = place.get_or_init(|| vocabulary::factory(&of, vocabulary, &eos));
            match made {
                Ok(_) => tracing::debug!(
                    tokens = vocabulary,
                    took_ms = begun.elapsed().as_millis() as u64,
                    "the vocabulary is laid out for structured outputs"
                ),
                Err(error) => tracing::warn!(%error, "structured outputs are not possible"),
            }
        };
        if let Err(error) = std::thread::Builder::new().name("grammar-vocabulary".into()).spawn(body) {
            drop(factory.set(Err(format!("no thread to lay out the vocabulary: {error}"))));
        }
        Arc::new(Self::over(text, factory))
    }

    /// Grammars over a vocabulary that is laid out now or later.
    fn over(text: Text, factory: Arc<OnceLock<Result<ParserFactory, String>>>) -> Self {
        let cache = Mutex::new(Cache::new(CACHE_BYTES_MAX));
        Self { text, factory, cache, compiling: Arc::default(), workers: Workers::start(WORKERS) }
    }

    pub fn workers(&self) -> &Workers<Machine> {
        &self.workers
    }

    /// The grammar of `spec`, made anew or remembered, within [`COMPILE_TIMEOUT`]. What takes longer goes on, and holds its place among
    /// those who compile, until llguidance's own limits end it.
    pub async fn compile(&self, spec: &Spec) -> Result<Arc<Compiled>, NotCompiled> {
        let key = format!("{:?} {:?}", spec.form, spec.space);
        if let Some(known) = self.cache().get(&key) {
            return Ok(known);
        }
        let grammar = grammar::of(spec, &self.text)?;
        let place = Place::take(&self.compiling).ok_or(NotCompiled::Busy)?;
        let factory = Arc::clone(&self.factory);
        let (result, compiled) = oneshot::channel();
        let body = move || {
            let _place = place;
            let made = match factory.wait() {
                Ok(factory) => factory.create_parser(grammar).map_err(|error| Some(error.to_string())).map(|parser| {
                    let bytes = parser.parser.lexer_stats().num_bytes;
                    (Matcher::new(Ok(parser)), bytes)
                }),
                Err(_) => Err(None),
            };
            // Nobody waits any more after the timeout.
            drop(result.send(made));
        };
        let refused = |what: String| NotCompiled::Refused(SpecError::new(spec.param, what));
        let spawned = std::thread::Builder::new().name("grammar-compile".into()).stack_size(STACK_BYTES).spawn(body);
        spawned.map_err(|_| NotCompiled::Busy)?;
        match tokio::time::timeout(COMPILE_TIMEOUT, compiled).await {
            Ok(Ok(Ok((matcher, bytes)))) => {
                if let Some(error) = matcher.get_error() {
                    return Err(refused(plain(&error)));
                }
                let compiled = Arc::new(Compiled(Mutex::new(matcher)));
                self.cache().put(&key, Arc::clone(&compiled), bytes + 2 * key.len());
                Ok(compiled)
            }
            Ok(Ok(Err(Some(error)))) => Err(refused(plain(&error))),
            Ok(Ok(Err(None))) => {
                let why = self.factory.get().and_then(|made| made.as_ref().err()).cloned();
                Err(NotCompiled::NoVocabulary(why.unwrap_or_default()))
            }
            Err(_) => Err(refused(format!("takes longer than {} s to compile", COMPILE_TIMEOUT.as_secs()))),
            // The thread panicked.
            Ok(Err(_)) => Err(refused("cannot be compiled".to_owned())),
        }
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache<Arc<Compiled>>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Compiled {
    /// A matcher of its own for one output: nothing of it is shared, so that what one output costs, no other pays.
    pub fn matcher(&self) -> Matcher {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).deep_clone()
    }
}

/// A place among those who compile.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(places: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(places));
        // Given back by the drop of `place` in either case.
        (places.fetch_add(1, Ordering::Relaxed) < COMPILING_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// llguidance's words, in a line that names what a client can mend.
fn plain(error: &str) -> String {
    const UNKNOWN: &str = "Unimplemented keys: ";
    const WORDS_MAX: usize = 400;
    if let Some((_, keys)) = error.split_once(UNKNOWN) {
        let keys = keys.lines().next().unwrap_or_default().trim_matches(['[', ']']);
        return format!("uses keywords of JSON schema that are not supported: {keys}");
    }
    let line = error.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    line.chars().take(WORDS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// While grammars wait for a vocabulary that is not there yet, whatever takes long, the thread that asked goes on; one more than may
    /// be compiled at once is told so, and what is remembered needs no place.
    #[tokio::test]
    async fn whoever_compiles_holds_up_nobody() {
        let scripted = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models/scripted/model.gguf");
        let text =
            Text::new(&engine_assets::open(std::path::Path::new(scripted)).expect("a good model").text).expect("a tokenizer");
        let factory = Arc::new(OnceLock::new());
        let guides = Arc::new(Guides::over(text.clone(), Arc::clone(&factory)));
        let spec = |number: usize| {
            Spec::of_request(None, Some(&json!({"choice": [format!("number {number}")]}))).expect("a good form").expect("a form")
        };
        let compile = |number: usize| {
            let (guides, spec) = (Arc::clone(&guides), spec(number));
            tokio::spawn(async move { guides.compile(&spec).await.map(drop) })
        };
        let waiting: Vec<_> = (0..COMPILING_MAX).map(compile).collect();
        while guides.compiling.load(Ordering::Relaxed) < COMPILING_MAX {
            tokio::task::yield_now().await;
        }
        assert_eq!(compile(COMPILING_MAX).await.expect("no panic"), Err(NotCompiled::Busy));
        assert!(waiting.iter().all(|task| !task.is_finished()));
        assert!(factory.set(vocabulary::factory(&text, 262, &[257])).is_ok());
        for task in waiting {
            assert_eq!(task.await.expect("no panic"), Ok(()));
        }
        guides.compiling.store(COMPILING_MAX, Ordering::Relaxed);
        assert_eq!((compile(0).await.expect("no panic"), compile(9).await.expect("no panic")), (Ok(()), Err(NotCompiled::Busy)));
    }
}
