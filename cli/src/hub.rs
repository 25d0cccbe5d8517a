//! Models by their id on the Hugging Face Hub: `org/name`, `org/name:revision`, `org/name:file.gguf`.
//!
//! Files go to the cache that Hugging Face's own tools share (`$HF_HOME/hub`), laid out as theirs, so that what is there already is not
//! fetched again. Only what the engine reads is fetched, small files first: where the weights are, the rest is.

mod error;
mod id;
mod wanted;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::{Fault, FaultKind};
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use indicatif::ProgressBar;

pub use self::id::Id;
use self::wanted::Wanted;

/// How often a file is asked for before the connection counts as lost; each try goes on where the last one ended.
const TRIES_MAX: u32 = 5;
const OFFICIAL: &str = "https://huggingface.co";

/// Where models are fetched from and kept, as Hugging Face's environment variables say.
#[derive(Clone)]
pub struct Settings {
    /// `HF_ENDPOINT`.
    pub endpoint: String,
    /// `HF_HUB_CACHE`, else `hub` below `HF_HOME`, else `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// `HF_TOKEN`, else what `hf auth login` wrote.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: use what is there and ask nobody.
    pub offline: bool,
    /// Before the second try; doubles with each.
    pub retry_after: Duration,
}

impl Settings {
    pub fn from_env() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let cache = set("HF_HUB_CACHE").map_or_else(Cache::from_env, |path| Cache::new(path.into()));
        Self {
            endpoint: set("HF_ENDPOINT").unwrap_or_else(|| OFFICIAL.to_owned()).trim_end_matches('/').to_owned(),
            token: set("HF_TOKEN").or_else(|| cache.token()),
            cache: cache.path().clone(),
            offline: set("HF_HUB_OFFLINE")
                .is_some_and(|value| !matches!(value.to_lowercase().as_str(), "0" | "false" | "no" | "off")),
            retry_after: Duration::from_millis(300),
        }
    }
}

/// The model's folder or `.gguf` file in the cache, fetched as far as it is not there.
pub fn fetch(id: &Id, settings: &Settings) -> Result<PathBuf, Fault> {
    let cached = Cached::new(id, settings);
    if settings.offline {
        return cached.model().ok_or_else(|| {
            let what = format!("HF_HUB_OFFLINE is set, and {id} is not whole in {}", settings.cache.display());
            Fault::new(
                FaultKind::Model,
                what,
                "unset it once to fetch the model, set HF_HOME to where it is, or give a local path",
            )
        });
    }
    let fault = |error| error::fault(id, settings, error);
    let builder = ApiBuilder::from_cache(Cache::new(settings.cache.clone())).with_endpoint(settings.endpoint.clone());
    let api = builder.with_token(settings.token.clone()).build().map_err(fault)?;
    let repo = api.repo(id.repo());
    let info = match repo.info() {
        Ok(info) => info,
        Err(error) if error::is_unreachable(&error) => {
            let Some(path) = cached.model() else { return Err(fault(error)) };
            tracing::warn!("{} does not answer ({error}); {id} is taken from the cache as it is there", settings.endpoint);
            return Ok(path);
        }
        Err(error) => return Err(fault(error)),
    };
    let names: Vec<String> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
    let snapshot = cached.snapshot(&info.sha);
    let fetch = |name: &str| -> Result<PathBuf, Fault> {
        let path = snapshot.join(name);
        if path.exists() {
            return Ok(path);
        }
        let found = Download { id, settings, api: &api, repo: &repo, name }.run()?;
        if found == path {
            return Ok(path);
        }
        let what = format!("{id} changed on the Hub while it was being fetched");
        Err(Fault::new(FaultKind::Model, what, "start again; name a revision to keep it from changing"))
    };
    let wanted = Wanted::of(id, &names)?;
    wanted.files.iter().try_for_each(|name| fetch(name).map(drop))?;
    if let Some(index) = wanted.index {
        let path = fetch(index)?;
        wanted::shards(&path)?.iter().try_for_each(|shard| fetch(shard).map(drop))?;
    }
    // What was all there already has left no trace of which revision it is.
    if let Err(error) = Cache::new(settings.cache.clone()).repo(id.repo()).create_ref(&info.sha) {
        tracing::warn!("cannot note in {} which revision {id} is: {error}", settings.cache.display());
    }
    Ok(wanted.model.map_or(snapshot.clone(), |file| snapshot.join(file)))
}

/// One file on its way into the cache.
struct Download<'a> {
    id: &'a Id,
    settings: &'a Settings,
    api: &'a Api,
    repo: &'a ApiRepo,
    name: &'a str,
}

impl Download<'_> {
    /// Its place in the cache, after as many tries as a lost connection deserves.
    fn run(&self) -> Result<PathBuf, Fault> {
        let mut wait = self.settings.retry_after;
        for tried in 1.. {
            match self.once() {
                Ok(path) => return Ok(path),
                Err(Failed::Told(fault)) => return Err(fault),
                Err(Failed::Api(error)) if tried < TRIES_MAX && error::is_unreachable(&error) => {
                    tracing::warn!("{}: {error}; trying again, {tried} of {TRIES_MAX}", self.name);
                    std::thread::sleep(wait);
                    wait *= 2;
                }
                Err(Failed::Api(error)) => return Err(error::fault(self.id, self.settings, error)),
            }
        }
        unreachable!("the last try returns")
    }

    fn once(&self) -> Result<PathBuf, Failed> {
        let url = self.repo.url(self.name);
        let announced = self.api.metadata(&url)?;
        let blob = Cache::new(self.settings.cache.clone()).repo(self.id.repo()).blob_path(announced.etag());
        let part = blob.with_extension("part");
        // All of it arrived, and then the process ended: there is nothing to ask the rest of.
        if len(&part).is_some_and(|len| len >= announced.size() as u64) {
            fs::remove_file(&part)?;
        }
        let have = len(&part).unwrap_or(0);
        tracing::info!("fetching {} of {}: {} bytes, {have} of them are there", self.name, self.id, announced.size());
        let path = self.repo.download_with_progress(self.name, ProgressBar::new(0))?;
        let found = len(&path).unwrap_or(0);
        if found == announced.size() as u64 {
            return Ok(path);
        }
        // Whoever opens the cache next must not take it for the file.
        for file in [&path, &blob] {
            fs::remove_file(file)?;
        }
        let what = format!("{} of {} came with {found} bytes, {} were announced", self.name, self.id, announced.size());
        Err(Failed::Told(Fault::new(FaultKind::Model, what, "start again; a proxy that changes files would do this every time")))
    }
}

fn len(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.len())
}

enum Failed {
    Api(ApiError),
    Told(Fault),
}

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::Api(error.into())
    }
}

/// What the cache holds of a repository.
struct Cached<'a> {
    id: &'a Id,
    folder: PathBuf,
}

impl<'a> Cached<'a> {
    fn new(id: &'a Id, settings: &Settings) -> Self {
        Self { id, folder: settings.cache.join(id.repo().folder_name()) }
    }

    /// Where the files of a commit lie.
    fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The model, if all of it is there. A revision can be a branch or tag that was resolved before, or a commit.
    fn model(&self) -> Option<PathBuf> {
        let resolved = fs::read_to_string(self.folder.join("refs").join(self.id.revision())).ok();
        let snapshot = self.snapshot(resolved.as_deref().map_or(self.id.revision(), str::trim));
        let mut names: Vec<String> =
            fs::read_dir(&snapshot).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        // What was asked for may lie in a folder of the repository.
        names.extend(self.id.file().filter(|file| file.contains('/')).map(str::to_owned));
        let wanted = Wanted::of(self.id, &names).ok()?;
        let shards = match wanted.index {
            Some(index) => wanted::shards(&snapshot.join(index)).ok()?,
            None => Vec::new(),
        };
        // A link whose file is gone counts as absent.
        let whole =
            wanted.files.iter().copied().chain(shards.iter().map(String::as_str)).all(|name| snapshot.join(name).exists());
        whole.then(|| wanted.model.map_or(snapshot.clone(), |file| snapshot.join(file)))
    }
}

impl Id {
    fn repo(&self) -> Repo {
        Repo::with_revision(self.name().to_owned(), RepoType::Model, self.revision().to_owned())
    }
}

#[cfg(test)]
mod tests;
