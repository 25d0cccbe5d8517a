//! Who holds which block, and in which order free ones are handed out.
//!
//! A block is held by as many as its count says, or free. The free list is a doubly linked list through two arrays, because a
//! prefix hit takes a block out of its middle. It is ordered by use: the head is handed out next. Blocks whose content nobody could
//! ask for go to its head, cached ones to its tail, and their owner releases a sequence's blocks last block first, so that of two
//! blocks of one sequence the later one is always handed out before the earlier.

use crate::backend::BlockId;

#[derive(Debug)]
pub struct Pool {
    refs: Vec<u32>,
    /// Neighbours in the free list. The entry behind the last block is the list's two ends; a held block's entries mean nothing.
    next: Vec<u32>,
    prev: Vec<u32>,
    free: usize,
}

impl Pool {
    /// A pool of `blocks` free blocks.
    pub fn new(blocks: usize) -> Self {
        let ends = u32::try_from(blocks).expect("blocks are numbered by u32");
        // Block i stands between i - 1 and i + 1, in a circle that the ends close.
        let next = (1..=ends).chain([0]).collect();
        let prev = [ends].into_iter().chain(0..ends).collect();
        Self { refs: vec![0; blocks], next, prev, free: blocks }
    }

    pub fn total(&self) -> usize {
        self.refs.len()
    }

    /// Blocks that nobody holds.
    pub fn free(&self) -> usize {
        self.free
    }

    pub fn holders(&self, block: BlockId) -> u32 {
        self.refs[block.0 as usize]
    }

    /// Hands out the block whose turn it is, with one holder.
    pub fn take(&mut self) -> Option<BlockId> {
        let head = self.next[self.ends()];
        if head as usize == self.ends() {
            return None;
        }
        self.unlink(head);
        self.refs[head as usize] = 1;
        Some(BlockId(head))
    }

    /// Adds a holder.
    pub fn hold(&mut self, block: BlockId) {
        if self.refs[block.0 as usize] == 0 {
            self.unlink(block.0);
        }
        self.refs[block.0 as usize] += 1;
    }

    /// Takes a holder away. When it was the last, the block is free: `cached` ones are handed out last, others next.
    ///
    /// # Panics
    /// Nobody holds the block.
    pub fn release(&mut self, block: BlockId, cached: bool) {
        let refs = &mut self.refs[block.0 as usize];
        assert!(*refs > 0, "{block:?} is released by nobody who holds it");
        *refs -= 1;
        if *refs > 0 {
            return;
        }
        let ends = self.ends() as u32;
        match cached {
            true => self.link(self.prev[ends as usize], block.0, ends),
            false => self.link(ends, block.0, self.next[ends as usize]),
        }
    }

    /// Free blocks in the order in which they will be handed out.
    pub fn free_list(&self) -> impl Iterator<Item = BlockId> {
        let ends = self.ends() as u32;
        let step = move |&block: &u32| Some(self.next[block as usize]).filter(|&next| next != ends);
        std::iter::successors(step(&ends), step).map(BlockId)
    }

    fn ends(&self) -> usize {
        self.refs.len()
    }

    fn link(&mut self, before: u32, block: u32, after: u32) {
        self.next[before as usize] = block;
        self.prev[block as usize] = before;
        self.next[block as usize] = after;
        self.prev[after as usize] = block;
        self.free += 1;
    }

    fn unlink(&mut self, block: u32) {
        let (before, after) = (self.prev[block as usize], self.next[block as usize]);
        self.next[before as usize] = after;
        self.prev[after as usize] = before;
        self.free -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pool: &Pool, free: &[u32]) {
        assert_eq!(pool.free_list().map(|block| block.0).collect::<Vec<_>>(), free);
        assert_eq!(pool.free(), free.len());
    }

    #[test]
    fn blocks_are_handed_out_by_last_use() {
        let mut pool = Pool::new(4);
        check(&pool, &[0, 1, 2, 3]);
        assert_eq!([pool.take(), pool.take(), pool.take()], [0, 1, 2].map(|block| Some(BlockId(block))));
        pool.release(BlockId(1), true);
        check(&pool, &[3, 1]);
        pool.release(BlockId(0), true);
        check(&pool, &[3, 1, 0]);
        pool.release(BlockId(2), false);
        check(&pool, &[2, 3, 1, 0]);
        pool.hold(BlockId(1));
        check(&pool, &[2, 3, 0]);
        pool.hold(BlockId(1));
        pool.release(BlockId(1), true);
        check(&pool, &[2, 3, 0]);
        pool.release(BlockId(1), true);
        check(&pool, &[2, 3, 0, 1]);
    }

    #[test]
    fn an_empty_pool_hands_out_nothing() {
        let mut pool = Pool::new(1);
        assert_eq!((pool.take(), pool.take()), (Some(BlockId(0)), None));
        check(&pool, &[]);
        pool.release(BlockId(0), false);
        check(&pool, &[0]);
    }
}
