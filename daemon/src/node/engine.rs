//! One engine as its node knows it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use domain::gpu::EngineHealth;
use domain::{AssetsDigest, DataAddress, EngineName, EngineState, Incarnation, Load, Role};

use crate::run::exit::ExitClass;

#[derive(Clone, Debug)]
pub struct EngineStatus {
    pub name: EngineName,
    pub incarnation: Incarnation,
    pub role: Role,
    /// Name of the base model as the engine serves it; empty before the engine said so.
    pub model: String,
    pub adapters: Vec<String>,
    pub assets: Option<AssetsDigest>,
    pub address: DataAddress,
    pub dp_rank: u32,
    pub state: EngineState,
    /// Why it is in that state; empty where the state says it all.
    pub reason: String,
    pub context_length: u32,
    pub load: Load,
    pub restarts: u32,
    /// 0 while no process of ours runs.
    pub pid: u32,
    pub steps: u64,
    pub counts_in_flight: bool,
    /// Ends of its lives, by class.
    pub exits: BTreeMap<ExitClass, u64>,
    /// How its processes are kept together: "cgroup", or why only by their family.
    pub containment: String,
    /// What is odd about its block index; empty where it is exact.
    pub blocks_note: String,
    /// What its GPUs mean for it; nothing while nothing is known of them.
    pub health: EngineHealth,
    /// When it came into this state.
    pub since: Instant,
}

impl EngineStatus {
    pub fn new(name: EngineName, role: Role, dp_rank: u32, host: IpAddr, port: u16) -> Self {
        Self {
            name,
            incarnation: Incarnation(0),
            role,
            model: String::new(),
            adapters: Vec::new(),
            assets: None,
            address: DataAddress(SocketAddr::new(host, port)),
            dp_rank,
            state: EngineState::Absent,
            reason: String::new(),
            context_length: 0,
            load: Load::default(),
            restarts: 0,
            pid: 0,
            steps: 0,
            counts_in_flight: false,
            exits: BTreeMap::new(),
            containment: String::new(),
            blocks_note: String::new(),
            health: EngineHealth::default(),
            since: Instant::now(),
        }
    }
}

/// Equal when a report would say the same; since when is no news of its own.
impl PartialEq for EngineStatus {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            name,
            incarnation,
            role,
            model,
            adapters,
            assets,
            address,
            dp_rank,
            state,
            reason,
            context_length,
            load,
            restarts,
            pid,
            steps,
            counts_in_flight,
            exits,
            containment,
            blocks_note,
            health,
            since: _,
        } = self;
        *name == other.name
            && *incarnation == other.incarnation
            && *role == other.role
            && *model == other.model
            && *adapters == other.adapters
            && *assets == other.assets
            && *address == other.address
            && *dp_rank == other.dp_rank
            && *state == other.state
            && *reason == other.reason
            && *context_length == other.context_length
            && *load == other.load
            && *restarts == other.restarts
            && *pid == other.pid
            && *steps == other.steps
            && *counts_in_flight == other.counts_in_flight
            && *exits == other.exits
            && *containment == other.containment
            && *blocks_note == other.blocks_note
            && *health == other.health
    }
}
