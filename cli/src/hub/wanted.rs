//! Which files of a repository the engine reads.

use std::path::Path;

use domain::{Fault, FaultKind};
use serde_json::Value;

use super::Id;

/// Files beside the weights that are read where they are there.
const TEXTS: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
];
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Most names that an error lists.
const LISTED_MAX: usize = 20;

/// What to fetch, in this order.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    pub files: Vec<&'a str>,
    /// Names further files: the shards.
    pub index: Option<&'a str>,
    /// The file to open; `None`: the folder.
    pub model: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    /// Chooses from the repository's files.
    pub fn of(id: &Id, names: &'a [String]) -> Result<Self, Fault> {
        let find = |name: &str| names.iter().map(String::as_str).find(|found| *found == name);
        let weights = find(SINGLE).or(find(INDEX));
        if let (None, Some(weights), Some(_)) = (id.file(), weights, find("config.json")) {
            let mut files: Vec<&str> = TEXTS.into_iter().filter_map(find).collect();
            if weights == SINGLE {
                files.push(weights);
            }
            return Ok(Self { files, index: (weights == INDEX).then_some(weights), model: None });
        }
        let ggufs: Vec<&str> = names.iter().map(String::as_str).filter(|name| name.ends_with(".gguf")).collect();
        let firsts: Vec<&str> =
            ggufs.iter().copied().filter(|name| part_of(name).is_none_or(|(_, number, _)| number == "00001")).collect();
        let model = match (id.file(), &firsts[..]) {
            (Some(file), _) => ggufs.iter().copied().find(|name| *name == file).ok_or_else(|| no_such_file(id, &firsts))?,
            (None, [only]) => only,
            (None, []) => {
                let what = format!("{id} has neither {SINGLE} nor {INDEX} with a config.json, nor a .gguf file");
                return Err(Fault::new(FaultKind::Model, what, "use a model in safetensors or GGUF"));
            }
            (None, several) => {
                let what = format!("{id} has several GGUF files: {}", listed(several));
                let action = format!("choose one: {}:{}", id.name(), several[0]);
                return Err(Fault::new(FaultKind::Model, what, action));
            }
        };
        let files = match part_of(model) {
            None => vec![model],
            Some((stem, _, count)) => {
                ggufs.into_iter().filter(|name| part_of(name).is_some_and(|(s, _, c)| (s, c) == (stem, count))).collect()
            }
        };
        Ok(Self { files, index: None, model: Some(model) })
    }
}

/// Of `stem-00001-of-00003.gguf`: stem, number, count.
fn part_of(name: &str) -> Option<(&str, &str, &str)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(number) && is_number(count)).then_some((stem, number, count))
}

fn no_such_file(id: &Id, ggufs: &[&str]) -> Fault {
    let file = id.file().unwrap_or_default();
    let what = match ggufs {
        [] => format!("{} has no file {file}, nor any other GGUF file", id.name()),
        ggufs => format!("{} has no file {file}; its GGUF files are {}", id.name(), listed(ggufs)),
    };
    Fault::new(FaultKind::Model, what, "name one of its files, or the model alone")
}

fn listed(names: &[&str]) -> String {
    let more = names.len().saturating_sub(LISTED_MAX);
    let shown = names.iter().take(LISTED_MAX).copied().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// The shards that an index names, each once.
pub fn shards(index: &Path) -> Result<Vec<String>, Fault> {
    let broken = |what: String| {
        let what = format!("{}: {what}", index.display());
        Fault::new(FaultKind::Model, what, "remove it and start again; the model may be broken on the Hub")
    };
    let text = std::fs::read(index).map_err(|error| broken(error.to_string()))?;
    let json: Value = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    let map = json["weight_map"].as_object().ok_or_else(|| broken("has no weight_map".to_owned()))?;
    let mut shards: Vec<String> = map.values().filter_map(|shard| shard.as_str().map(str::to_owned)).collect();
    shards.sort_unstable();
    shards.dedup();
    match shards.iter().find(|shard| shard.contains('/') || shard.starts_with('.')) {
        Some(odd) => Err(broken(format!("names {odd:?}, which is no plain file name"))),
        None => Ok(shards),
    }
}
