//! Wire types to the nouns of `domain` and back. What cannot be meant is refused by name; what is too long is refused, not cut.

use std::fmt;
use std::time::Duration;

use domain::{
    AssetsDigest, DataAddress, EngineName, EngineState, InFlight, Incarnation, KvUse, Load, NodeId, ReplicaId, Role, engine,
    gpu::{self, EngineHealth, GpuFacts, GpuReport, Verdict},
    id, load,
    node::{HostFacts, NodeIdentity},
};

use crate::{limit, state, v1};

/// A message whose field holds what it cannot mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    pub field: &'static str,
    pub why: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.why)
    }
}

impl std::error::Error for Invalid {}

fn invalid(field: &'static str, why: impl fmt::Display) -> Invalid {
    Invalid { field, why: why.to_string() }
}

/// One engine as its node reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineReport {
    pub name: EngineName,
    pub incarnation: Incarnation,
    pub role: Role,
    pub model: String,
    pub adapters: Vec<String>,
    pub assets: Option<AssetsDigest>,
    pub address: DataAddress,
    pub dp_rank: u32,
    pub state: EngineState,
    pub reason: String,
    pub context_length: u32,
    pub load: Load,
    pub restarts: u32,
    pub pid: u32,
    pub steps: u64,
    pub counts_in_flight: bool,
    /// `None`: nothing is known of its GPUs.
    pub health: Option<EngineHealth>,
}

fn name(field: &'static str, text: &str) -> Result<String, Invalid> {
    match text.len() {
        0 => Err(invalid(field, "is empty")),
        1..=id::NAME_BYTES_MAX => Ok(text.to_owned()),
        bytes => Err(invalid(field, format!("has {bytes} bytes, at most {}", id::NAME_BYTES_MAX))),
    }
}

pub fn role(text: &str) -> Result<Role, Invalid> {
    match text {
        "both" => Ok(Role::Both),
        "prefill" => Ok(Role::Prefill),
        "decode" => Ok(Role::Decode),
        other => Err(invalid("role", format!("{other:?} is none of both, prefill, decode"))),
    }
}

pub fn role_str(role: Role) -> &'static str {
    match role {
        Role::Both => "both",
        Role::Prefill => "prefill",
        Role::Decode => "decode",
    }
}

pub fn engine_state(text: &str) -> Result<EngineState, Invalid> {
    let found = engine::EngineState::ALL.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| invalid("state", format!("{text:?} is no engine state")))
}

impl TryFrom<v1::Hello> for NodeIdentity {
    type Error = Invalid;

    fn try_from(hello: v1::Hello) -> Result<Self, Invalid> {
        let v1::Hello { node, boot_id, agent_version, agent_incarnation, leaving: _ } = hello;
        Ok(Self { node: NodeId::new(name("hello.node", &node)?), boot_id, agent_version, agent: Incarnation(agent_incarnation) })
    }
}

impl From<&NodeIdentity> for v1::Hello {
    fn from(identity: &NodeIdentity) -> Self {
        let NodeIdentity { node, boot_id, agent_version, agent } = identity;
        Self {
            node: node.to_string(),
            boot_id: boot_id.clone(),
            agent_version: agent_version.clone(),
            agent_incarnation: agent.0,
            leaving: false,
        }
    }
}

impl TryFrom<v1::Engine> for EngineReport {
    type Error = Invalid;

    fn try_from(engine: v1::Engine) -> Result<Self, Invalid> {
        if engine.adapters.len() > limit::ADAPTERS_MAX {
            return Err(invalid("engine.adapters", format!("{} adapters", engine.adapters.len())));
        }
        let assets = match <[u8; 32]>::try_from(engine.assets_digest.as_slice()) {
            Ok(bytes) => Some(AssetsDigest(bytes)),
            Err(_) if engine.assets_digest.is_empty() => None,
            Err(_) => return Err(invalid("engine.assets_digest", "is not 32 bytes")),
        };
        let address = engine
            .data_address
            .parse()
            .map_err(|_| invalid("engine.data_address", format!("{:?} is not ip:port", engine.data_address)))?;
        Ok(Self {
            name: EngineName::new(name("engine.name", &engine.name)?),
            incarnation: Incarnation(engine.incarnation),
            role: role(&engine.role)?,
            model: engine.model,
            adapters: engine.adapters,
            assets,
            address: DataAddress(address),
            dp_rank: engine.dp_rank,
            state: engine_state(&engine.state)?,
            reason: engine.reason,
            context_length: engine.context_length,
            load: engine.load.map(Load::try_from).transpose()?.unwrap_or_default(),
            restarts: engine.restarts,
            pid: engine.pid,
            steps: engine.steps,
            counts_in_flight: engine.counts_in_flight,
            health: engine.health.map(EngineHealth::try_from).transpose()?,
        })
    }
}

impl From<&EngineReport> for v1::Engine {
    fn from(report: &EngineReport) -> Self {
        Self {
            name: report.name.to_string(),
            incarnation: report.incarnation.0,
            role: role_str(report.role).into(),
            model: report.model.clone(),
            adapters: report.adapters.clone(),
            assets_digest: report.assets.map(|digest| digest.0.to_vec()).unwrap_or_default(),
            data_address: report.address.to_string(),
            dp_rank: report.dp_rank,
            state: report.state.as_str().into(),
            reason: report.reason.clone(),
            context_length: report.context_length,
            load: Some((&report.load).into()),
            restarts: report.restarts,
            pid: report.pid,
            steps: report.steps,
            counts_in_flight: report.counts_in_flight,
            health: report.health.as_ref().map(Into::into),
        }
    }
}

fn verdict(text: &str) -> Result<Verdict, Invalid> {
    Verdict::from_name(text).ok_or_else(|| invalid("verdict", format!("{text:?} is no verdict")))
}

fn capacity(share: f64) -> Result<f64, Invalid> {
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(invalid("capacity", format!("{share} is not within 0 to 1"))) }
}

fn bounded(field: &'static str, text: String) -> Result<String, Invalid> {
    if text.len() <= limit::GPU_TEXT_BYTES_MAX { Ok(text) } else { Err(invalid(field, format!("has {} bytes", text.len()))) }
}

impl TryFrom<v1::EngineHealth> for EngineHealth {
    type Error = Invalid;

    fn try_from(wire: v1::EngineHealth) -> Result<Self, Invalid> {
        let v1::EngineHealth { verdict: name, capacity: share, reason } = wire;
        Ok(Self { verdict: verdict(&name)?, capacity: capacity(share)?, reason: bounded("health.reason", reason)? })
    }
}

impl From<&EngineHealth> for v1::EngineHealth {
    fn from(health: &EngineHealth) -> Self {
        let EngineHealth { verdict, capacity, reason } = health;
        Self { verdict: verdict.as_str().into(), capacity: *capacity, reason: reason.clone() }
    }
}

impl TryFrom<v1::Gpu> for GpuReport {
    type Error = Invalid;

    fn try_from(wire: v1::Gpu) -> Result<Self, Invalid> {
        if wire.reasons.len() > gpu::REASONS_MAX {
            return Err(invalid("gpu.reasons", format!("{} reasons", wire.reasons.len())));
        }
        let reasons = wire.reasons.into_iter().map(|reason| bounded("gpu.reasons", reason));
        Ok(Self {
            uuid: name("gpu.uuid", &wire.uuid)?,
            index: wire.index,
            pci_bus_id: bounded("gpu.pci_bus_id", wire.pci_bus_id)?,
            model: bounded("gpu.model", wire.model)?,
            verdict: verdict(&wire.verdict)?,
            reasons: reasons.collect::<Result<_, Invalid>>()?,
            capacity: capacity(wire.capacity)?,
            facts: GpuFacts {
                busy: wire.busy,
                sm_active: wire.sm_active,
                dram_active: wire.dram_active,
                memory_used_bytes: wire.memory_used_bytes,
                memory_total_bytes: wire.memory_total_bytes,
                power_w: wire.power_w,
                temperature_c: wire.temperature_c,
            },
            age: Duration::from_millis(wire.age_ms),
        })
    }
}

impl From<&GpuReport> for v1::Gpu {
    fn from(report: &GpuReport) -> Self {
        let GpuReport { uuid, index, pci_bus_id, model, verdict, reasons, capacity, facts, age } = report;
        let GpuFacts { busy, sm_active, dram_active, memory_used_bytes, memory_total_bytes, power_w, temperature_c } = *facts;
        Self {
            uuid: uuid.clone(),
            index: *index,
            pci_bus_id: pci_bus_id.clone(),
            model: model.clone(),
            verdict: verdict.as_str().into(),
            reasons: reasons.clone(),
            capacity: *capacity,
            age_ms: age.as_millis().try_into().unwrap_or(u64::MAX),
            busy,
            sm_active,
            dram_active,
            memory_used_bytes,
            memory_total_bytes,
            power_w,
            temperature_c,
        }
    }
}

impl From<v1::InFlight> for InFlight {
    fn from(v1::InFlight { requests, uncached_tokens }: v1::InFlight) -> Self {
        Self { requests, uncached_tokens }
    }
}

impl From<InFlight> for v1::InFlight {
    fn from(InFlight { requests, uncached_tokens }: InFlight) -> Self {
        Self { requests, uncached_tokens }
    }
}

impl From<state::InFlight> for InFlight {
    fn from(state::InFlight { requests, uncached_tokens }: state::InFlight) -> Self {
        Self { requests, uncached_tokens }
    }
}

impl From<InFlight> for state::InFlight {
    fn from(InFlight { requests, uncached_tokens }: InFlight) -> Self {
        Self { requests, uncached_tokens }
    }
}

impl TryFrom<v1::Load> for Load {
    type Error = Invalid;

    fn try_from(wire: v1::Load) -> Result<Self, Invalid> {
        if wire.by_replica.len() > load::REPLICAS_MAX {
            return Err(invalid("load.by_replica", format!("{} replicas", wire.by_replica.len())));
        }
        let by_replica = wire.by_replica.into_iter().map(|entry| {
            let replica = ReplicaId {
                name: name("load.by_replica.name", &entry.name)?.into(),
                incarnation: Incarnation(entry.incarnation),
            };
            Ok((replica, entry.in_flight.unwrap_or_default().into()))
        });
        Ok(Self {
            waiting: wire.waiting,
            running: wire.running,
            by_replica: by_replica.collect::<Result<_, Invalid>>()?,
            others: wire.others.unwrap_or_default().into(),
            kv: KvUse {
                used_blocks: wire.kv_blocks_used,
                total_blocks: wire.kv_blocks_total,
                block_tokens: wire.kv_block_tokens,
            },
            prefill_tok_s: wire.prefill_tok_s,
            decode_step_ms: wire.decode_step_ms,
        })
    }
}

impl From<&Load> for v1::Load {
    fn from(load: &Load) -> Self {
        let Load { waiting, running, by_replica, others, kv, prefill_tok_s, decode_step_ms } = load;
        let by_replica = by_replica.iter().map(|(replica, in_flight)| v1::ReplicaInFlight {
            name: replica.name.to_string(),
            incarnation: replica.incarnation.0,
            in_flight: Some((*in_flight).into()),
        });
        Self {
            waiting: *waiting,
            running: *running,
            by_replica: by_replica.collect(),
            others: Some((*others).into()),
            kv_blocks_used: kv.used_blocks,
            kv_blocks_total: kv.total_blocks,
            kv_block_tokens: kv.block_tokens,
            prefill_tok_s: *prefill_tok_s,
            decode_step_ms: *decode_step_ms,
        }
    }
}

impl From<v1::HostFacts> for HostFacts {
    fn from(wire: v1::HostFacts) -> Self {
        Self {
            cpus: wire.cpus,
            cpu_busy: wire.cpu_busy,
            memory_total_bytes: wire.memory_total_bytes,
            memory_available_bytes: wire.memory_available_bytes,
            cpu_pressure: wire.cpu_pressure,
            memory_pressure: wire.memory_pressure,
            io_pressure: wire.io_pressure,
        }
    }
}

impl From<HostFacts> for v1::HostFacts {
    fn from(facts: HostFacts) -> Self {
        Self {
            cpus: facts.cpus,
            cpu_busy: facts.cpu_busy,
            memory_total_bytes: facts.memory_total_bytes,
            memory_available_bytes: facts.memory_available_bytes,
            cpu_pressure: facts.cpu_pressure,
            memory_pressure: facts.memory_pressure,
            io_pressure: facts.io_pressure,
        }
    }
}

impl TryFrom<&state::State> for Load {
    type Error = Invalid;

    fn try_from(wire: &state::State) -> Result<Self, Invalid> {
        if wire.in_flight.len() > load::REPLICAS_MAX {
            return Err(invalid("in_flight", format!("{} replicas", wire.in_flight.len())));
        }
        let by_replica = wire.in_flight.iter().map(|entry| {
            let replica = entry.replica.parse().map_err(|error| invalid("in_flight.replica", error))?;
            Ok((replica, entry.in_flight.into()))
        });
        Ok(Self {
            waiting: wire.waiting,
            running: wire.running,
            by_replica: by_replica.collect::<Result<_, Invalid>>()?,
            others: wire.others.into(),
            kv: KvUse {
                used_blocks: wire.kv_blocks_used,
                total_blocks: wire.kv_blocks_total,
                block_tokens: wire.kv_block_tokens,
            },
            prefill_tok_s: wire.prefill_tok_s,
            decode_step_ms: wire.decode_step_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> EngineReport {
        let replica = ReplicaId { name: "a".into(), incarnation: Incarnation(7) };
        EngineReport {
            name: "engine-0".into(),
            incarnation: Incarnation(u64::MAX),
            role: Role::Decode,
            model: "m".into(),
            adapters: vec!["x".into()],
            assets: Some(AssetsDigest([9; 32])),
            address: DataAddress("[::1]:8200".parse().unwrap()),
            dp_rank: 3,
            state: EngineState::Degraded,
            reason: "slow".into(),
            context_length: 2048,
            load: Load {
                waiting: 1,
                running: 2,
                by_replica: vec![(replica, InFlight { requests: 3, uncached_tokens: 400 })],
                others: InFlight { requests: 1, uncached_tokens: 10 },
                kv: KvUse { used_blocks: 5, total_blocks: 10, block_tokens: 16 },
                prefill_tok_s: Some(1000.0),
                decode_step_ms: None,
            },
            restarts: 1,
            pid: 42,
            steps: 99,
            counts_in_flight: true,
            health: Some(EngineHealth { verdict: Verdict::Draining, capacity: 0.5, reason: "GPU 3: lost a link".into() }),
        }
    }

    #[test]
    fn an_engine_report_survives_the_wire() {
        assert_eq!(EngineReport::try_from(v1::Engine::from(&report())), Ok(report()));
    }

    #[test]
    fn a_gpu_survives_the_wire() {
        let facts = GpuFacts { busy: Some(0.5), memory_used_bytes: Some(1 << 40), ..GpuFacts::default() };
        let report = GpuReport {
            uuid: "GPU-1".into(),
            index: 7,
            pci_bus_id: "00000000:18:00.0".into(),
            model: "NVIDIA H200".into(),
            verdict: Verdict::Degraded,
            reasons: vec!["slowed down".into()],
            capacity: 0.25,
            facts,
            age: Duration::from_millis(1500),
        };
        assert_eq!(GpuReport::try_from(v1::Gpu::from(&report)), Ok(report.clone()));
        let wire = v1::Gpu { capacity: f64::NAN, ..(&report).into() };
        assert_eq!(GpuReport::try_from(wire).expect_err("refused").field, "capacity");
        let wire = v1::Gpu { verdict: "fine".into(), ..(&report).into() };
        assert_eq!(GpuReport::try_from(wire).expect_err("refused").field, "verdict");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_field() {
        let refused = |change: fn(&mut v1::Engine)| {
            let mut wire = v1::Engine::from(&report());
            change(&mut wire);
            EngineReport::try_from(wire).expect_err("refused").field
        };
        assert_eq!(refused(|e| e.name.clear()), "engine.name");
        assert_eq!(refused(|e| e.role = "boss".into()), "role");
        assert_eq!(refused(|e| e.state = "fine".into()), "state");
        assert_eq!(refused(|e| e.data_address = "host:8200".into()), "engine.data_address");
        assert_eq!(refused(|e| e.assets_digest = vec![1]), "engine.assets_digest");
        assert_eq!(refused(|e| e.adapters = vec!["a".into(); 257]), "engine.adapters");
        let many = vec![v1::ReplicaInFlight { name: "r".into(), ..Default::default() }; 65];
        let load = v1::Load { by_replica: many, ..Default::default() };
        assert_eq!(Load::try_from(load).expect_err("refused").field, "load.by_replica");
    }
}
