//! Flags that stand in start commands written for vLLM and have nothing to change here: accepted, and named in a warning where they would
//! have done something.

use clap::{Arg, ArgAction, ArgMatches, Command, Error, FromArgMatches};

/// Flags without a value.
const SWITCHES: [&str; 18] = [
    "async-scheduling",
    "disable-fastapi-docs",
    "disable-frontend-multiprocessing",
    "disable-log-requests",
    "disable-log-stats",
    "disable-uvicorn-access-log",
    "enable-chunked-prefill",
    "enable-log-requests",
    "enable-lora",
    "enable-prefix-caching",
    "enable-request-id-headers",
    "enable-server-load-tracking",
    "enable-sleep-mode",
    "enforce-eager",
    "no-async-scheduling",
    "no-enable-chunked-prefill",
    "no-enable-log-requests",
    "trust-remote-code",
];
/// Flags with a value.
const OPTIONS: [&str; 16] = [
    "attention-backend",
    "compilation-config",
    "config-format",
    "distributed-executor-backend",
    "download-dir",
    "generation-config",
    "gpu-memory-utilization",
    "load-format",
    "lora-dtype",
    "max-seq-len-to-capture",
    "performance-mode",
    "seed",
    "swap-space",
    "tokenizer-mode",
    "uvicorn-log-level",
    "optimization-level",
];
/// Sizes of which this engine knows one.
const ONES: [&str; 4] = ["tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size", "api-server-count"];

/// The flags that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored(pub Vec<&'static str>);

impl FromArgMatches for Ignored {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let given =
            |name: &&&str| matches.value_source(name).is_some_and(|source| source == clap::parser::ValueSource::CommandLine);
        Ok(Self(SWITCHES.iter().chain(&OPTIONS).filter(given).copied().collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Ignored {
    fn augment_args(command: Command) -> Command {
        let hidden = |name: &'static str| Arg::new(name).long(name).hide(true);
        let switches = SWITCHES.map(|name| hidden(name).action(ArgAction::SetTrue));
        let options = OPTIONS.map(|name| hidden(name).action(ArgAction::Set));
        let ones = ONES.map(|name| hidden(name).value_parser(clap::value_parser!(u32).range(1..=1)));
        command.args(switches).args(options).args(ones)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
