//! Moving blocks between the tiers: the schedule says what, this does it.

use std::time::Instant;

use super::Engine;
use crate::backend::{Backend, DeviceError};
use crate::config::ConfigError;
use crate::kv::disk::{Disk, DiskAnswer};
use crate::kv::hash::BlockHash;
use crate::kv::tier::{HostSlot, Move};
use crate::plan::Schedule;

/// Most bytes that one step copies from host memory: a few milliseconds.
const LOAD_BYTES_MAX: usize = 32 << 20;

/// Host memory for blocks, reserved at the start, and the disk.
pub(super) struct Lower {
    bytes: Vec<u8>,
    block_bytes: usize,
    disk: Option<Box<dyn Disk>>,
    moves: Vec<Move>,
}

impl Lower {
    pub fn new(backend: &dyn Backend, host_blocks: usize, disk: Option<Box<dyn Disk>>) -> Result<Self, ConfigError> {
        let block_bytes = backend.kv_block_bytes();
        let wrong = |what: String| ConfigError(vec![what]);
        if host_blocks > 0 && block_bytes == 0 {
            return Err(wrong("the device cannot copy KV blocks, so that host memory cannot keep them".into()));
        }
        let mut bytes = Vec::new();
        let wanted = host_blocks.checked_mul(block_bytes);
        if wanted.is_none_or(|wanted| bytes.try_reserve_exact(wanted).is_err()) {
            return Err(wrong(format!("there is no memory for {host_blocks} KV blocks of {block_bytes} bytes on the host")));
        }
        // Every page is touched here: a request never waits for memory, and never finds that there is none.
        bytes.resize(wanted.unwrap_or_default(), 0);
        Ok(Self { bytes, block_bytes, disk, moves: Vec::new() })
    }

    /// Blocks that one step may copy from host memory.
    pub fn loads_max(&self) -> usize {
        LOAD_BYTES_MAX / self.block_bytes.max(1)
    }

    fn slot(&mut self, slot: HostSlot) -> &mut [u8] {
        let start = slot.0 as usize * self.block_bytes;
        &mut self.bytes[start..start + self.block_bytes]
    }

    /// What was on the disk at the start.
    pub fn find(&mut self, schedule: &mut Schedule) {
        let Some(disk) = &mut self.disk else { return };
        let found = disk.found();
        let chain: Vec<BlockHash> = found.iter().map(|block| block.content.hash).collect();
        for block in found {
            schedule.kv.found(block.place, block.content, &block.tokens);
        }
        // Parents came before their children, and are to be forgotten after them.
        if let Some(tiers) = schedule.kv.tiers_mut() {
            tiers.touch(&chain);
        }
    }

    pub fn wake_with(&mut self, wake: std::sync::Arc<dyn Fn() + Send + Sync>) {
        if let Some(disk) = &mut self.disk {
            disk.wake_with(wake);
        }
    }

    /// Everything that was kept is of no use any more.
    pub fn clear(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.clear();
        }
    }
}

impl Engine {
    /// Takes what the disk has read, and ends restores that are late.
    pub(super) fn take_answers(&mut self, now: Instant) -> Result<(), DeviceError> {
        self.schedule.now = now;
        while let Some(answer) = self.lower.disk.as_mut().and_then(|disk| disk.poll()) {
            match answer {
                DiskAnswer::Read { hash, bytes } => {
                    if let Some(block) = self.schedule.disk_read(&hash) {
                        // The block may be one whose content is still to be saved.
                        self.make_moves()?;
                        self.backend.load_block(block, &bytes)?;
                    }
                    if let Some(disk) = &mut self.lower.disk {
                        disk.recycle(bytes);
                    }
                }
                DiskAnswer::Lost { hash } => self.schedule.disk_failed(Some(&hash)),
                DiskAnswer::Failed => {
                    self.schedule.disk_failed(None);
                    self.stats.disk_failed = true;
                    self.lower.disk = None;
                }
            }
        }
        self.schedule.expire_restores();
        let room = self.lower.disk.as_ref().map_or(0, |disk| disk.room());
        if let Some(tiers) = self.schedule.kv.tiers_mut() {
            tiers.set_disk_room(room);
        }
        Ok(())
    }

    /// Makes the copies that the schedule recorded, before anything is written to a block that it handed out.
    pub(super) fn make_moves(&mut self) -> Result<(), DeviceError> {
        let lower = &mut self.lower;
        let mut moves = std::mem::take(&mut lower.moves);
        self.schedule.kv.take_moves(&mut moves);
        for copy in moves.drain(..) {
            match copy {
                Move::Save { block, slot } => self.backend.save_block(block, lower.slot(slot))?,
                Move::Load { slot, block } => self.backend.load_block(block, lower.slot(slot))?,
                Move::Spill { slot, place, content, tokens } => {
                    let start = slot.0 as usize * lower.block_bytes;
                    if let Some(disk) = &mut lower.disk {
                        disk.write(place, &content, &tokens, &lower.bytes[start..start + lower.block_bytes]);
                    }
                }
            }
        }
        lower.moves = moves;
        Ok(())
    }

    /// Asks the disk for what restores wait for.
    pub(super) fn ask_disk(&mut self) {
        for (place, hash) in self.schedule.restores.asked.drain(..) {
            if let Some(disk) = &mut self.lower.disk {
                disk.read(place, hash);
            }
        }
    }
}
