//! What each XID asks for: the shipped table, and the operator's changes over it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::line::Sighting;

/// What has to be done; later is worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Nothing.
    #[default]
    Note,
    /// The application was at fault or was hit: it starts again, the GPU is well.
    Application,
    /// The application was ended because of another error: that one is the cause.
    Killed,
    /// Worth telling.
    Warn,
    /// Not in the table: somebody should look.
    Unexpected,
    /// A link between GPUs has trouble.
    Link,
    /// The GPU takes nothing new until somebody has looked.
    Drain,
    /// The GPU has to be reset, drained first.
    Reset,
    /// The node has to be rebooted or power-cycled.
    Reboot,
    /// Hands have to be laid on the machine.
    Service,
}

impl Class {
    pub const ALL: [Self; 10] = [
        Self::Note,
        Self::Application,
        Self::Killed,
        Self::Warn,
        Self::Unexpected,
        Self::Link,
        Self::Drain,
        Self::Reset,
        Self::Reboot,
        Self::Service,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Application => "application",
            Self::Killed => "killed",
            Self::Warn => "warn",
            Self::Unexpected => "unexpected",
            Self::Link => "link",
            Self::Drain => "drain",
            Self::Reset => "reset",
            Self::Reboot => "reboot",
            Self::Service => "service",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }

    /// Whether the GPU is unusable until it is repaired.
    pub fn needs_repair(self) -> bool {
        self >= Self::Reset
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    class: Class,
    fatal: Option<Class>,
    nonfatal: Option<Class>,
    text: String,
}

static SHIPPED: LazyLock<BTreeMap<u32, Entry>> =
    LazyLock::new(|| serde_saphyr::from_str(include_str!("severity.yaml")).expect("the shipped table is read by a test"));

/// The table as this agent holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Severities {
    /// The operator's classes.
    changed: BTreeMap<u32, Class>,
}

impl Severities {
    pub fn new(changed: BTreeMap<u32, Class>) -> Self {
        Self { changed }
    }

    /// Class of an XID of which only the number is known.
    pub fn class(&self, code: u32) -> Class {
        let shipped = || SHIPPED.get(&code).map_or(Class::Unexpected, |entry| entry.class);
        self.changed.get(&code).copied().unwrap_or_else(shipped)
    }

    /// Class of what was seen. What the line itself says outranks the number; what the operator says outranks both.
    pub fn class_of(&self, sighting: &Sighting<'_>) -> Class {
        if let Some(class) = self.changed.get(&sighting.code) {
            return *class;
        }
        let Some(entry) = SHIPPED.get(&sighting.code) else { return Class::Unexpected };
        let said = match sighting.fatal {
            Some(true) => entry.fatal,
            Some(false) => entry.nonfatal,
            None => None,
        };
        said.unwrap_or(entry.class)
    }

    /// What an XID means; empty where nobody knows.
    pub fn text(code: u32) -> &'static str {
        SHIPPED.get(&code).map_or("", |entry| entry.text.as_str())
    }
}
