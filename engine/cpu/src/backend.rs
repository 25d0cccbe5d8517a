//! The CPU behind the engine's step: takes a batch, runs the model, samples. Launching computes, so nothing is ever late.

use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use engine::backend::{AdapterSlot, Backend, Batch, BlockId, Capacity, DeviceError, Outcomes, Reserved, Sleep, Ticket};
use engine::model::{self, Model};
use engine::pooling::{self, Pooler};
use engine_assets::{Adapter, ModelAssets, Pooling};

use crate::buffer::Activation;
use crate::device::CpuDevice;
use crate::error::CpuError;
use crate::kernel::{Isa, Kernels};
use crate::kv::{BlockShape, KvDtype};
use crate::pool::THREADS_MAX;
use crate::sampling::Sampling;

/// Rows of logits beyond one for each slot: for the prompts whose log-probabilities are told, and for drafts.
const SPARE_LOGIT_ROWS: usize = 32;

/// How much KV cache there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvSize {
    Blocks(usize),
    /// As many whole blocks as fit.
    Bytes(usize),
}

/// In which numbers matrix products are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuDtype {
    /// What suits the weights: block types (Q8_0, Q4_0, …) meet activations of eight bits, as in llama.cpp; others are multiplied in f32.
    #[default]
    Auto,
    /// f32 always, whatever the weights are stored as.
    Float32,
}

#[derive(Clone, Debug)]
pub struct CpuOptions {
    /// Compute threads, the engine's own included; at most what the process may use (affinity, cgroup quota), which is the default.
    pub threads: Option<usize>,
    pub dtype: CpuDtype,
    pub kv: KvSize,
    /// `None`: what suits the weights; half precision where block types meet activations of eight bits.
    pub kv_dtype: Option<KvDtype>,
    /// Tokens per KV block.
    pub block_tokens: usize,
    /// Most requests running at once.
    pub slots: usize,
    /// Most input tokens of one step.
    pub batch_tokens: usize,
    /// The longest context served, if less than the model's own.
    pub context_length: Option<usize>,
    /// `None`: the best that this machine has.
    pub isa: Option<Isa>,
    /// What vectors are made of; the model is then one without a head. `None`: it generates.
    pub pooling: Option<Pooling>,
}

impl Default for CpuOptions {
    fn default() -> Self {
        Self {
            threads: None,
            dtype: CpuDtype::Auto,
            kv: KvSize::Bytes(1 << 30),
            kv_dtype: None,
            block_tokens: 16,
            slots: 64,
            batch_tokens: 512,
            context_length: None,
            isa: None,
            pooling: None,
        }
    }
}

pub struct CpuBackend {
    device: CpuDevice,
    model: Box<dyn Model<CpuDevice>>,
    /// The last token that each slot sampled.
    last: Vec<u32>,
    sampling: Sampling,
    /// In place of sampling, where the model embeds.
    pooler: Option<Pooler>,
    /// Which adapter slots are filled.
    adapters: Vec<bool>,
    /// Whether the weights' memory was given back.
    discarded: bool,
    /// Outcomes of the launch that is not settled.
    outcomes: Outcomes,
    launches: u64,
}

impl CpuBackend {
    /// Maps the weights and brings them into memory; `progress` hears `(done, total)` bytes of them.
    pub fn load(assets: &ModelAssets, options: &CpuOptions, progress: &mut dyn FnMut(u64, u64)) -> Result<Self, CpuError> {
        let config = &assets.config;
        options.check()?;
        if config.head == options.pooling.is_some() {
            let what = if config.head { "is not asked for by who embeds" } else { "is missing, and only who embeds needs none" };
            let source = model::ModelError::tensor("lm_head.weight", what.to_owned());
            return Err(CpuError::Model { path: assets.path.clone(), source });
        }
        let shape = BlockShape {
            layers: config.layers,
            kv_heads: config.kv_heads,
            tokens: options.block_tokens,
            dim: config.head_dim,
            dtype: options.kv_dtype.unwrap_or_else(|| KvDtype::suiting(&assets.tensors, options.dtype)),
        };
        let isa = options.isa.or(Isa::available().pop()).unwrap_or(Isa::Portable);
        let capacity = Capacity {
            vocabulary: config.vocab_size,
            context_length: options.context_length.unwrap_or(usize::MAX).min(config.context_length),
            block_tokens: options.block_tokens,
            kv_blocks: options.kv_blocks(shape)?,
            slots: options.slots,
            batch_tokens: options.batch_tokens,
            // Each token of a batch may be part of a mean.
            logit_rows: match options.pooling {
                None => options.slots + SPARE_LOGIT_ROWS,
                Some(_) => options.slots.max(options.batch_tokens),
            },
        };
        let kernels = Kernels::of(isa).ok_or(CpuError::Isa(isa))?;
        let group = config.heads / config.kv_heads;
        let mut device = CpuDevice::new(kernels, options.threads(), options.dtype, capacity, shape, group, &assets.tensors)?;
        let model = model::load(config, &assets.tensors, &mut device)
            .map_err(|source| CpuError::Model { path: assets.path.clone(), source })?;
        device.ready_weights(&assets.tensors, progress);
        device.kv_mut().reserved().map_err(|source| CpuError::Kv {
            blocks: capacity.kv_blocks,
            bytes: shape.bytes() * capacity.kv_blocks,
            source,
        })?;
        let sampling = Sampling::new(device.pool.threads(), options.slots);
        Ok(Self {
            device,
            model,
            last: vec![0; options.slots],
            sampling,
            pooler: options.pooling.map(|pooling| Pooler::new(pooling, options.slots, config.hidden_size)),
            adapters: Vec::new(),
            discarded: false,
            outcomes: Outcomes::default(),
            launches: 0,
        })
    }

    /// Compute threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.device.pool.threads()
    }

    /// What keys and values are stored as.
    pub fn kv_dtype(&self) -> KvDtype {
        self.device.kv().shape().dtype
    }

    pub fn isa(&self) -> Isa {
        self.device.kernels.isa
    }
}

impl CpuOptions {
    fn check(&self) -> Result<(), CpuError> {
        const BLOCK_TOKENS_MAX: usize = 1024;
        const SLOTS_MAX: usize = 4096;
        const BATCH_TOKENS_MAX: usize = 1 << 20;
        let sizes = [
            ("threads", self.threads.unwrap_or(1), THREADS_MAX),
            ("block tokens", self.block_tokens, BLOCK_TOKENS_MAX),
            ("slots", self.slots, SLOTS_MAX),
            ("batch tokens", self.batch_tokens, BATCH_TOKENS_MAX),
            ("context length", self.context_length.unwrap_or(1), usize::MAX),
        ];
        match sizes.into_iter().find(|(_, value, max)| value == &0 || value > max) {
            Some((name, value, max)) => Err(CpuError::Option { name, value, max }),
            None => Ok(()),
        }
    }

    fn threads(&self) -> usize {
        // More threads than processors that this process may use wait for each other.
        let available = available_parallelism().map_or(1, NonZeroUsize::get).min(THREADS_MAX);
        self.threads.unwrap_or(available).min(available)
    }

    fn kv_blocks(&self, shape: BlockShape) -> Result<usize, CpuError> {
        const BLOCKS_MAX: usize = u32::MAX as usize;
        let block_bytes = shape.bytes();
        match self.kv {
            KvSize::Bytes(bytes) if bytes < block_bytes => Err(CpuError::KvTooSmall { bytes, block_bytes }),
            KvSize::Bytes(bytes) => Ok((bytes / block_bytes).min(BLOCKS_MAX)),
            KvSize::Blocks(blocks) if blocks == 0 || blocks > BLOCKS_MAX => {
                Err(CpuError::Option { name: "KV blocks", value: blocks, max: BLOCKS_MAX })
            }
            KvSize::Blocks(blocks) => Ok(blocks),
        }
    }
}

/// Gives every row its hidden states, which lie row after row, and takes the vectors of those that end their prompts.
fn pool(pooler: &mut Pooler, batch: &Batch, hidden: &Activation, out: &mut Outcomes) {
    let mut states = (0..hidden.rows()).map(|row| hidden.row(row));
    for row in &batch.rows {
        let tokens = row.input.len();
        let own = pooling::positions(pooler.pooling, row, tokens).len();
        let vector = pooler.take(row, tokens, states.by_ref().take(own));
        out.pooled.extend(vector.map(|vector| (row.slot, vector)));
    }
}

fn failed(error: engine::model::ModelError) -> DeviceError {
    DeviceError { device: "cpu".to_owned(), what: error.to_string() }
}

impl Backend for CpuBackend {
    fn capacity(&self) -> Capacity {
        self.device.capacity()
    }

    fn reserved(&self) -> Reserved {
        self.device.reserved()
    }

    fn lag(&self) -> usize {
        0
    }

    fn launch(&mut self, batch: &Batch) -> Result<Ticket, DeviceError> {
        let named = batch.rows.iter().filter_map(|row| row.adapter);
        if let Some(slot) = named.into_iter().find(|slot| self.adapters.get(slot.0 as usize) != Some(&true)) {
            return Err(DeviceError { device: "cpu".to_owned(), what: format!("no adapter is loaded in slot {}", slot.0) });
        }
        self.device.pool.stay();
        self.device.take(batch, &self.last, self.pooler.as_ref().map(|pooler| pooler.pooling))?;
        let logits = self.model.forward(&mut self.device);
        match &mut self.pooler {
            None => self.sampling.run(&mut self.device.pool, batch, logits, &mut self.outcomes),
            Some(pooler) => pool(pooler, batch, logits, &mut self.outcomes),
        }
        // The last of a slot counts: what its drafts, if any, led to.
        for sampled in &self.outcomes.sampled {
            if let Ok(token) = sampled.token {
                self.last[sampled.slot.0 as usize] = token;
            }
        }
        self.launches += 1;
        Ok(Ticket(self.launches))
    }

    fn settle(&mut self, _: Ticket, out: &mut Outcomes) -> Result<(), DeviceError> {
        out.sampled.append(&mut self.outcomes.sampled);
        out.scored.append(&mut self.outcomes.scored);
        out.pooled.append(&mut self.outcomes.pooled);
        Ok(())
    }

    fn kv_block_bytes(&self) -> usize {
        self.device.kv().shape().bytes()
    }

    fn kv_layout(&self) -> String {
        // Named anew whenever the order of a block's values changes.
        format!("cpu 2 {:?} {:?}", self.device.kv().shape(), self.isa())
    }

    fn save_block(&mut self, block: BlockId, out: &mut [u8]) -> Result<(), DeviceError> {
        out.copy_from_slice(self.device.kv().block(block.0 as usize));
        Ok(())
    }

    fn load_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), DeviceError> {
        self.device.kv_mut().block_mut(block.0 as usize).copy_from_slice(bytes);
        Ok(())
    }

    fn sleep(&mut self, sleep: Sleep) -> Result<(), DeviceError> {
        let failed = |error| DeviceError { device: "cpu".into(), what: format!("cannot give memory back: {error}") };
        self.device.kv_mut().discard().map_err(failed)?;
        // To offload weights is to bring them where these are: to the host's memory.
        self.discarded = sleep == Sleep::Discard;
        if self.discarded { self.device.release_weights().map_err(failed) } else { Ok(()) }
    }

    fn wake(&mut self) -> Result<(), DeviceError> {
        let kv = self.device.kv_mut();
        let reserved = kv.reserve().and_then(|()| kv.reserved());
        reserved.map_err(|error| DeviceError {
            device: "cpu".into(),
            what: format!("there is no memory for the KV cache any more: {error}"),
        })?;
        if std::mem::take(&mut self.discarded) {
            self.device.fill_weights(&mut |_| {});
        }
        Ok(())
    }

    fn set_adapter(&mut self, slot: AdapterSlot, adapter: Option<&Adapter>) -> Result<(), DeviceError> {
        let place = slot.0 as usize;
        if self.adapters.len() <= place {
            self.adapters.resize(place + 1, false);
        }
        self.adapters[place] = false;
        if let Err(error) = self.model.set_adapter(&mut self.device, slot, adapter) {
            // What of it is there already must not stay.
            self.model.set_adapter(&mut self.device, slot, None).map_err(failed)?;
            return Err(failed(error));
        }
        self.adapters[place] = adapter.is_some();
        Ok(())
    }
}
