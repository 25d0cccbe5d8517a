//! The pool and the prefix cache together.

use domain::ExtraKeys;

use super::event::{KvEvent, Stored};
use super::*;

const BLOCK_TOKENS: usize = 2;

fn hash(name: u8) -> BlockHash {
    BlockHash([name; 32])
}

/// Takes blocks for a chain and makes them known, as a sequence does whose blocks have all settled.
fn compute(kv: &mut Kv, chain: &[BlockHash], extra: &Arc<ExtraKeys>) -> Vec<BlockId> {
    let mut table = Vec::new();
    let hits = kv.take(chain, chain.len(), &mut table).expect("there is room");
    for index in hits..chain.len() {
        let parent = index.checked_sub(1).map(|before| chain[before]);
        let tokens = [index as u32; BLOCK_TOKENS];
        let replaced = kv.cache(&mut table, &Full { index, hash: chain[index], parent, tokens: &tokens, extra });
        assert_eq!(replaced, None);
    }
    table
}

fn removed(names: &[u8]) -> KvEvent {
    KvEvent::Removed { hashes: names.iter().copied().map(hash).collect(), medium: Medium::Device }
}

fn events(kv: &mut Kv) -> Vec<KvEvent> {
    kv.take_events().map(|batch| batch.events).unwrap_or_default()
}

#[test]
fn a_run_of_blocks_is_one_event_and_eviction_takes_its_end() {
    let (mut kv, extra) = (Kv::new(4, BLOCK_TOKENS, true), Arc::default());
    let table = compute(&mut kv, &[hash(1), hash(2), hash(3)], &extra);
    let stored = Stored {
        hashes: vec![hash(1), hash(2), hash(3)],
        parent: None,
        tokens: vec![0, 0, 1, 1, 2, 2],
        block_tokens: BLOCK_TOKENS,
        extra: Arc::clone(&extra),
        first_block: 0,
        medium: Medium::Device,
    };
    assert_eq!(kv.take_events(), Some(KvBatch { sequence: 0, events: vec![KvEvent::Stored(stored)] }));
    kv.release(&table);
    let mut other = Vec::new();
    assert_eq!(kv.take(&[], 3, &mut other), Some(0));
    assert_eq!(kv.take_events(), Some(KvBatch { sequence: 1, events: vec![removed(&[3, 2])] }));
    assert_eq!(kv.take_events(), None);
    kv.begin_list();
    let list = kv.go_on_list(usize::MAX).expect("these are all places").parents_first();
    assert_eq!((list.sequence, list.blocks.len(), list.blocks[0].hash), (2, 1, hash(1)));
    kv.check([&other[..]].into_iter());
}

#[test]
fn a_take_that_does_not_fit_takes_nothing() {
    let (mut kv, extra) = (Kv::new(4, BLOCK_TOKENS, true), Arc::default());
    let table = compute(&mut kv, &[hash(1), hash(2)], &extra);
    kv.release(&table);
    let mut held = Vec::new();
    assert_eq!(kv.take(&[], 2, &mut held), Some(0));
    // Two blocks are free, and both are hits: there is none for the third.
    let mut other = Vec::new();
    assert_eq!(kv.take(&[hash(1), hash(2)], 3, &mut other), None);
    assert!(other.is_empty());
    kv.check([&held[..]].into_iter());
    assert_eq!(kv.take(&[hash(1), hash(2)], 2, &mut other), Some(2));
    assert_eq!(other, table);
    kv.check([&held[..], &other[..]].into_iter());
}

#[test]
fn the_second_of_two_equal_blocks_gives_way() {
    let (mut kv, extra) = (Kv::new(4, BLOCK_TOKENS, true), Arc::default());
    let first = compute(&mut kv, &[hash(1)], &extra);
    let mut second = Vec::new();
    assert_eq!(kv.take(&[], 1, &mut second), Some(0));
    let own = second[0];
    let full = Full { index: 0, hash: hash(1), parent: None, tokens: &[0; BLOCK_TOKENS], extra: &extra };
    assert_eq!(kv.cache(&mut second, &full), Some(own));
    assert_eq!(second, first);
    kv.release(&[own]);
    kv.check([&first[..], &second[..]].into_iter());
    assert_eq!(events(&mut kv).len(), 1, "it is stored once");
}

#[test]
fn what_is_forgotten_takes_its_children_along() {
    let (mut kv, extra) = (Kv::new(6, BLOCK_TOKENS, true), Arc::default());
    let long = compute(&mut kv, &[hash(1), hash(2), hash(3)], &extra);
    let other = compute(&mut kv, &[hash(1), hash(4)], &extra);
    let alone = compute(&mut kv, &[hash(9)], &extra);
    events(&mut kv);
    kv.forget(&long[..1]);
    let [KvEvent::Removed { hashes: removed, medium: Medium::Device }] = &events(&mut kv)[..] else { panic!("one event") };
    let mut removed = removed.clone();
    removed.sort();
    assert_eq!(removed, [1, 2, 3, 4].map(hash));
    assert_eq!(kv.known(), 1);
    // A child that settles later is not known either: nobody could find it.
    let mut long_table = long.clone();
    assert!(kv.grow(&mut long_table));
    let full = Full { index: 3, hash: hash(5), parent: Some(hash(3)), tokens: &[3; BLOCK_TOKENS], extra: &extra };
    assert_eq!(kv.cache(&mut long_table, &full), None);
    assert_eq!(kv.known(), 1);
    kv.check([&long_table[..], &other[..], &alone[..]].into_iter());
}

#[test]
fn a_reset_waits_for_holders() {
    let (mut kv, extra) = (Kv::new(4, BLOCK_TOKENS, true), Arc::default());
    let table = compute(&mut kv, &[hash(1)], &extra);
    events(&mut kv);
    assert!(!kv.reset(false));
    kv.release(&table);
    assert!(kv.reset(false));
    assert_eq!(events(&mut kv), [KvEvent::Cleared]);
    assert_eq!((kv.known(), kv.free()), (0, 4));
    // The block is free as any other: it is handed out without an event.
    assert_eq!(kv.take(&[], 4, &mut Vec::new()), Some(0));
    assert_eq!(events(&mut kv), []);
}

#[test]
fn blocks_of_other_extra_keys_are_told_apart() {
    let mut kv = Kv::new(4, BLOCK_TOKENS, true);
    compute(&mut kv, &[hash(1)], &Arc::default());
    compute(&mut kv, &[hash(2)], &Arc::new(ExtraKeys { cache_salt: Some("s".into()), ..ExtraKeys::default() }));
    let salts: Vec<_> = events(&mut kv)
        .into_iter()
        .map(|event| match event {
            KvEvent::Stored(stored) => stored.extra.cache_salt.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(salts, [None, Some("s".into())]);
}

#[test]
fn a_list_holds_at_its_beginning_whatever_changes_while_it_is_made() {
    // Four blocks known, their holder gone. What happens behind the first `parts` places seen.
    let check = |parts: usize, change: &dyn Fn(&mut Kv)| {
        let (mut kv, extra) = (Kv::new(6, BLOCK_TOKENS, true), Arc::default());
        let chain = [1, 2, 3, 4].map(hash);
        let table = compute(&mut kv, &chain, &extra);
        kv.release(&table);
        drop(kv.take_events());
        kv.begin_list();
        for _ in 0..parts {
            assert_eq!(kv.go_on_list(1), None);
        }
        change(&mut kv);
        let list = loop {
            if let Some(list) = kv.go_on_list(1) {
                break list.parents_first();
            }
        };
        let listed: Vec<BlockHash> = list.blocks.iter().map(|block| block.hash).collect();
        assert_eq!((listed, list.sequence), (chain.to_vec(), 1), "{parts} places before the change");
        assert!(list.blocks.iter().all(|block| block.tokens == [block.index as u32; BLOCK_TOKENS]), "{:?}", list.blocks);
    };
    for parts in 0..6 {
        check(parts, &|_| {});
        // All are evicted for others, and the cache is cleared.
        check(parts, &|kv| drop(compute(kv, &[5, 6, 7, 8, 9, 10].map(hash), &Arc::default())));
        check(parts, &|kv| kv.clear(true));
        check(parts, &|kv| kv.forget(&[BlockId(1)]));
    }
}
