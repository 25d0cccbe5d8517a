//! Logs on stderr: for people by default, JSON on request, never on stdout, which belongs to answers.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Human,
    Json,
}

/// Says something to the person at the terminal, if there is one.
pub fn tell(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "trackside: {line}");
}

/// Starts logging for the process. `TRACKSIDE_LOG` filters as `RUST_LOG` does elsewhere: `info`, `scheduler=debug`.
/// Without it, `usual` counts.
pub fn start(format: Format, usual: &str) {
    let filter = EnvFilter::try_from_env("TRACKSIDE_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    // A line that cannot be written (full disk, closed pipe) is lost; complaining of it on stderr would end the process.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    // A second start in one process (tests) keeps the first.
    let _ = match format {
        Format::Human => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        Format::Json => builder.json().try_init(),
    };
}
