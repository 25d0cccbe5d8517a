//! Kernel side of `process_exit`: tells how each watched process ended, in the words its parent would hear from `wait(2)`.
//!
//! Two raw tracepoints. `sched_process_fork` adds what a watched process starts, `sched_process_exit` reports and forgets what ends. Both begin with
//! one hash lookup by process id, and that is all that an unwatched process pays.
//!
//! Nothing about this kernel is written down here. Raw tracepoints give a `task_struct`; where its fields lie is read from the kernel's type
//! information by the loader, which sets the constants below before the verifier sees them.
#![no_std]
#![no_main]

use core::ptr::read_volatile;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_probe_read_kernel};
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{HashMap, PerCpuArray, RingBuf};
use aya_ebpf::programs::RawTracePointContext;
use ebpf_abi::process_exit::{Loss, RING_BYTES, Record, WATCHED_MAX};

/// Watched process → the process whose watching it falls under.
#[map]
static WATCHED: HashMap<u32, u32> = HashMap::with_max_entries(WATCHED_MAX, 0);

#[map]
static RECORDS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// A counter for each [`Loss`], a copy for each CPU.
#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(Loss::ALL.len() as u32, 0);

/// Byte offset of a field in a structure of this kernel; set by the loader, which refuses to load when one is missing.
#[repr(transparent)]
struct Offset(u32);

macro_rules! offsets {
    ($($name:ident),*) => { $(#[unsafe(no_mangle)] static $name: Offset = Offset(0);)* };
}

offsets! { TASK_TGID, TASK_GROUP_LEADER, TASK_EXIT_CODE, TASK_SIGNAL, SIGNAL_LIVE, SIGNAL_FLAGS, SIGNAL_GROUP_EXIT_CODE }

/// The bit of `signal_struct.flags` that says the whole group is ending with one status. A macro of the kernel's, so its type information does not
/// have it; it has had this value in every kernel that has raw tracepoints.
const SIGNAL_GROUP_EXIT: u32 = 0x4;

/// An address in the kernel, to be read only through the helper that checks it.
#[derive(Clone, Copy)]
struct Address(*const u8);

impl Address {
    #[inline(always)]
    fn read<T>(self, field: &'static Offset) -> Result<T, Loss> {
        // SAFETY: the address of a static. Volatile, because the compiler would fold the 0 that the loader replaces.
        let Offset(offset) = unsafe { read_volatile(field) };
        let address = self.0.wrapping_add(offset as usize).cast::<T>();
        // SAFETY: the helper reads through its own fault handling, whatever the address; T is an integer or a pointer, so any bytes are one.
        unsafe { bpf_probe_read_kernel(address) }.map_err(|_errno| Loss::Unread)
    }

    #[inline(always)]
    fn follow(self, field: &'static Offset) -> Result<Self, Loss> {
        self.read(field).map(Self)
    }
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn process_exit(ctx: RawTracePointContext) -> i32 {
    count_loss(report_exit(&ctx))
}

#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn process_fork(ctx: RawTracePointContext) -> i32 {
    count_loss(follow_fork(&ctx))
}

/// Arguments of the tracepoint: the ending thread, which is the current one.
#[inline(always)]
fn report_exit(ctx: &RawTracePointContext) -> Result<(), Loss> {
    let tgid = ctx.tgid();
    let Some(root) = watched_by(tgid) else { return Ok(()) };
    let task = Address(ctx.arg(0));
    let signal = task.follow(&TASK_SIGNAL)?;
    // The ending thread has been taken off the count by now. The last two may both find zero here: then the removal decides which one reports.
    if signal.read::<i32>(&SIGNAL_LIVE)? != 0 || WATCHED.remove(tgid).is_err() {
        return Ok(());
    }
    // As the kernel's own `wait_task_zombie` puts it together: a group's common end, else that of its first thread.
    let wait_status = if signal.read::<u32>(&SIGNAL_FLAGS)? & SIGNAL_GROUP_EXIT != 0 {
        signal.read(&SIGNAL_GROUP_EXIT_CODE)?
    } else {
        task.follow(&TASK_GROUP_LEADER)?.read(&TASK_EXIT_CODE)?
    };
    let mut slot = RECORDS.reserve::<Record>(0).ok_or(Loss::RingFull)?;
    // SAFETY: a helper without preconditions.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    slot.write(Record { at_ns, tgid, root, wait_status, reserved: 0 });
    slot.submit(0);
    Ok(())
}

/// Arguments of the tracepoint: parent, which is the current thread, and child, which has not run yet and so cannot have ended.
#[inline(always)]
fn follow_fork(ctx: &RawTracePointContext) -> Result<(), Loss> {
    let tgid = ctx.tgid();
    let Some(root) = watched_by(tgid) else { return Ok(()) };
    let child = Address(ctx.arg(1)).read::<u32>(&TASK_TGID)?;
    if child == tgid {
        return Ok(()); // A new thread.
    }
    WATCHED.insert(child, root, 0).map_err(|_errno| Loss::MapFull)
}

#[inline(always)]
fn watched_by(tgid: u32) -> Option<u32> {
    // SAFETY: the value is copied at once. It is still the process's own for whoever goes on with it: a fork happens in a living process, an exit
    // goes on only if its own removal succeeded, and before these nobody but user space's `unwatch` could free the entry for another process.
    unsafe { WATCHED.get(tgid) }.copied()
}

#[inline(always)]
fn count_loss(outcome: Result<(), Loss>) -> i32 {
    if let Err(loss) = outcome
        && let Some(count) = LOSSES.get_ptr_mut(loss as u32)
    {
        // SAFETY: the map gave a pointer to this CPU's copy, and tracing programs of one kind do not interrupt each other on a CPU.
        unsafe { *count += 1 };
    }
    0
}

/// The kernel gives the helper that reads its memory to GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";

/// Never reached: the verifier would refuse a program that can come here.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
