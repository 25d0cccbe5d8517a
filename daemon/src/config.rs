//! The agent's configuration: strict YAML, checked into meaning, all mistakes told at once.

mod read;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::gpu::{GPUS_MAX, Verdict};
use domain::{EngineName, Fault, FaultKind, Role};

use self::read::Table;
use crate::collect::nvml;
use crate::health;
use crate::run::machine::Policy;
use crate::xid::{Class, Severities};

/// Most slots of one node, as many as one report may name.
pub const SLOTS_MAX: usize = 64;
/// Most scheduler replicas that one agent reports to.
pub const SCHEDULERS_MAX: usize = 16;
/// Largest configuration file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Default ports by slot; eight slots fit without meeting each other.
const ENGINE_PORT: u16 = 8200;
const EVENTS_PORT: u16 = 5557;
const REPLAY_PORT: u16 = 5657;
pub const ADMIN_PORT: u16 = 9410;

/// What becomes of the engines when the agent is stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStop {
    /// They go on; the next agent takes them over.
    #[default]
    Leave,
    /// They finish their requests and end.
    Drain,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of this node in the fleet.
    pub node: String,
    pub state_dir: PathBuf,
    /// Where `/metrics`, `/healthz`, `/readyz`, `/status` and the admin calls are served; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Node-stream addresses of every scheduler replica, `host:port`.
    pub schedulers: Vec<String>,
    pub on_stop: OnStop,
    /// The `trackside` program that runs native engines.
    pub engine_program: PathBuf,
    /// Whether engines get a cgroup each where the agent may make one.
    pub cgroups: bool,
    /// Root below which `proc` and `sys` of the host lie.
    pub host_root: PathBuf,
    pub nvml: nvml::Settings,
    pub health: health::Settings,
    pub slots: Vec<Slot>,
}

/// One place for an engine.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    pub name: EngineName,
    pub kind: SlotKind,
    /// Data address. Port 0: the engine takes a free one and says which (native engines only).
    pub host: IpAddr,
    pub port: u16,
    pub role: Role,
    pub dp_rank: u32,
    /// Folder or GGUF file whose tokenizer the engine uses; what a scheduler asks the agent for.
    pub model_files: Option<PathBuf>,
    /// GPUs that it runs on: positions in PCI order, or UUIDs. Its process sees no others.
    pub gpus: Vec<String>,
    pub policy: Policy,
}

#[derive(Clone, Debug, PartialEq)]
pub enum SlotKind {
    /// `trackside engine`.
    Native { model: String, args: Vec<String>, events_port: u16, replay_port: u16 },
    /// Any command that serves vLLM's contract, or at least answers on a health path.
    Command { command: Vec<String>, env: BTreeMap<String, String>, foreign: Foreign },
    /// An engine that somebody else runs.
    Attach { foreign: Foreign },
}

/// How an engine that is not ours is read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Foreign {
    pub health: Health,
    /// ZMQ endpoint of its KV events, and the ROUTER endpoint for replay.
    pub kv_events: Option<String>,
    pub kv_replay: Option<String>,
}

/// How readiness is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// `GET` of this path answers 2xx.
    Path(String),
    /// The process lives; it serves nothing that could be asked.
    Process,
}

impl Default for Health {
    fn default() -> Self {
        Self::Path("/health".into())
    }
}

impl Slot {
    /// A native engine in slot `index` with the defaults of its place.
    pub fn native(index: u16, model: impl Into<String>) -> Self {
        Self {
            name: EngineName::new(format!("engine-{index}")),
            kind: SlotKind::Native {
                model: model.into(),
                args: Vec::new(),
                events_port: EVENTS_PORT + index,
                replay_port: REPLAY_PORT + index,
            },
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: ENGINE_PORT + index,
            role: Role::Both,
            dp_rank: 0,
            model_files: None,
            gpus: Vec::new(),
            policy: Policy::default(),
        }
    }

    /// Command line and added environment of its process.
    pub(crate) fn launch(&self, engine_program: &Path) -> (Vec<String>, BTreeMap<String, String>) {
        let mut seen = BTreeMap::new();
        if !self.gpus.is_empty() {
            // Positions mean the same to CUDA as to NVML only in the order of the bus.
            seen.insert("CUDA_DEVICE_ORDER".to_owned(), "PCI_BUS_ID".to_owned());
            seen.insert("CUDA_VISIBLE_DEVICES".to_owned(), self.gpus.join(","));
        }
        match &self.kind {
            SlotKind::Native { model, args, events_port, replay_port } => {
                let mut command = vec![engine_program.to_string_lossy().into_owned(), "engine".into()];
                let flags = [
                    ("--model", model.clone()),
                    ("--host", self.host.to_string()),
                    ("--port", self.port.to_string()),
                    ("--kv-events-port", events_port.to_string()),
                    ("--kv-replay-port", replay_port.to_string()),
                ];
                command.extend(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
                command.extend(args.iter().cloned());
                (command, seen)
            }
            SlotKind::Command { command, env, .. } => {
                seen.extend(env.clone());
                (command.clone(), seen)
            }
            SlotKind::Attach { .. } => (Vec::new(), BTreeMap::new()),
        }
    }
}

impl Config {
    /// Defaults around a state folder; no slots, no schedulers.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            node: host_name(),
            state_dir: state_dir.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT)),
            schedulers: Vec::new(),
            on_stop: OnStop::Leave,
            engine_program: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("trackside")),
            cgroups: true,
            host_root: PathBuf::from("/"),
            nvml: nvml::Settings::default(),
            health: health::Settings::default(),
            slots: Vec::new(),
        }
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, Fault> {
        let unreadable = |error: std::io::Error| {
            let what = format!("cannot read the configuration {}", path.display());
            Fault::new(FaultKind::Config, what, "give an existing file with --config").because(error)
        };
        let length = std::fs::metadata(path).map_err(unreadable)?.len();
        if length > FILE_BYTES_MAX {
            let what = format!("the configuration {} has {length} bytes", path.display());
            return Err(Fault::new(FaultKind::Config, what, format!("keep it below {FILE_BYTES_MAX} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(&text).map_err(|mistakes| {
            let what = format!("{} is wrong: {}", path.display(), mistakes.join("; "));
            Fault::new(FaultKind::Config, what, "correct these keys and start again")
        })
    }

    /// Parses YAML. The error lists every mistake with the path of its key.
    pub fn parse(yaml: &str) -> Result<Self, Vec<String>> {
        let value: serde_json::Value = serde_saphyr::from_str(yaml).map_err(|error| {
            let text = error.to_string();
            vec![format!("not YAML: {}", text.lines().next().unwrap_or_default())]
        })?;
        let mut mistakes = Vec::new();
        let config = Self::from_table(&mut Table::root(&value, &mut mistakes));
        if mistakes.is_empty() { Ok(config) } else { Err(mistakes) }
    }

    fn from_table(table: &mut Table<'_>) -> Self {
        let mut config = Self::new("/var/lib/trackside");
        if let Some(node) = table.name("node") {
            config.node = node;
        }
        if let Some(dir) = table.string("state_dir") {
            config.state_dir = dir.into();
        }
        if let Some(listen) = table.parsed("listen", "an address like 127.0.0.1:9410") {
            config.listen = listen;
        }
        if let Some(schedulers) = table.strings("schedulers") {
            for (i, scheduler) in schedulers.iter().enumerate() {
                let port =
                    scheduler.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok())?);
                if port.is_none() {
                    table.mistake(&format!("schedulers[{i}]"), format!("{scheduler:?} is not host:port"));
                }
            }
            if schedulers.len() > SCHEDULERS_MAX {
                table.mistake("schedulers", format!("lists {}, at most {SCHEDULERS_MAX}", schedulers.len()));
            }
            config.schedulers = schedulers;
        }
        if let Some(on_stop) = table.one_of("on_stop", &[("leave", OnStop::Leave), ("drain", OnStop::Drain)]) {
            config.on_stop = on_stop;
        }
        if let Some(program) = table.string("engine_program") {
            config.engine_program = program.into();
        }
        if let Some(root) = table.string("host_root") {
            config.host_root = root.into();
        }
        if let Some(cgroups) = table.boolean("cgroups") {
            config.cgroups = cgroups;
        }
        table.inside("nvml", |table| config.nvml = nvml_settings(table));
        table.inside("health", |table| config.health = health_settings(table));
        let mut slots: Vec<Slot> = Vec::new();
        table.each("slots", SLOTS_MAX, |i, table| {
            let index = u16::try_from(i).unwrap_or(u16::MAX);
            if let Some(slot) = slot(index, table) {
                if slots.iter().any(|other| other.name == slot.name) {
                    table.mistake("name", format!("{:?} names two slots", slot.name.as_str()));
                }
                let taken = |other: &&Slot| slot.port != 0 && (other.host, other.port) == (slot.host, slot.port);
                if let Some(other) = slots.iter().find(taken) {
                    table.mistake("port", format!("{} is the port of {} too", slot.port, other.name));
                }
                slots.push(slot);
            }
        });
        config.slots = slots;
        table.finish();
        config
    }
}

fn nvml_settings(table: &mut Table<'_>) -> nvml::Settings {
    let mut settings = nvml::Settings::default();
    if let Some(path) = table.string("library") {
        if !path.starts_with('/') {
            table.mistake("library", format!("{path:?} is not an absolute path"));
        }
        settings.library = Some(path.into());
    }
    let names = [("hostname", nvml::Dcgm::Hostname), ("Hostname", nvml::Dcgm::CapitalHostname), ("none", nvml::Dcgm::Off)];
    if let Some(dcgm) = table.one_of("dcgm", &names) {
        settings.dcgm = dcgm;
    }
    settings.off = table.boolean("enabled") == Some(false);
    table.finish();
    settings
}

fn health_settings(table: &mut Table<'_>) -> health::Settings {
    let mut settings = health::Settings::default();
    if let Some(observe) = table.one_of("mode", &[("act", false), ("observe", true)]) {
        settings.observe = observe;
    }
    let mut classes = BTreeMap::new();
    for (code, class) in table.string_map("xid") {
        match (code.parse::<u32>(), Class::from_name(&class)) {
            (Ok(code), Some(class)) => _ = classes.insert(code, class),
            (Err(_), _) => table.mistake("xid", format!("{code:?} is no number of an XID")),
            (_, None) => {
                let known = Class::ALL.map(Class::as_str).join(", ");
                table.mistake(&format!("xid.{code}"), format!("{class:?} is none of {known}"));
            }
        }
    }
    settings.xid = Severities::new(classes);
    for (rule, level) in table.string_map("levels") {
        let known = health::rules::RULES.iter().any(|known| known.name == rule);
        match Verdict::from_name(&level) {
            Some(level) if known => _ = settings.levels.insert(rule, level),
            Some(_) => {
                let rules: Vec<&str> = health::rules::RULES.iter().map(|rule| rule.name).collect();
                table.mistake(&format!("levels.{rule}"), format!("is no rule; known: {}", rules.join(", ")));
            }
            None => {
                let known = Verdict::ALL.map(Verdict::as_str).join(", ");
                table.mistake(&format!("levels.{rule}"), format!("{level:?} is none of {known}"));
            }
        }
    }
    table.finish();
    settings
}

fn slot(index: u16, table: &mut Table<'_>) -> Option<Slot> {
    #[derive(Clone, Copy)]
    enum Kind {
        Native,
        Command,
        Attach,
    }
    let kinds = [("native", Kind::Native), ("command", Kind::Command), ("attach", Kind::Attach)];
    // Keys are checked against those of the kind, so without a kind there is nothing more to say.
    let Some(kind) = table.one_of("kind", &kinds) else {
        table.missing("kind", "native, command or attach");
        return None;
    };
    let mut slot = Slot::native(index.min(SLOTS_MAX as u16), "");
    if let Some(name) = table.name("name") {
        slot.name = EngineName::new(name);
    }
    if let Some(role) = table.one_of("role", &[("both", Role::Both), ("prefill", Role::Prefill), ("decode", Role::Decode)]) {
        slot.role = role;
    }
    if let Some(rank) = table.number("dp_rank", 0, 4095) {
        slot.dp_rank = rank as u32;
    }
    slot.model_files = table.string("model_files").map(PathBuf::from);
    if let Some(gpus) = table.strings("gpus") {
        for (i, gpu) in gpus.iter().enumerate() {
            let known = gpu.parse::<u32>().is_ok() || gpu.starts_with("GPU-");
            if !known {
                table.mistake(&format!("gpus[{i}]"), format!("{gpu:?} is neither a position like 0 nor a UUID like GPU-…"));
            }
        }
        if gpus.len() > GPUS_MAX {
            table.mistake("gpus", format!("lists {}, at most {GPUS_MAX}", gpus.len()));
        }
        slot.gpus = gpus;
    }
    if let Some(seconds) = table.number("stuck_after_s", 1, 86_400) {
        slot.policy.stuck_after = Duration::from_secs(seconds);
    }
    if let Some(seconds) = table.number("silent_after_s", 1, 86_400) {
        slot.policy.silent_after = Duration::from_secs(seconds);
    }
    if let Some(seconds) = table.number("ready_within_s", 1, 86_400) {
        slot.policy.ready_within = Duration::from_secs(seconds);
    }
    if let Some(seconds) = table.number("drain_within_s", 0, 86_400) {
        slot.policy.drain_within = Duration::from_secs(seconds);
    }
    if let Some(seconds) = table.number("term_grace_s", 0, 3_600) {
        slot.policy.term_grace = Duration::from_secs(seconds);
    }
    match kind {
        Kind::Native => {
            address(table, &mut slot, 0);
            let SlotKind::Native { model, args, events_port, replay_port } = &mut slot.kind else { return None };
            match table.string("model") {
                Some(name) => *model = name,
                None => table.missing("model", "a folder, a .gguf file or builtin"),
            }
            *args = table.strings("args").unwrap_or_default();
            if let Some(port) = table.number("kv_events_port", 0, u64::from(u16::MAX)) {
                *events_port = port as u16;
            }
            if let Some(port) = table.number("kv_replay_port", 0, u64::from(u16::MAX)) {
                *replay_port = port as u16;
            }
            if slot.model_files.is_none() {
                slot.model_files = Some(PathBuf::from(model.as_str()));
            }
        }
        Kind::Command => {
            address(table, &mut slot, 1);
            let command = table.strings("command").unwrap_or_default();
            if command.is_empty() {
                table.missing("command", "a program and its arguments");
            }
            slot.kind = SlotKind::Command { command, env: table.string_map("env"), foreign: foreign(table) };
        }
        Kind::Attach => {
            match table.parsed::<SocketAddr>("address", "an address like 10.0.0.7:8000") {
                Some(address) => (slot.host, slot.port) = (address.ip(), address.port()),
                None => table.missing("address", "where the engine listens"),
            }
            slot.kind = SlotKind::Attach { foreign: foreign(table) };
        }
    }
    table.finish();
    Some(slot)
}

fn address(table: &mut Table<'_>, slot: &mut Slot, port_min: u64) {
    if let Some(host) = table.parsed("host", "an IP address") {
        slot.host = host;
    }
    if let Some(port) = table.number("port", port_min, u64::from(u16::MAX)) {
        slot.port = port as u16;
    }
}

fn foreign(table: &mut Table<'_>) -> Foreign {
    let health = match table.string("health") {
        None => Health::default(),
        Some(path) if path == "none" => Health::Process,
        Some(path) if path.starts_with('/') => Health::Path(path),
        Some(path) => {
            table.mistake("health", format!("{path:?} is neither a path like /health nor none"));
            Health::default()
        }
    };
    let mut endpoint = |key: &str| {
        let endpoint = table.string(key)?;
        if !endpoint.starts_with("tcp://") && !endpoint.starts_with("ipc://") {
            table.mistake(key, format!("{endpoint:?} is no endpoint like tcp://127.0.0.1:5557"));
        }
        Some(endpoint)
    };
    Foreign { health, kv_events: endpoint("kv_events"), kv_replay: endpoint("kv_replay") }
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "node".into() } else { name }
}
