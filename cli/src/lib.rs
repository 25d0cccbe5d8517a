//! `trackside` as a library: parses the command line, composes the parts, reports what went wrong. A thin `main` calls [`run`].
#![forbid(unsafe_code)]

mod admin;
mod args;
mod builtin;
mod command;
mod hub;
mod log;
mod table;

use std::process::ExitCode;

/// Tokenising and HTTP allocate in small pieces, on which glibc's allocator spends a fifth of the gateway's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use clap::Parser;
use domain::Fault;

pub use args::{Args, Command};

/// Runs one command line to its end. Errors go to stderr as one line each; the exit code is the fault's kind.
pub fn run() -> ExitCode {
    let args = Args::parse();
    // `up` has a screen of its own to say how things are. The ZMQ library tells of every peer that comes and goes.
    let usual =
        if matches!(args.command, Command::Up(_)) { "warn,zeromq=error,daemon::edge::control=error" } else { "info,zeromq=warn" };
    log::start(args.log_format, usual);
    match execute(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            log::tell(&fault.to_string());
            ExitCode::from(fault.kind.exit_code())
        }
    }
}

fn execute(command: Command) -> Result<(), Fault> {
    match command {
        Command::Engine(args) => command::engine::run(*args),
        Command::Node(args) => command::node::run(args),
        Command::Scheduler(args) => command::scheduler::run(args),
        Command::Up(args) => command::up::run(args),
        Command::Status(args) => command::status::run(args),
        Command::Explain(args) => command::explain::run(args),
    }
}
