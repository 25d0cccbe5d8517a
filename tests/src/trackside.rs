//! The binary under test: the same `main` as `trackside`, built here so that cargo tells the suites where it lies.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cli::run()
}
