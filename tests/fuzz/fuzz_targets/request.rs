//! A body of any bytes to any endpoint of a running engine (the fake backend): an answer, never a 5xx of the engine's own making, never a
//! panic, and the engine goes on.
//!
//! Input: which endpoint, then the body.
#![no_main]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, mpsc};
use std::time::Duration;

use engine_serve::{BackendChoice, Config, FakeSpeed, Progress};
use libfuzzer_sys::fuzz_target;

const PATHS: [&str; 10] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/inference/v1/generate",
    "/tokenize",
    "/detokenize",
    "/v1/chat/completions/render",
    "/v1/completions/render",
];

static CONNECTION: LazyLock<Mutex<BufReader<TcpStream>>> = LazyLock::new(|| Mutex::new(connect(serve())));

/// Starts an engine for the life of this process.
fn serve() -> SocketAddr {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/models/scripted/model.gguf");
        let mut config = Config::new(Arc::new(engine_assets::open(&model).expect("the scripted model")), "m");
        config.backend = BackendChoice::Fake(FakeSpeed { prefill_tok_s: f64::INFINITY, step_ms: 0.0 });
        runtime.block_on(async {
            let server = engine_serve::bind(config).await.expect("a free port");
            let address = server.bound().http;
            let said = move |progress| {
                if progress == Progress::Ready {
                    tell.send(address).expect("the fuzzer waits");
                }
            };
            server.run(std::future::pending(), said).await.expect("the engine goes on");
        });
    });
    told.recv().expect("an engine that is ready")
}

fn connect(address: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).expect("the engine listens");
    stream.set_read_timeout(Some(Duration::from_secs(15))).expect("a timeout");
    stream.set_nodelay(true).expect("an option");
    BufReader::new(stream)
}

/// Sends one request and reads its answer to the end: the status.
fn ask(connection: &mut BufReader<TcpStream>, path: &str, body: &[u8]) -> u16 {
    let head = format!("POST {path} HTTP/1.1\r\nhost: m\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    connection.get_mut().write_all(&[head.as_bytes(), body].concat()).expect("the engine reads");
    let line = |connection: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        connection.read_line(&mut line).expect("the engine answers");
        line.trim_end().to_ascii_lowercase()
    };
    let status = line(connection).split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let (mut length, mut chunked) = (0, false);
    loop {
        match line(connection).split_once(": ") {
            None => break,
            Some(("content-length", value)) => length = value.parse().expect("a length"),
            Some(("transfer-encoding", value)) => chunked = value == "chunked",
            Some(_) => {}
        }
    }
    let skip = |connection: &mut BufReader<TcpStream>, length: u64| {
        std::io::copy(&mut connection.by_ref().take(length), &mut std::io::sink()).expect("the whole answer");
    };
    if !chunked {
        skip(connection, length);
        return status;
    }
    loop {
        let mut size = String::new();
        connection.read_line(&mut size).expect("a chunk");
        let size = u64::from_str_radix(size.trim_end(), 16).expect("its size");
        skip(connection, size + 2);
        if size == 0 {
            return status;
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let [path, body @ ..] = bytes else { return };
    let path = PATHS[*path as usize % PATHS.len()];
    let mut connection = CONNECTION.lock().expect("no panic");
    let status = ask(&mut connection, path, body);
    // 501: what the contract knows and this engine does not do. 503: grammars that are compiling.
    assert!(status < 500 || status == 501 || status == 503, "{path}: {status}");
});
