//! Senses the host: one collector, one file, one line in the table.
//!
//! Collectors run on a timer of their own and leave what they found on the node's board; a scrape only reads. What a host does not
//! have is *absent*, with the reason; what it has and cannot be read is *failed*. The two are never mixed up, and neither is ever zero.

pub mod agent;
pub mod cpu;
pub mod kmsg;
pub mod memory;
pub mod nvml;
pub mod psi;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::node::HostFacts;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::node::Node;
use crate::node::metric::Family;

/// Between two rounds.
pub const EVERY: Duration = Duration::from_secs(1);
/// Largest file below /proc that is read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why a collector has nothing to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// This host does not have it.
    Absent(String),
    /// It is there and cannot be read or understood.
    Failed(String),
}

/// What one round of one collector gave.
pub type Outcome = Result<Arc<[Family]>, Missing>;

/// Reads one part of the host.
pub trait Collector: Send {
    /// Lower-case name, as in `trackside_node_collector_up{collector}`.
    fn name(&self) -> &'static str;

    /// Reads, and puts what the scheduler should know into `facts`.
    fn collect(&mut self, host: &Host, facts: &mut HostFacts) -> Result<Vec<Family>, Missing>;
}

/// All collectors.
pub fn collectors() -> Vec<Box<dyn Collector>> {
    vec![Box::new(cpu::Cpu::default()), Box::new(memory::Memory), Box::new(psi::Psi), Box::new(agent::Agent)]
}

/// The host's files below a root: `/` in life, a fixture tree in tests, `/host` in a container.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A file's text; bytes that are no UTF-8 are replaced. A file that is not there is absent.
    pub fn read(&self, path: &str) -> Result<String, Missing> {
        self.read_opt(path)?.ok_or_else(|| Missing::Absent(format!("/{path} is not there")))
    }

    /// As [`Host::read`], but a file that is not there is `None`.
    pub fn read_opt(&self, path: &str) -> Result<Option<String>, Missing> {
        let full = self.root.join(path);
        match read_bounded(&full) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // A kernel with PSI compiled in and switched off has the files and answers this.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
            Err(error) => Err(Missing::Failed(format!("/{path}: {error}"))),
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// One round of all collectors.
pub fn round(collectors: &mut [Box<dyn Collector>], host: &Host) -> (HostFacts, Vec<(&'static str, Outcome)>) {
    let mut facts = HostFacts::default();
    let outcomes = collectors.iter_mut().map(|collector| {
        let outcome = collector.collect(host, &mut facts);
        (collector.name(), outcome.map(Into::into))
    });
    let outcomes = outcomes.collect();
    (facts, outcomes)
}

/// Collects until the agent ends.
pub async fn run(node: Arc<Node>, host: Host, shutdown: CancellationToken) {
    let mut collectors = collectors();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing: Vec<&'static str> = Vec::new();
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        // Files below /proc are made in memory while they are read: nothing here waits for a disk.
        let (facts, outcomes) = round(&mut collectors, &host);
        for (name, outcome) in &outcomes {
            match outcome {
                Err(Missing::Failed(why)) if !failing.contains(name) => {
                    tracing::warn!(collector = name, why, "collector fails");
                    failing.push(name);
                }
                Ok(_) => failing.retain(|failing| failing != name),
                Err(_) => {}
            }
        }
        node.collected(Instant::now(), facts, outcomes);
    }
}
