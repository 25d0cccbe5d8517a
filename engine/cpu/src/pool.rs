//! Threads that compute: one operation at a time is divided into tasks, and whoever is free takes the next.
//!
//! Taking tasks one by one means that a descheduled thread holds up one task, not a fixed share of the work. Idle threads spin for
//! [`SPIN`], long enough to bridge the gap between two operations of one step, then sleep: on a shared machine, spinning longer takes
//! the processor from those that have work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::buffer::Shared;

/// How long a thread without work spins before it sleeps.
const SPIN: Duration = Duration::from_micros(30);

/// Most threads of one pool.
pub(crate) const THREADS_MAX: usize = 512;

/// What a task is called with: its number, and the number of the thread that runs it, `0 .. Pool::threads()`.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

pub(crate) struct Pool {
    board: Arc<Board>,
    /// All threads but the caller's.
    workers: Vec<JoinHandle<()>>,
}

/// Where the current operation is posted.
struct Board {
    /// Number of tasks in the upper half, number of the next one in the lower: whoever increments it learns at once whether the
    /// number it took is a task of the operation that is posted now.
    tickets: AtomicU64,
    done: AtomicUsize,
    task: std::cell::UnsafeCell<Option<Shared<&'static Task<'static>>>>,
    panicked: AtomicBool,
    stop: AtomicBool,
}

// SAFETY: `task` is written by the pool's owner only while no task is unfinished, and read only by who holds an unfinished task.
unsafe impl Sync for Board {}
// SAFETY: as above; the pointer in it is used under the same rule.
unsafe impl Send for Board {}

impl Pool {
    /// A pool of `threads` threads, the caller's included.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let board = Arc::new(Board {
            tickets: AtomicU64::new(0),
            done: AtomicUsize::new(0),
            task: std::cell::UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
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

    /// Runs tasks `0 .. tasks`, in any order and on any thread, and returns when all are done. Panics if one of them did.
    pub fn run(&mut self, tasks: usize, task: &Task<'_>) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(|number| task(number, 0));
            return;
        }
        let board = &*self.board;
        let mut task: &Task<'_> = task;
        board.done.store(0, Ordering::Relaxed);
        // SAFETY: no task is unfinished, so nobody reads the cell. The borrow outlives its users: this function returns only after
        // every task is done, and a number taken later is no task of this operation.
        unsafe { *board.task.get() = Some(Shared::new((&raw mut task).cast())) };
        board.tickets.store((tasks as u64) << 32, Ordering::Release);
        for worker in self.workers.iter().take(tasks - 1) {
            worker.thread().unpark();
        }
        board.take_all(0);
        let waiting = Instant::now();
        while board.done.load(Ordering::Acquire) < tasks {
            // The last tasks run elsewhere: give their threads this processor if they lack one.
            if waiting.elapsed() < SPIN { std::hint::spin_loop() } else { thread::yield_now() }
        }
        assert!(!board.panicked.load(Ordering::Relaxed), "a compute task panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.board.stop.store(true, Ordering::Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches its tasks' panics and has none of its own.
            let _ = worker.join();
        }
    }
}

impl Board {
    fn has_work(&self) -> bool {
        let tickets = self.tickets.load(Ordering::Acquire);
        tickets & u64::from(u32::MAX) < tickets >> 32
    }

    /// Takes and runs tasks until none is left.
    fn take_all(&self, worker: usize) {
        while self.has_work() {
            let tickets = self.tickets.fetch_add(1, Ordering::AcqRel);
            let number = tickets & u64::from(u32::MAX);
            if number >= tickets >> 32 {
                return;
            }
            // SAFETY: this task is unfinished, so the operation that posted it waits for it, and the cell is not written.
            let task: &Task<'_> = unsafe {
                let posted = (*self.task.get()).expect("a ticket was taken, so an operation is posted");
                *posted.get()
            };
            if catch_unwind(AssertUnwindSafe(|| task(number as usize, worker))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.done.fetch_add(1, Ordering::Release);
        }
    }

    fn work(&self, worker: usize) {
        while !self.stop.load(Ordering::Acquire) {
            self.take_all(worker);
            let idle = Instant::now();
            while !self.has_work() && !self.stop.load(Ordering::Acquire) {
                if idle.elapsed() < SPIN { std::hint::spin_loop() } else { thread::park() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_panic_reaches_the_caller() {
        let run = || Pool::new(2).unwrap().run(10, &|task, _| assert!(task != 7, "seven"));
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
        let said = panic.downcast_ref::<&str>().map(|said| (*said).to_owned());
        let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        assert!(said.contains("a compute task panicked"), "{said}");
    }
}
