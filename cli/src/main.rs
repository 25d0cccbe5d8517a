//! `trackside`: hands the command line to the library and turns its outcome into an exit code.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cli::run()
}
