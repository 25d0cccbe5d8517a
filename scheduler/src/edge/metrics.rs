//! The scheduler's own metrics. Handles are held, so that nothing on a request's path looks up a label; what the fleet already counts
//! is read when somebody scrapes.

use std::sync::Arc;
use std::time::Instant;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::fleet::Fleet;
use crate::text::Texts;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// Refused here: the request is wrong.
    Invalid,
    /// Refused here: no engine could take it.
    NoEngine,
    /// The engine answered with an error status.
    EngineError,
    /// No engine answered.
    Failed,
    /// The engine broke off after the first data.
    Broken,
    /// The client went away.
    Cancelled,
}

impl Outcome {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Ok, "ok"),
        (Self::Invalid, "invalid"),
        (Self::NoEngine, "no_engine"),
        (Self::EngineError, "engine_error"),
        (Self::Failed, "failed"),
        (Self::Broken, "broken"),
        (Self::Cancelled, "cancelled"),
    ];
}

/// Why a request went to a second engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryReason {
    Connect,
    Reset,
    Status,
}

impl RetryReason {
    const ALL: [(Self, &'static str); 3] = [(Self::Connect, "connect"), (Self::Reset, "reset"), (Self::Status, "status")];
}

pub struct Metrics {
    registry: Registry,
    requests: Vec<IntCounter>,
    retries: Vec<IntCounter>,
    pub retries_denied: IntCounter,
    pub decision_seconds: Histogram,
    pub untokenised: IntCounter,
    pub open_streams: IntGauge,
    pub connections: IntGauge,
    pub connections_refused: IntCounter,
    pub budget_tenths: IntGauge,
    pub log_gaps: IntCounter,
    pub log_ignored: IntCounter,
    pub blocks_dropped: IntCounter,
    pub messages_refused: IntCounter,
    pub assets_refused: IntCounter,
    pub probes_failed: IntCounter,
    pub node_streams_lost: IntCounter,
}

impl Metrics {
    pub fn new(fleet: Arc<Fleet>, texts: Arc<Texts>) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(format!("trackside_scheduler_{name}"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let counters = |name: &str, help: &str, label: &str, values: &[&str]| {
            let family = IntCounterVec::new(Opts::new(format!("trackside_scheduler_{name}"), help), &[label])?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(values.iter().map(|value| family.with_label_values(&[*value])).collect())
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("trackside_scheduler_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let decision_seconds = Histogram::with_opts(
            HistogramOpts::new("trackside_scheduler_decision_seconds", "From a request's body to the choice of its engine.")
                .buckets(vec![2e-5, 5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.5, 2.0]),
        )?;
        registry.register(Box::new(decision_seconds.clone()))?;
        registry.register(Box::new(FleetCollector::new(fleet)?))?;
        registry.register(Box::new(RecallCollector::new(texts)?))?;
        let outcomes = Outcome::ALL.map(|(_, name)| name);
        let reasons = RetryReason::ALL.map(|(_, name)| name);
        Ok(Self {
            requests: counters("requests_total", "Requests to the gateway by how they ended.", "outcome", &outcomes)?,
            retries: counters("retries_total", "Requests sent to a second engine, by what the first did.", "reason", &reasons)?,
            retries_denied: counter(
                "retries_denied_total",
                "Retries not made because the budget was empty or no engine was left.",
            )?,
            decision_seconds,
            untokenised: counter(
                "untokenised_total",
                "Requests routed by load alone because their prompt could not be tokenised.",
            )?,
            open_streams: gauge("open_streams", "Requests open on engines through this replica.")?,
            connections: gauge("connections", "Client connections to the gateway.")?,
            connections_refused: counter("connections_refused_total", "Client connections closed at once: too many were open.")?,
            budget_tenths: gauge("retry_budget_tenths", "Retries the budget holds, in tenths.")?,
            log_gaps: counter(
                "block_log_gaps_total",
                "Engines whose block list was asked for again because their log had a gap.",
            )?,
            log_ignored: counter(
                "block_messages_ignored_total",
                "Block messages of earlier lives, earlier streams or lost logs.",
            )?,
            blocks_dropped: counter("blocks_dropped_total", "Blocks the index had no room for.")?,
            messages_refused: counter("messages_refused_total", "Node messages, or engines in them, that could not be meant.")?,
            assets_refused: counter(
                "assets_refused_total",
                "Uploads of tokenizers that were damaged, too large or not what was asked.",
            )?,
            probes_failed: counter("probes_failed_total", "Data addresses that were asked and did not answer.")?,
            node_streams_lost: counter("node_streams_lost_total", "State streams that ended without a good-bye.")?,
            registry,
        })
    }

    pub fn ended(&self, outcome: Outcome) {
        self.requests[outcome as usize].inc();
    }

    pub fn retried(&self, reason: RetryReason) {
        self.retries[reason as usize].inc();
    }

    /// In Prometheus' text format 0.0.4.
    pub fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// Reads the fleet at the moment of a scrape.
struct FleetCollector {
    fleet: Arc<Fleet>,
    nodes: IntGaugeVec,
    engines: IntGaugeVec,
    index_blocks: IntGaugeVec,
    picks: IntCounterVec,
}

impl FleetCollector {
    fn new(fleet: Arc<Fleet>) -> Result<Self, prometheus::Error> {
        let name = |name: &str, help: &str| Opts::new(format!("trackside_scheduler_{name}"), help);
        Ok(Self {
            fleet,
            nodes: IntGaugeVec::new(name("nodes", "Nodes by what is known of them."), &["evidence"])?,
            engines: IntGaugeVec::new(name("engines", "Engines by state."), &["state"])?,
            index_blocks: IntGaugeVec::new(name("index_blocks", "Blocks held, over all engines."), &["model", "block_tokens"])?,
            picks: IntCounterVec::new(name("picks_total", "Requests routed to an engine, retries apart."), &["node", "engine"])?,
        })
    }
}

impl Collector for FleetCollector {
    fn desc(&self) -> Vec<&Desc> {
        [self.nodes.desc(), self.engines.desc(), self.index_blocks.desc(), self.picks.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Self { fleet, nodes, engines, index_blocks, picks } = self;
        nodes.reset();
        engines.reset();
        index_blocks.reset();
        picks.reset();
        let now = Instant::now();
        fleet.with_nodes(|all: &mut dyn Iterator<Item = &crate::fleet::table::Node>| {
            for node in all {
                let evidence = match (&node.session, node.learned(now)) {
                    (None, _) => "unknown",
                    (Some(_), false) => "learning",
                    (Some(_), true) => "fresh",
                };
                nodes.with_label_values(&[evidence]).inc();
            }
        });
        for state in domain::EngineState::ALL {
            engines.with_label_values(&[state.as_str()]).set(0);
        }
        for engine in fleet.roster().engines() {
            engines.with_label_values(&[engine.pulse().state.as_str()]).inc();
            let labels = [engine.id.node.as_str(), engine.id.name.as_str()];
            picks.with_label_values(&labels).inc_by(engine.picks());
        }
        for (key, partition) in fleet.index.partitions() {
            let labels = [&*key.base, &*key.block_tokens.to_string()];
            index_blocks.with_label_values(&labels).set(partition.held_by_all() as i64);
        }
        [nodes.collect(), engines.collect(), index_blocks.collect(), picks.collect()].concat()
    }
}

/// Reads the tokenizers at the moment of a scrape.
struct RecallCollector {
    texts: Arc<Texts>,
    bytes: IntCounterVec,
    held_bytes: IntGaugeVec,
}

impl RecallCollector {
    fn new(texts: Arc<Texts>) -> Result<Self, prometheus::Error> {
        let name = |name: &str, help: &str| Opts::new(format!("trackside_scheduler_tokenizer_{name}"), help);
        let help = "Bytes of long prompts by whether their token ids were remembered or had to be made.";
        let held = "Bytes of text and token ids that are remembered.";
        Ok(Self {
            texts,
            bytes: IntCounterVec::new(name("bytes_total", help), &["assets", "ids"])?,
            held_bytes: IntGaugeVec::new(name("held_bytes", held), &["assets"])?,
        })
    }
}

impl Collector for RecallCollector {
    fn desc(&self) -> Vec<&Desc> {
        [self.bytes.desc(), self.held_bytes.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.bytes.reset();
        self.held_bytes.reset();
        for (digest, recall) in self.texts.recalls() {
            let assets = digest.to_string();
            self.bytes.with_label_values(&[assets.as_str(), "remembered"]).inc_by(recall.hit_bytes);
            self.bytes.with_label_values(&[assets.as_str(), "encoded"]).inc_by(recall.miss_bytes);
            self.held_bytes.with_label_values(&[assets.as_str()]).set(recall.held_bytes as i64);
        }
        [self.bytes.collect(), self.held_bytes.collect()].concat()
    }
}
