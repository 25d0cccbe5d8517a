//! `GET /debug/fleet` and the body of `/readyz`: the fleet as this replica knows it.

use std::time::{Duration, Instant};

use domain::Role;
use domain::gpu::{GpuFacts, GpuReport};
use domain::node::HostFacts;
use serde::Serialize;

use crate::fleet::engine::{Evidence, Probe};
use crate::fleet::table;
use crate::text::Texts;

#[derive(Serialize)]
pub struct Learned {
    pub ready: bool,
    pub connected_nodes: usize,
    /// Of these, nodes whose engines and blocks are all known.
    pub learned_nodes: usize,
    pub engines: usize,
    pub blocks: u64,
}

impl Learned {
    pub fn of(fleet: &crate::fleet::Fleet, ready: bool, now: Instant) -> Self {
        let learned = fleet.learned(now);
        Self {
            ready,
            connected_nodes: learned.connected,
            learned_nodes: learned.learned,
            engines: learned.engines,
            blocks: learned.blocks,
        }
    }
}

#[derive(Serialize)]
pub struct Fleet {
    /// This replica, `<name>/<incarnation>`.
    pub replica: String,
    pub learned: Learned,
    pub models: Vec<Model>,
    /// Sorted by name.
    pub nodes: Vec<Node>,
}

#[derive(Serialize)]
pub struct Model {
    pub id: String,
    pub base: String,
    pub adapter: Option<String>,
}

#[derive(Serialize)]
pub struct Node {
    pub node: String,
    pub connected: bool,
    /// The agent said good-bye; its engines go on.
    pub leaving: bool,
    pub learned: bool,
    pub agent_version: String,
    pub agent_incarnation: String,
    pub heard_ms_ago: u64,
    pub host: Host,
    pub gpus: Vec<Gpu>,
    pub engines: Vec<Engine>,
}

#[derive(Serialize)]
pub struct Host {
    pub cpus: Option<u32>,
    pub cpu_busy: Option<f64>,
    pub memory_total_bytes: Option<u64>,
    pub memory_available_bytes: Option<u64>,
    pub cpu_pressure: Option<f64>,
    pub memory_pressure: Option<f64>,
    pub io_pressure: Option<f64>,
}

#[derive(Serialize)]
pub struct Gpu {
    pub index: u32,
    pub uuid: String,
    pub model: String,
    pub verdict: &'static str,
    pub reasons: Vec<String>,
    pub capacity: f64,
    /// Age of what follows.
    pub age_ms: u64,
    pub busy: Option<f64>,
    pub sm_active: Option<f64>,
    pub dram_active: Option<f64>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub power_w: Option<f64>,
    pub temperature_c: Option<f64>,
}

#[derive(Serialize)]
pub struct Engine {
    pub engine: String,
    pub model: String,
    pub adapters: Vec<String>,
    pub role: &'static str,
    pub address: String,
    pub incarnation: String,
    pub pid: u32,
    pub restarts: u32,
    pub state: &'static str,
    pub reason: String,
    /// "fresh" while its node reports, "unknown" otherwise.
    pub evidence: &'static str,
    /// "unasked", "answered" or "failed".
    pub probe: &'static str,
    pub context_length: u32,
    pub waiting: u32,
    pub running: u32,
    /// All that is in flight there, each request once.
    pub requests_in_flight: u32,
    pub uncached_tokens_in_flight: u64,
    /// Of these, the streams of this replica.
    pub open_here: u32,
    pub kv_blocks_used: u64,
    pub kv_blocks_total: u64,
    pub kv_block_tokens: u32,
    pub prefill_tok_s: Option<f64>,
    pub decode_step_ms: Option<f64>,
    pub steps: u64,
    /// Blocks the index holds of it.
    pub index_blocks: u64,
    /// "whole" when all its blocks are known.
    pub index: &'static str,
    /// "ready", or why its prompts cannot be tokenised here.
    pub tokenizer: String,
    /// Times this replica picked it.
    pub picks: u64,
}

impl Fleet {
    pub fn of(fleet: &crate::fleet::Fleet, texts: &Texts, ready: bool, now: Instant) -> Self {
        let mut nodes: Vec<Node> = fleet.with_nodes(|all| all.map(|node| Node::of(node, texts, now)).collect());
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        let model = |model: &domain::ModelId| Model {
            id: model.served_name().to_owned(),
            base: model.base.to_string(),
            adapter: model.adapter.as_deref().map(str::to_owned),
        };
        Self {
            replica: fleet.replica.to_string(),
            learned: Learned::of(fleet, ready, now),
            models: fleet.roster().models().into_iter().map(model).collect(),
            nodes,
        }
    }
}

impl Node {
    fn of(node: &table::Node, texts: &Texts, now: Instant) -> Self {
        Self {
            node: node.identity.node.to_string(),
            connected: node.session.is_some(),
            leaving: node.leaving,
            learned: node.learned(now),
            agent_version: node.identity.agent_version.clone(),
            agent_incarnation: node.identity.agent.to_string(),
            heard_ms_ago: now.saturating_duration_since(node.heard).as_millis() as u64,
            host: Host::of(node.host),
            gpus: node.gpus.iter().map(|gpu| Gpu::of(gpu, now.saturating_duration_since(node.gpus_at))).collect(),
            engines: node.engines.values().map(|engine| Engine::of(engine, texts)).collect(),
        }
    }
}

impl Host {
    fn of(facts: HostFacts) -> Self {
        let HostFacts { cpus, cpu_busy, memory_total_bytes, memory_available_bytes, cpu_pressure, memory_pressure, io_pressure } =
            facts;
        Self { cpus, cpu_busy, memory_total_bytes, memory_available_bytes, cpu_pressure, memory_pressure, io_pressure }
    }
}

impl Gpu {
    fn of(report: &GpuReport, since: Duration) -> Self {
        let GpuReport { uuid, index, pci_bus_id: _, model, verdict, reasons, capacity, facts, age } = report;
        let GpuFacts { busy, sm_active, dram_active, memory_used_bytes, memory_total_bytes, power_w, temperature_c } = *facts;
        Self {
            index: *index,
            uuid: uuid.clone(),
            model: model.clone(),
            verdict: verdict.as_str(),
            reasons: reasons.clone(),
            capacity: *capacity,
            age_ms: (*age + since).as_millis() as u64,
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

impl Engine {
    fn of(engine: &crate::fleet::engine::Engine, texts: &Texts) -> Self {
        let pulse = engine.pulse();
        let facts = &engine.facts;
        let in_flight = engine.in_flight(&pulse);
        let tokenizer = match facts.assets {
            Some(digest) => texts.lack(&digest).map_or_else(|| "ready".to_owned(), |why| why.to_string()),
            None => "the node has none".to_owned(),
        };
        Self {
            engine: engine.id.name.to_string(),
            model: facts.model.to_string(),
            adapters: facts.adapters.iter().map(ToString::to_string).collect(),
            role: match facts.role {
                Role::Both => "both",
                Role::Prefill => "prefill",
                Role::Decode => "decode",
            },
            address: facts.address.to_string(),
            incarnation: facts.incarnation.to_string(),
            pid: facts.pid,
            restarts: pulse.restarts,
            state: pulse.state.as_str(),
            reason: engine.reason().to_string(),
            evidence: match pulse.evidence {
                Evidence::Fresh => "fresh",
                Evidence::Unknown => "unknown",
            },
            probe: match pulse.probe {
                Probe::Unasked => "unasked",
                Probe::Answered => "answered",
                Probe::Failed => "failed",
            },
            context_length: facts.context_length,
            waiting: pulse.waiting,
            running: pulse.running,
            requests_in_flight: in_flight.requests,
            uncached_tokens_in_flight: in_flight.uncached_tokens,
            open_here: engine.open().requests,
            kv_blocks_used: pulse.kv.used_blocks,
            kv_blocks_total: pulse.kv.total_blocks,
            kv_block_tokens: pulse.kv.block_tokens,
            prefill_tok_s: pulse.prefill_tok_s,
            decode_step_ms: pulse.decode_step_ms,
            steps: pulse.steps,
            index_blocks: engine.log.blocks(),
            index: engine.log.phase().as_str(),
            tokenizer,
            picks: engine.picks(),
        }
    }
}
