//! A process under test: started with arguments, known by the JSON line it prints, ended by its process id.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longest that a test waits for anything. Generous: it is the limit of patience, never the thing measured.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One `trackside …` process. Dropping it asks it to end, so that nothing of it stays, and kills it if it does not.
pub struct Process {
    child: Child,
    /// What the process bound, from its first line on stdout; `null` if it ended before it printed one.
    pub bound: Value,
    stderr: mpsc::Receiver<String>,
}

impl Process {
    /// Starts `program` with `args` and waits for its line.
    pub fn start(program: &str, args: &[&str]) -> Self {
        Self::start_with(program, args, &[])
    }

    pub fn start_with(program: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program);
        command.args(args).envs(env.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let (lines, first) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = stdout.read_line(&mut line);
            let _ = lines.send(line);
            // Read on, so that the process never blocks on a full pipe.
            let _ = std::io::copy(&mut stdout, &mut std::io::sink());
        });
        let (text, said) = mpsc::channel();
        std::thread::spawn(move || {
            let mut all = String::new();
            let _ = stderr.read_to_string(&mut all);
            let _ = text.send(all);
        });
        let line = first.recv_timeout(PATIENCE).unwrap_or_default();
        Self { child, bound: serde_json::from_str(&line).unwrap_or(Value::Null), stderr: said }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A string of the bound line, by JSON pointer: `/gateway`.
    ///
    /// # Panics
    /// The line lacks it; the panic shows what the process said instead.
    pub fn address(&mut self, pointer: &str) -> String {
        match self.bound.pointer(pointer).and_then(Value::as_str) {
            Some(text) => text.to_owned(),
            None => panic!("{} has no {pointer}; stderr: {}", self.bound.clone(), self.end()),
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap_or_else(|error| panic!("cannot signal {pid:?}: {error}"));
    }

    /// Waits for the end and gives status and stderr.
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            assert!(begun.elapsed() < PATIENCE, "process {} does not end", self.pid());
            std::thread::park_timeout(Duration::from_millis(5));
        };
        (status, self.stderr.recv_timeout(PATIENCE).unwrap_or_default())
    }

    /// Kills it and gives its stderr.
    pub fn end(&mut self) -> String {
        let _ = self.child.kill();
        self.wait().1
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let begun = Instant::now();
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        }
        while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < PATIENCE {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A model of `tests/fixtures/models`.
pub fn fixture(name: &str) -> PathBuf {
    crate::tree::root().join("tests/fixtures/models").join(name)
}
