//! The record, the counters and the sizes of the probe `process_exit`.

use core::mem::{offset_of, size_of};

/// Most processes watched at once, over all engines and their descendants. A loader may ask for less, never for more.
///
/// An engine is one process and a handful of workers; its build tools (a kernel compiler fans out to one process per core) are the worst case. The
/// map is allocated whole: at 4,096 entries it costs the kernel about 400 KiB.
pub const WATCHED_MAX: u32 = 4096;

/// Bytes of the ring that carries [`Record`]s to user space, unless the loader asks for another size (a power of two and whole pages).
pub const RING_BYTES: u32 = 64 * 1024;

/// The kernel puts a header of this size before every record of a ring, and rounds the sum up to 8 bytes.
const RING_HEADER_BYTES: u32 = 8;

/// Records that a ring of [`RING_BYTES`] holds before the next one is lost, and counted.
pub const RING_RECORDS: u32 = RING_BYTES / (RING_HEADER_BYTES + Record::BYTES as u32);

// A reader that sleeps through a quarter of a full house dying at once still loses nothing.
const _: () = assert!(RING_RECORDS >= WATCHED_MAX / 4);
const _: () = assert!(RING_BYTES.is_power_of_two());
const _: () = assert!(Record::BYTES.is_multiple_of(8));

/// One process ended: its last thread is gone, and its parent can wait for it (or could, had it not been orphaned).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Record {
    /// When, on the kernel's monotonic clock (`CLOCK_MONOTONIC`), in nanoseconds.
    pub at_ns: u64,
    /// The process, as the initial pid namespace numbers it.
    pub tgid: u32,
    /// The watched process that this one descends from; itself, if it is one.
    pub root: u32,
    /// What `wait(2)` gives its parent: exit code in bits 8 to 15, else a signal in bits 0 to 6 and bit 7 when a core was written.
    pub wait_status: u32,
    /// Zero. It makes the size a multiple of 8 without padding of the compiler's.
    pub reserved: u32,
}

impl Record {
    /// Size in the ring, without the kernel's header.
    pub const BYTES: usize = size_of::<Self>();

    /// Reads a record as the kernel side of the same machine wrote it; `None` when the size is not a record's.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::BYTES {
            return None;
        }
        let word = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        Some(Self {
            at_ns: u64::from_ne_bytes(*bytes.get(offset_of!(Self, at_ns)..)?.first_chunk()?),
            tgid: word(offset_of!(Self, tgid))?,
            root: word(offset_of!(Self, root))?,
            wait_status: word(offset_of!(Self, wait_status))?,
            reserved: word(offset_of!(Self, reserved))?,
        })
    }
}

/// Why something that should have been seen was not: the index of a counter in the map `LOSSES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Loss {
    /// A watched process ended, and the ring had no room for its record.
    RingFull = 0,
    /// A watched process started another, and the map had no room for it: its end will not be seen.
    MapFull = 1,
    /// A watched process ended or forked, and the kernel's memory could not be read where its type information says.
    Unread = 2,
}

impl Loss {
    /// Every kind, in the order of the counters.
    pub const ALL: [Self; 3] = [Self::RingFull, Self::MapFull, Self::Unread];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_from_its_layout() {
        let mut bytes = [0; Record::BYTES];
        bytes[..8].copy_from_slice(&7_000_000_001_u64.to_ne_bytes());
        bytes[8..12].copy_from_slice(&4242_u32.to_ne_bytes());
        bytes[12..16].copy_from_slice(&4000_u32.to_ne_bytes());
        bytes[16..20].copy_from_slice(&0x0300_u32.to_ne_bytes());
        let record = Record { at_ns: 7_000_000_001, tgid: 4242, root: 4000, wait_status: 0x0300, reserved: 0 };
        assert_eq!(Record::from_bytes(&bytes), Some(record));
        assert_eq!(Record::from_bytes(&bytes[..Record::BYTES - 1]), None);
        assert_eq!(Record::from_bytes(&[0; Record::BYTES + 1]), None);
    }

    #[test]
    fn counters_are_indexed_by_their_place() {
        for (index, loss) in Loss::ALL.into_iter().enumerate() {
            assert_eq!(loss as usize, index);
        }
    }
}
