//! Making blocks unknown: those that cannot be trusted, or all.

use std::collections::HashSet;

use domain::AdapterKey;

use super::Kv;
use super::event::Medium;
use super::hash::BlockHash;
use super::residency::Residency;
use crate::backend::BlockId;

impl Kv {
    /// Makes these blocks, and all that are known behind them on any tier, unknown: what they hold cannot be trusted.
    pub fn forget(&mut self, blocks: &[BlockId]) {
        self.forget_all(blocks.iter().filter_map(|&block| self.prefix.hash_of(block)).collect());
    }

    /// Makes all blocks unknown that were computed with an adapter, on any tier.
    pub fn forget_adapter(&mut self, key: &AdapterKey) {
        let lower = self.tiers.iter().flat_map(|tiers| tiers.of_adapter(key));
        self.forget_all(self.prefix.of_adapter(key).chain(lower).collect());
    }

    fn forget_all(&mut self, mut gone: HashSet<BlockHash>) {
        if gone.is_empty() {
            return;
        }
        self.log.removed_all(self.prefix.remove_behind(&mut gone), Medium::Device);
        if let Some(tiers) = &mut self.tiers {
            tiers.forget(&mut gone, &mut self.log);
        }
    }

    /// Makes all blocks of the device unknown, and with `lower` those of all tiers, unless one is held; says whether it was done. vLLM
    /// refuses alike.
    pub fn reset(&mut self, lower: bool) -> bool {
        let idle = self.used() == 0;
        if idle {
            self.clear(lower);
        }
        idle
    }

    /// Makes all blocks unknown, held or not. What held ones hold must be forgotten by their holders as well.
    pub fn clear(&mut self, lower: bool) {
        let kept = self
            .tiers
            .as_ref()
            .is_some_and(|tiers| !tiers.host().is_empty() || tiers.disk().is_some_and(|disk| !disk.is_empty()));
        if kept && !lower {
            self.log.removed_all(self.prefix.hashes(), Medium::Device);
        } else {
            if let Some(tiers) = &mut self.tiers {
                tiers.clear();
            }
            self.log.cleared();
        }
        self.prefix.clear();
        self.residency.iter_mut().for_each(Residency::clear);
    }
}
