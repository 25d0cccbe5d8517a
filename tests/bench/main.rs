//! Benchmarks of the whole product, each with the bar it is held against. Run in release:
//! `cargo run --release -p tests --bin bench -- gateway|agent|up [--json]`.
//!
//! Method: a ratio or a difference is the median of 7 alternated pairs in one run; quartiles, CPU model and steal time are printed.
#![forbid(unsafe_code)]

mod agent;
mod fleet;
mod gateway;
mod load;
mod report;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let json = args.iter().any(|arg| arg == "--json");
    let figure = match args.first().map(String::as_str) {
        Some("gateway") => gateway::run(),
        Some("agent") => agent::run(),
        Some("up") => up::run(),
        _ => {
            eprintln!("usage: bench gateway|agent|up [--json]");
            return ExitCode::from(2);
        }
    };
    if json {
        println!("{}", figure.json())
    } else {
        print!("{}", figure.text())
    }
    ExitCode::SUCCESS
}

/// The binary under test, built beside this one.
fn trackside() -> String {
    let own: PathBuf = std::env::current_exe().expect("a process knows its program");
    let path = own.with_file_name("trackside-under-test");
    assert!(path.exists(), "build it first: cargo build --release -p tests --bins");
    path.display().to_string()
}
