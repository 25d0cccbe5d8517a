//! Threads that compute: one operation at a time is divided into tasks, and whoever is free takes the next.
//!
//! Taking tasks one by one means that a descheduled thread holds up one task, not a fixed share of the work. Idle threads spin for
//! [`SPIN`], long enough to bridge the gap between two operations of one step, then sleep: on a shared machine, spinning longer takes
//! the processor from those that have work. Threads that do not sleep are not woken: an operation costs no system call while the
//! threads are at it.
//!
//! An operation ends with its last task. Where the thread that computes it lost its processor to somebody else's, all would wait for
//! a time slice of the other; see [`rescue`]. And where there are as many threads as processors, each has its own: else the kernel,
//! with one processor busy for somebody else, would wake our threads on one another's.

mod futex;
mod rescue;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use self::rescue::Crew;
use crate::buffer::Shared;

/// How long a thread without work spins before it sleeps.
const SPIN: Duration = Duration::from_micros(30);

/// After which time the caller, waiting for the last tasks, looks again whether somebody gets on with them.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// Most threads of one pool.
pub(crate) const THREADS_MAX: usize = 512;

/// What a task is called with: its number, and the number of the thread that runs it, `0 .. Pool::threads()`.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

pub(crate) struct Pool {
    board: Arc<Board>,
    /// All threads but the caller's.
    workers: Vec<JoinHandle<()>>,
}

/// A cache line of its own, so that who writes here disturbs nobody who reads elsewhere.
#[derive(Default)]
#[repr(align(128))]
struct Apart<T>(T);

/// Where the current operation is posted.
struct Board {
    /// Number of tasks in the upper half, number of the next one in the lower: whoever increments it learns at once whether the
    /// number it took is a task of the operation that is posted now.
    tickets: Apart<AtomicU64>,
    /// Tasks of the operation that are not done; the caller may sleep on it.
    left: Apart<AtomicU32>,
    /// Whether the caller sleeps, or is about to.
    caller_sleeps: AtomicBool,
    /// Changes when sleeping workers are to look for work; they sleep on it.
    call: Apart<AtomicU32>,
    /// Workers that sleep, or are about to.
    sleepers: AtomicU32,
    task: std::cell::UnsafeCell<Option<Shared<&'static Task<'static>>>>,
    panicked: AtomicBool,
    stop: AtomicBool,
    crew: Crew,
}

// SAFETY: `task` is written by the pool's owner only while no task is unfinished, and read only by who holds an unfinished task.
unsafe impl Sync for Board {}
// SAFETY: as above; the pointer in it is used under the same rule.
unsafe impl Send for Board {}

impl Pool {
    /// A pool of `threads` threads, the caller's included.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let board = Arc::new(Board {
            tickets: Apart::default(),
            left: Apart::default(),
            caller_sleeps: AtomicBool::new(false),
            call: Apart::default(),
            sleepers: AtomicU32::new(0),
            task: std::cell::UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            crew: Crew::new(threads),
        });
        let mut pool = Self { board, workers: Vec::with_capacity(threads) };
        for worker in 1..threads {
            let board = Arc::clone(&pool.board);
            pool.workers.push(thread::Builder::new().name(format!("cpu-{worker}")).spawn(move || board.work(worker))?);
        }
        Ok(pool)
    }

    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Says that this thread is the caller for good. It may get a processor of its own, which threads that it starts would share.
    pub fn stay(&mut self) {
        self.board.crew.join(0, true);
    }

    /// Runs tasks `0 .. tasks`, in any order and on any thread, and returns when all are done. Panics if one of them did.
    pub fn run(&mut self, tasks: usize, task: &Task<'_>) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(|number| task(number, 0));
            return;
        }
        let board = &*self.board;
        let mut task: &Task<'_> = task;
        let count = u32::try_from(tasks).expect("fewer tasks than values in memory");
        board.left.0.store(count, Ordering::Relaxed);
        board.crew.join(0, false);
        // SAFETY: no task is unfinished, so nobody reads the cell. The borrow outlives its users: this function returns only after
        // every task is done, and a number taken later is no task of this operation.
        unsafe { *board.task.get() = Some(Shared::new((&raw mut task).cast())) };
        // Sequentially consistent, as is the count of sleepers: either this thread sees a sleeper, or the sleeper sees the tasks.
        board.tickets.0.store(u64::from(count) << 32, Ordering::SeqCst);
        board.wake(tasks - 1);
        board.take_all(0);
        board.wait();
        assert!(!board.panicked.swap(false, Ordering::Relaxed), "a compute task panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.board.stop.store(true, Ordering::SeqCst);
        self.board.wake(usize::MAX);
        for worker in self.workers.drain(..) {
            // A worker catches its tasks' panics and has none of its own.
            let _ = worker.join();
        }
        self.board.crew.disband();
    }
}

impl Board {
    fn has_work(&self) -> bool {
        let tickets = self.tickets.0.load(Ordering::SeqCst);
        tickets & u64::from(u32::MAX) < tickets >> 32
    }

    /// Wakes up to `count` of the workers that sleep.
    fn wake(&self, count: usize) {
        let sleepers = self.sleepers.load(Ordering::SeqCst) as usize;
        if sleepers > 0 {
            self.call.0.fetch_add(1, Ordering::SeqCst);
            futex::wake(&self.call.0, count.min(sleepers));
        }
    }

    /// Takes and runs tasks until none is left.
    fn take_all(&self, worker: usize) {
        let mut done = 0;
        while self.has_work() {
            let tickets = self.tickets.0.fetch_add(1, Ordering::AcqRel);
            let number = tickets & u64::from(u32::MAX);
            if number >= tickets >> 32 {
                break;
            }
            if done == 0 {
                self.crew.begins(worker);
            }
            // SAFETY: this task is unfinished, so the operation that posted it waits for it, and the cell is not written.
            let task: &Task<'_> = unsafe {
                let posted = (*self.task.get()).expect("a ticket was taken, so an operation is posted");
                *posted.get()
            };
            if catch_unwind(AssertUnwindSafe(|| task(number as usize, worker))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            done += 1;
        }
        if done > 0 {
            self.crew.ends(worker);
            if self.left.0.fetch_sub(done, Ordering::SeqCst) == done && self.caller_sleeps.load(Ordering::SeqCst) {
                futex::wake(&self.left.0, 1);
            }
            self.crew.returns(worker);
        }
    }

    /// Waits, as the caller, until no task is left.
    fn wait(&self) {
        let left = || self.left.0.load(Ordering::SeqCst);
        if spin(|| left() == 0) {
            return;
        }
        // The last tasks are computed elsewhere, or would be.
        self.caller_sleeps.store(true, Ordering::SeqCst);
        loop {
            self.crew.rescue(0, &|| left() == 0);
            let left = left();
            if left == 0 {
                break;
            }
            futex::wait(&self.left.0, left, Some(LOOK_AGAIN));
        }
        self.caller_sleeps.store(false, Ordering::SeqCst);
    }

    fn work(&self, worker: usize) {
        self.crew.join(worker, true);
        let stopped = || self.stop.load(Ordering::SeqCst);
        while !stopped() {
            self.take_all(worker);
            if spin(|| self.has_work() || stopped()) {
                continue;
            }
            if self.left.0.load(Ordering::SeqCst) > 0 {
                self.crew.rescue(worker, &|| self.has_work() || self.left.0.load(Ordering::SeqCst) == 0);
            }
            let call = self.call.0.load(Ordering::SeqCst);
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            if !self.has_work() && !stopped() {
                futex::wait(&self.call.0, call, None);
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Spins until `ready`, or for [`SPIN`]. Returns whether it was.
fn spin(ready: impl Fn() -> bool) -> bool {
    /// Looks between two readings of the clock.
    const LOOKS: usize = 16;
    let began = Instant::now();
    loop {
        for _ in 0..LOOKS {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        if began.elapsed() >= SPIN {
            return ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Every task of every operation runs exactly once, whatever the number of threads, and results are seen when `run` returns.
    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 8] {
            let mut pool = Pool::new(threads).unwrap();
            for tasks in (0..40).chain([1000]) {
                let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|task, worker| {
                    assert!(worker < threads);
                    runs[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1), "{threads} threads, {tasks} tasks");
            }
        }
    }

    /// A pool that is used in bursts: workers are asleep, about to sleep, or awake when the next operation comes.
    #[test]
    fn no_call_is_lost() {
        let mut pool = Pool::new(3).unwrap();
        let mut expected = 0;
        let sum = AtomicU64::new(0);
        for round in 0..3000u64 {
            let tasks = 2 + (round % 7) as usize;
            pool.run(tasks, &|task, _| {
                sum.fetch_add(task as u64, Ordering::Relaxed);
            });
            expected += (0..tasks as u64).sum::<u64>();
            assert_eq!(sum.load(Ordering::Relaxed), expected, "round {round}");
            // Around the time after which a worker sleeps.
            let pause = Duration::from_micros(round * 7 % 60);
            let began = Instant::now();
            while began.elapsed() < pause {
                std::hint::spin_loop();
            }
        }
    }

    /// After a panic the pool computes as before.
    #[test]
    fn a_panic_ends_its_operation_alone() {
        let mut pool = Pool::new(2).unwrap();
        let failed = catch_unwind(AssertUnwindSafe(|| pool.run(10, &|task, _| assert!(task != 7, "seven"))));
        assert!(failed.is_err());
        let runs = AtomicUsize::new(0);
        pool.run(10, &|_, _| {
            runs.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(runs.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let run = || Pool::new(2).unwrap().run(10, &|task, _| assert!(task != 7, "seven"));
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
        let said = panic.downcast_ref::<&str>().map(|said| (*said).to_owned());
        let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        assert!(said.contains("a compute task panicked"), "{said}");
    }
}
