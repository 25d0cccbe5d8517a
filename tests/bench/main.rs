//! Benchmarks of the whole product, each with the bar it is held against. Run in release:
//! `cargo run --release -p tests --bin bench -- gateway|agent|up [--json] [--write]`. `--write` keeps the
//! figure in docs/figures/ and writes the pages that show it.
//!
//! Method: a ratio or a difference is the median of 7 alternated pairs in one run; quartiles, CPU model and steal time are printed.
#![forbid(unsafe_code)]

mod agent;
mod fleet;
mod gateway;
mod load;
mod report;
mod up;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [json, write] = ["--json", "--write"].map(|flag| args.iter().any(|arg| arg == flag));
    let figure = match args.first().map(String::as_str) {
        Some("gateway") => gateway::run(),
        Some("agent") => agent::run(),
        Some("up") => up::run(),
        _ => {
            eprintln!("usage: bench gateway|agent|up [--json] [--write]");
            return ExitCode::from(2);
        }
    };
    if json {
        println!("{}", figure.json())
    } else {
        print!("{}", figure.text())
    }
    if write && let Err(error) = store(&args[0], &figure.json().to_string()) {
        eprintln!("cannot write the figure down: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Hands a figure to the program that writes the pages.
fn store(name: &str, figure: &str) -> Result<(), std::io::Error> {
    let script = tests::tree::root().join("tests/bench/page.py");
    let mut child = Command::new("python3").arg(script).args(["--store", name, "fleet"]).stdin(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(figure.as_bytes())?;
    }
    match child.wait()? {
        status if status.success() => Ok(()),
        status => Err(std::io::Error::other(format!("tests/bench/page.py ended with {status}"))),
    }
}

/// The binary under test, built beside this one.
fn trackside() -> String {
    let own: PathBuf = std::env::current_exe().expect("a process knows its program");
    let path = own.with_file_name("trackside-under-test");
    assert!(path.exists(), "build it first: cargo build --release -p tests --bins");
    path.display().to_string()
}
