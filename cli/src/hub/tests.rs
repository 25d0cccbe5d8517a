//! Against a server of our own that speaks the Hub's API: what is fetched, what is kept, and what a person is told.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::TempDir;

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server does to a file.
#[derive(Clone, Copy, PartialEq)]
enum Wrong {
    Nothing,
    /// The connection is closed after half of what is left, this many times.
    Cut(usize),
    /// More bytes are announced than come.
    Announced(usize),
}

#[derive(Default)]
struct Shown {
    files: BTreeMap<String, Vec<u8>>,
    wrong: Option<(String, Wrong)>,
    /// Instead of every answer.
    status: Option<u16>,
    /// `METHOD path range authorization` of each request.
    seen: Vec<String>,
}

struct Hub {
    endpoint: String,
    shown: Arc<Mutex<Shown>>,
    home: TempDir,
}

impl Hub {
    fn new(files: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect();
        let shown = Arc::new(Mutex::new(Shown { files, ..Shown::default() }));
        let of_server = Arc::clone(&shown);
        // Ends with the test's process; it has nothing to lose.
        thread::spawn(move || listener.incoming().for_each(|stream| drop(answer(stream.unwrap(), &of_server))));
        Self { endpoint, shown, home: tempfile::tempdir().unwrap() }
    }

    fn settings(&self) -> Settings {
        Settings {
            endpoint: self.endpoint.clone(),
            cache: self.home.path().join("hub"),
            token: None,
            offline: false,
            retry_after: Duration::from_millis(1),
        }
    }

    fn fetch(&self, id: &str) -> Result<PathBuf, Fault> {
        fetch(&Id::parse(id).unwrap(), &self.settings())
    }

    #[track_caller]
    fn refuses(&self, id: &str, settings: &Settings, kind: FaultKind, says: &[&str]) {
        let fault = fetch(&Id::parse(id).unwrap(), settings).map(|_| ()).expect_err("was fetched");
        let line = fault.to_string();
        assert_eq!(fault.kind, kind, "{line}");
        for part in says {
            assert!(line.contains(part), "does not say {part:?}: {line}");
        }
        assert!(!line.contains('\n'), "{line}");
    }

    fn set(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut self.shown.lock().unwrap());
    }

    /// Files whose content was asked for, each once, since the last look.
    fn asked(&self) -> Vec<String> {
        let seen = std::mem::take(&mut self.shown.lock().unwrap().seen);
        let mut files: Vec<String> =
            seen.iter().filter_map(|line| Some(line.split_once("/resolve/main/")?.1.split(' ').next()?.to_owned())).collect();
        files.dedup();
        files
    }
}

fn answer(stream: TcpStream, shown: &Mutex<Shown>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let header = |name: &str| {
        let found = lines.iter().find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)));
        found.map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    let path = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let mut shown = shown.lock().unwrap();
    shown.seen.push(format!("{path} {} {}", header("range"), header("authorization")));
    let mut stream = &stream;
    if let Some(status) = shown.status {
        return write!(stream, "HTTP/1.1 {status} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
    if path == "/api/models/org/tiny/revision/main" {
        let siblings: Vec<_> = shown.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let body = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
        return write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    }
    let name = path.strip_prefix("/org/tiny/resolve/main/").unwrap_or_default().to_owned();
    let Some(file) = shown.files.get(&name).cloned() else {
        return write!(stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    };
    let range = header("range");
    let (start, end) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
    let start: usize = start.parse().unwrap();
    let end = end.parse::<usize>().map_or(file.len(), |end| file.len().min(end + 1));
    let mut wrong = Wrong::Nothing;
    if let Some((of, how)) = &mut shown.wrong
        && *of == name
    {
        wrong = *how;
        if let (Wrong::Cut(times), false) = (how, range == "bytes=0-0") {
            *times = times.saturating_sub(1);
        }
    }
    let total = if let Wrong::Announced(more) = wrong { file.len() + more } else { file.len() };
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\ncontent-range: bytes {start}-{}/{total}\r\netag: \"etag-{}\"\r\nx-repo-commit: {COMMIT}\r\nconnection: close\r\n\r\n",
        end - start,
        end - 1,
        name.replace(['/', '.'], "-"),
    )?;
    let cut = matches!(wrong, Wrong::Cut(1..)) && range != "bytes=0-0";
    stream.write_all(&file[start..if cut { start + (end - start) / 2 } else { end }])
}

const FOLDER: &[(&str, &str)] = &[
    ("README.md", "not for engines"),
    ("config.json", "{}"),
    ("model.safetensors", "weights of one file, long enough to be cut"),
    ("onnx/model.onnx", "not for this engine"),
    ("pytorch_model.bin", "not for this engine"),
    ("tokenizer.json", "{\"tokens\": 1}"),
];

const SHARDED: &[(&str, &str)] = &[
    ("config.json", "{}"),
    ("consolidated.safetensors", "not for this engine"),
    ("model-00001-of-00002.safetensors", "one"),
    ("model-00002-of-00002.safetensors", "two"),
    (
        "model.safetensors.index.json",
        r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors", "c": "model-00001-of-00002.safetensors"}}"#,
    ),
    ("tokenizer.json", "{}"),
];

const GGUFS: &[(&str, &str)] = &[
    ("big-00001-of-00002.gguf", "first"),
    ("big-00002-of-00002.gguf", "second"),
    ("small.Q4_0.gguf", "four"),
    ("small.Q8_0.gguf", "eight"),
];

#[test]
fn only_what_is_read_is_fetched_and_only_once() {
    let hub = Hub::new(FOLDER);
    let folder = hub.fetch("org/tiny").unwrap();
    assert!(folder.ends_with(format!("models--org--tiny/snapshots/{COMMIT}")), "{}", folder.display());
    assert_eq!(fs::read_to_string(folder.join("model.safetensors")).unwrap(), "weights of one file, long enough to be cut");
    assert_eq!(hub.asked(), ["config.json", "tokenizer.json", "model.safetensors"], "weights last");
    assert_eq!(hub.fetch("org/tiny").unwrap(), folder);
    assert_eq!(hub.asked(), Vec::<String>::new(), "a snapshot that is there is used");
    // As Hugging Face's own tools lay it out: a link to a blob, and a note of what `main` is.
    assert!(folder.join("config.json").is_symlink());
    assert_eq!(fs::read_to_string(folder.join("../../refs/main")).unwrap(), COMMIT);
}

#[test]
fn shards_are_those_of_the_index() {
    let hub = Hub::new(SHARDED);
    let folder = hub.fetch("org/tiny").unwrap();
    assert_eq!(fs::read_to_string(folder.join("model-00002-of-00002.safetensors")).unwrap(), "two");
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    assert_eq!(hub.asked(), ["config.json", "tokenizer.json", "model.safetensors.index.json", shards[0], shards[1]]);
}

#[test]
fn a_gguf_file_is_chosen_by_name() {
    let hub = Hub::new(GGUFS);
    assert!(hub.fetch("org/tiny:small.Q8_0.gguf").unwrap().ends_with("small.Q8_0.gguf"));
    assert_eq!(hub.asked(), ["small.Q8_0.gguf"]);
    let first = hub.fetch("org/tiny:big-00001-of-00002.gguf").unwrap();
    assert!(first.ends_with("big-00001-of-00002.gguf") && first.with_file_name("big-00002-of-00002.gguf").exists());
    let settings = hub.settings();
    let several = ["big-00001-of-00002.gguf, small.Q4_0.gguf, small.Q8_0.gguf", "choose one: org/tiny:big-00001-of-00002.gguf"];
    hub.refuses("org/tiny", &settings, FaultKind::Model, &several);
    hub.refuses("org/tiny:none.gguf", &settings, FaultKind::Model, &["no file none.gguf", "small.Q4_0.gguf"]);
    hub.set(|shown| shown.files.retain(|name, _| name == "small.Q4_0.gguf"));
    assert!(hub.fetch("org/tiny").unwrap().ends_with("small.Q4_0.gguf"), "the only one needs no name");
    hub.set(|shown| shown.files = BTreeMap::from([("README.md".to_owned(), Vec::new())]));
    hub.refuses("org/tiny", &settings, FaultKind::Model, &["org/tiny has neither model.safetensors", ".gguf"]);
}

#[test]
fn a_lost_connection_goes_on_where_it_ended() {
    let hub = Hub::new(FOLDER);
    hub.set(|shown| shown.wrong = Some(("model.safetensors".to_owned(), Wrong::Cut(3))));
    let folder = hub.fetch("org/tiny").unwrap();
    assert_eq!(fs::read_to_string(folder.join("model.safetensors")).unwrap(), FOLDER[2].1);
    let seen = hub.shown.lock().unwrap().seen.join("\n");
    assert!(seen.contains("model.safetensors bytes=21-"), "{seen}");

    let hub = Hub::new(FOLDER);
    hub.set(|shown| shown.wrong = Some(("model.safetensors".to_owned(), Wrong::Cut(1000))));
    hub.refuses("org/tiny", &hub.settings(), FaultKind::Unreachable, &["cannot fetch org/tiny", "what has arrived is kept"]);
    hub.set(|shown| (shown.wrong, shown.seen) = (None, Vec::new()));
    hub.fetch("org/tiny").unwrap();
    let seen = hub.shown.lock().unwrap().seen.join("\n");
    assert!(!seen.contains("model.safetensors bytes=0- "), "another start goes on, too: {seen}");
}

#[test]
fn a_file_of_another_size_is_refused_and_not_kept() {
    let hub = Hub::new(FOLDER);
    hub.set(|shown| shown.wrong = Some(("model.safetensors".to_owned(), Wrong::Announced(9))));
    let settings = hub.settings();
    hub.refuses("org/tiny", &settings, FaultKind::Model, &["model.safetensors", "42 bytes", "51 were announced"]);
    let offline = Settings { offline: true, ..settings };
    hub.refuses("org/tiny", &offline, FaultKind::Model, &["HF_HUB_OFFLINE", "not whole"]);
    hub.set(|shown| shown.wrong = None);
    hub.fetch("org/tiny").unwrap();
}

#[test]
fn refusals_say_what_to_do() {
    let hub = Hub::new(FOLDER);
    let settings = hub.settings();
    let with_token = Settings { token: Some("secret".to_owned()), ..settings.clone() };
    for (status, settings, kind, says) in [
        (401, &settings, FaultKind::Model, &["gated or private", "no token", "accept its terms", "HF_TOKEN"][..]),
        (403, &with_token, FaultKind::Model, &["the token given", "/org/tiny"]),
        (404, &settings, FaultKind::Model, &["neither a folder or file here nor a model", "check the spelling"]),
        (503, &settings, FaultKind::Unreachable, &["503", "try again"]),
    ] {
        hub.set(|shown| shown.status = Some(status));
        hub.refuses("org/tiny", settings, kind, says);
    }
    let seen = hub.shown.lock().unwrap().seen.clone();
    assert!(seen[0].ends_with(' ') && seen[1].ends_with("Bearer secret"), "{seen:?}");
    let nobody = Settings { endpoint: "http://127.0.0.1:1".to_owned(), ..settings.clone() };
    hub.refuses("org/tiny", &nobody, FaultKind::Unreachable, &["cannot fetch org/tiny from http://127.0.0.1:1", "local path"]);
    // A file where the cache should be: what a full or foreign disk does, too, is told as storage's fault.
    let file = hub.home.path().join("file");
    fs::write(&file, "").unwrap();
    hub.set(|shown| shown.status = None);
    hub.refuses("org/tiny", &Settings { cache: file, ..settings }, FaultKind::Storage, &["cannot keep org/tiny", "HF_HOME"]);
}

#[test]
fn without_the_hub_the_cache_serves() {
    let hub = Hub::new(SHARDED);
    let folder = hub.fetch("org/tiny").unwrap();
    let settings = hub.settings();
    let offline = Settings { offline: true, ..settings.clone() };
    let down = Settings { endpoint: "http://127.0.0.1:1".to_owned(), ..settings };
    hub.asked();
    for settings in [&offline, &down] {
        for id in ["org/tiny".to_owned(), format!("org/tiny:{COMMIT}")] {
            assert_eq!(fetch(&Id::parse(&id).unwrap(), settings).unwrap(), folder, "{id}");
        }
    }
    assert_eq!(hub.asked(), Vec::<String>::new());
    fs::remove_file(folder.join("model-00002-of-00002.safetensors")).unwrap();
    hub.refuses("org/tiny", &offline, FaultKind::Model, &["not whole"]);
    hub.refuses("org/tiny", &down, FaultKind::Unreachable, &["127.0.0.1:1"]);
}

#[test]
fn ids() {
    let parts =
        |text: &str| Id::parse(text).map(|id| (id.name().to_owned(), id.revision().to_owned(), id.file().map(str::to_owned)));
    let id =
        |name: &str, revision: &str, file: Option<&str>| Some((name.to_owned(), revision.to_owned(), file.map(str::to_owned)));
    assert_eq!(parts("Qwen/Qwen3-0.6B"), id("Qwen/Qwen3-0.6B", "main", None));
    assert_eq!(parts("a/b:v1.0"), id("a/b", "v1.0", None));
    assert_eq!(parts("a/b:refs/pr/3"), id("a/b", "refs/pr/3", None));
    assert_eq!(parts("a/b:sub/c.gguf"), id("a/b", "main", Some("sub/c.gguf")));
    for path in ["name", "./a/b", "/a/b", "../b", "a/b/c", "a/b.gguf", "~/models", "a/", "a/b:", "a/b:../c", "a b/c", "a/b:/c"] {
        assert_eq!(parts(path), None, "{path}");
    }
}
