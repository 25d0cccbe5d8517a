//! The error that reaches a person: what happened, to which object, and what to do.

use std::error::Error;
use std::fmt;

/// Why a process ends, and with which exit code. Units and scripts may rely on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// A defect of Trackside.
    Internal = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A configuration file is wrong.
    Config = 3,
    /// The model is missing, damaged or not supported.
    Model = 4,
    /// An address cannot be bound.
    Address = 5,
    /// A file or folder cannot be read or written.
    Storage = 6,
    /// Something that has to answer does not: an engine, a scheduler, a node agent.
    Unreachable = 7,
    /// The device (GPU, driver) is absent or failed.
    Device = 8,
}

impl FaultKind {
    pub const ALL: [Self; 8] =
        [Self::Internal, Self::Usage, Self::Config, Self::Model, Self::Address, Self::Storage, Self::Unreachable, Self::Device];

    pub fn exit_code(self) -> u8 {
        self as u8
    }
}

/// An error for a person. `Display` is one line: `what; action`.
#[derive(Debug)]
pub struct Fault {
    pub kind: FaultKind,
    /// What happened, naming the object: a file, a key, an address, an engine.
    pub what: String,
    /// What to do about it, an imperative sentence.
    pub action: String,
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl Fault {
    pub fn new(kind: FaultKind, what: impl Into<String>, action: impl Into<String>) -> Self {
        Self { kind, what: what.into(), action: action.into(), source: None }
    }

    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        let mut cause = self.source.as_deref().map(|source| source as &dyn Error);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        write!(f, "; {}", self.action)
    }
}

impl Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_one_line_with_its_causes_and_its_remedy() {
        let io = std::io::Error::new(std::io::ErrorKind::AddrInUse, "address in use");
        let fault = Fault::new(FaultKind::Address, "cannot listen on 127.0.0.1:8000", "free the port or pass --port").because(io);
        assert_eq!(fault.to_string(), "cannot listen on 127.0.0.1:8000: address in use; free the port or pass --port");
        assert_eq!(fault.kind.exit_code(), 5);
    }
}
