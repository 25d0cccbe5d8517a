//! Which processors a pool's threads run on: each its own where there are enough, and a way out for who loses his.
//!
//! A thread whose processor somebody else's thread takes waits there for a time slice, some milliseconds. In the middle of a task it
//! makes the whole pool wait, although the processors of those who wait for it are free: Linux is slow to move a thread whose data is
//! warm. So whoever waits looks whether the missing threads get any processor time, and has one that gets none moved to its own
//! processor, where it sleeps meanwhile. A worker that was moved goes back when its task is done. The caller, for whom there is always
//! something to do, stays: the two exchange their homes.
//!
//! All of this is advice to the kernel. Where it is refused, results come later, but come.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Apart;

/// How long a thread in a task may get no processor time before it is moved.
const STILL: Duration = Duration::from_micros(20);

/// Threads that are looked at in one rescue.
const LOOKED_AT_MAX: usize = 8;

/// Pools that this process has started.
static POOLS: AtomicUsize = AtomicUsize::new(0);

/// No thread, no processor.
const NONE: i32 = -1;

/// The threads of a pool, the caller first.
pub(super) struct Crew {
    members: Box<[Apart<Member>]>,
    /// Where this process may run.
    allowed: Option<libc::cpu_set_t>,
    /// One rescue at a time.
    busy: AtomicBool,
}

struct Member {
    /// Its id at the kernel.
    thread: AtomicI32,
    /// The processor that is its own, if it has one.
    home: AtomicI32,
    /// Whether it lives on its own processor.
    stays: AtomicBool,
    in_task: AtomicBool,
    /// It was moved away from where it belongs.
    moved: AtomicBool,
}

impl Crew {
    pub fn new(threads: usize) -> Self {
        let allowed = affinity_of(0);
        let processors = allowed.as_ref().map(processors).unwrap_or_default();
        let own = processors.len() == threads && threads > 1;
        // Callers have more to do than workers: those of several pools should not all live on one processor.
        let first = std::process::id() as usize + POOLS.fetch_add(1, Ordering::Relaxed);
        let member = |number: usize| {
            Apart(Member {
                thread: AtomicI32::new(NONE),
                home: AtomicI32::new(if own { processors[(number + first) % threads] } else { NONE }),
                stays: AtomicBool::new(false),
                in_task: AtomicBool::new(false),
                moved: AtomicBool::new(false),
            })
        };
        Self { members: (0..threads).map(member).collect(), allowed, busy: AtomicBool::new(false) }
    }

    /// Says that this thread is member `number` from now on, and lives with the pool if it `stays`: then it gets its own processor.
    /// Threads that it starts inherit that.
    pub fn join(&self, number: usize, stays: bool) {
        thread_local!(static ID: libc::pid_t = {
            // SAFETY: takes nothing and never fails.
            unsafe { libc::gettid() }
        });
        let (member, id) = (&self.members[number].0, ID.with(|id| *id));
        let before = member.thread.load(Ordering::Relaxed);
        if before != id {
            self.free(before);
            member.thread.store(id, Ordering::Relaxed);
            member.stays.store(false, Ordering::Relaxed);
        }
        if stays && !member.stays.swap(true, Ordering::Relaxed) {
            self.send_home(number);
        }
    }

    /// Lets the caller, which outlives the pool, run where it may.
    pub fn disband(&self) {
        self.free(self.members[0].0.thread.load(Ordering::Relaxed));
    }

    pub fn begins(&self, number: usize) {
        self.members[number].0.in_task.store(true, Ordering::Relaxed);
    }

    pub fn ends(&self, number: usize) {
        self.members[number].0.in_task.store(false, Ordering::SeqCst);
    }

    /// Goes home, if this member was moved.
    pub fn returns(&self, number: usize) {
        if self.members[number].0.moved.load(Ordering::SeqCst) && self.members[number].0.moved.swap(false, Ordering::SeqCst) {
            self.send_home(number);
        }
    }

    /// Moves a member that is in a task and gets no processor time to the processor of this thread, which is member `own` and is about
    /// to sleep. Gives up as soon as there is nothing to wait for.
    pub fn rescue(&self, own: usize, over: &dyn Fn() -> bool) {
        if !self.busy.swap(true, Ordering::Acquire) {
            if let Some(still) = self.still(own, over) {
                self.fetch(still, own);
            }
            self.busy.store(false, Ordering::Release);
        }
    }

    /// A member in a task that gets no processor time.
    fn still(&self, own: usize, over: &dyn Fn() -> bool) -> Option<usize> {
        let in_task = |number: &usize| *number != own && self.members[*number].0.in_task.load(Ordering::SeqCst);
        let mut before = [(0, None); LOOKED_AT_MAX];
        for (seen, number) in before.iter_mut().zip((0..self.members.len()).filter(in_task)) {
            *seen = (number, self.ran_ns(number));
        }
        let began = Instant::now();
        while began.elapsed() < STILL {
            if over() {
                return None;
            }
            std::hint::spin_loop();
        }
        let still = |(number, ran): &&(usize, Option<i64>)| ran.is_some() && in_task(number) && self.ran_ns(*number) == *ran;
        before.iter().find(still).map(|(number, _)| *number)
    }

    /// Moves a member to the processor that this thread runs on.
    fn fetch(&self, number: usize, own: usize) {
        let member = &self.members[number].0;
        let Some(here) = this_processor() else { return };
        member.moved.store(true, Ordering::SeqCst);
        let (theirs, ours) = (&member.home, &self.members[own].0.home);
        if number == 0 && member.stays.load(Ordering::Relaxed) && theirs.load(Ordering::Relaxed) != NONE {
            let home = theirs.swap(ours.load(Ordering::Relaxed), Ordering::Relaxed);
            ours.store(home, Ordering::Relaxed);
            self.send_home(number);
            self.send_home(own);
        } else {
            restrict(member.thread.load(Ordering::Relaxed), &set_of(here));
        }
        // Its task may be over by now: then it looked whether it was moved, before it was.
        if !member.in_task.load(Ordering::SeqCst) && member.moved.swap(false, Ordering::SeqCst) {
            self.send_home(number);
        }
    }

    /// Restricts a member to its own processor, or to where it may run at all.
    fn send_home(&self, number: usize) {
        let member = &self.members[number].0;
        match member.home.load(Ordering::Relaxed) {
            home if home == NONE || !member.stays.load(Ordering::Relaxed) => self.free(member.thread.load(Ordering::Relaxed)),
            home => restrict(member.thread.load(Ordering::Relaxed), &set_of(home)),
        }
    }

    fn free(&self, thread: libc::pid_t) {
        if let Some(allowed) = &self.allowed
            && thread != NONE
        {
            restrict(thread, allowed);
        }
    }

    /// Processor time of a member so far, in nanoseconds; what it gets right now is counted too.
    fn ran_ns(&self, number: usize) -> Option<i64> {
        /// The kernel's name for a thread's clock: the complement of its id, and which of its clocks (`CPUCLOCK_PERTHREAD_MASK |
        /// CPUCLOCK_SCHED` of Linux' `posix-timers_types.h`).
        const SCHED: libc::clockid_t = 6;
        let clock = !self.members[number].0.thread.load(Ordering::Relaxed) << 3 | SCHED;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the structure is ours. A thread that is gone has no clock, which the result says.
        (unsafe { libc::clock_gettime(clock, &mut time) } == 0).then_some(time.tv_sec * 1_000_000_000 + time.tv_nsec)
    }
}

fn empty() -> libc::cpu_set_t {
    // SAFETY: the set is plain bits, and none set is a valid one.
    unsafe { std::mem::zeroed() }
}

/// The set of one processor, whose number is below `CPU_SETSIZE`.
fn set_of(processor: i32) -> libc::cpu_set_t {
    let mut set = empty();
    // SAFETY: the set is ours and has this bit: numbers come from `processors` and `this_processor`.
    unsafe { libc::CPU_SET(processor as usize, &mut set) };
    set
}

fn processors(set: &libc::cpu_set_t) -> Vec<i32> {
    // SAFETY: the set is ours and has these bits.
    (0..libc::CPU_SETSIZE).filter(|processor| unsafe { libc::CPU_ISSET(*processor as usize, set) }).collect()
}

fn this_processor() -> Option<i32> {
    // SAFETY: takes nothing.
    let processor = unsafe { libc::sched_getcpu() };
    (0..libc::CPU_SETSIZE).contains(&processor).then_some(processor)
}

/// Where a thread may run; 0 is this one.
fn affinity_of(thread: libc::pid_t) -> Option<libc::cpu_set_t> {
    let mut set = empty();
    // SAFETY: the set is ours, of the size that is given.
    (unsafe { libc::sched_getaffinity(thread, size_of_val(&set), &mut set) } == 0).then_some(set)
}

fn restrict(thread: libc::pid_t, set: &libc::cpu_set_t) {
    // SAFETY: the set is ours, of the size that is given. An error changes nothing.
    unsafe { libc::sched_setaffinity(thread, size_of_val(set), set) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many threads as processors: each has its own; the caller has all again when the pool is gone.
    #[test]
    fn each_thread_has_its_own_processor() {
        let allowed = processors(&affinity_of(0).expect("this thread has an affinity"));
        let crew = Crew::new(allowed.len());
        crew.join(0, true);
        let joined = processors(&affinity_of(0).expect("as before"));
        crew.disband();
        let freed = processors(&affinity_of(0).expect("as before"));
        assert_eq!((joined.len(), freed), (if allowed.len() > 1 { 1 } else { allowed.len() }, allowed));
    }

    /// A thread that sleeps in what it says is a task gets no processor time, and is moved here; one that computes is not.
    #[test]
    fn who_gets_no_processor_time_is_moved() {
        for computes in [false, true] {
            let crew = Crew::new(3);
            crew.join(0, true);
            let (joined, done) = (AtomicBool::new(false), AtomicBool::new(false));
            std::thread::scope(|scope| {
                let worker = scope.spawn(|| {
                    crew.join(1, true);
                    crew.begins(1);
                    joined.store(true, Ordering::SeqCst);
                    while !done.load(Ordering::SeqCst) {
                        if !computes {
                            std::thread::park();
                        }
                    }
                    let moved = crew.members[1].0.moved.load(Ordering::SeqCst);
                    let only = processors(&affinity_of(0).expect("this thread has an affinity")).len();
                    crew.ends(1);
                    crew.returns(1);
                    (moved, only, crew.members[1].0.moved.load(Ordering::SeqCst))
                });
                while !joined.load(Ordering::SeqCst) {
                    std::hint::spin_loop();
                }
                // The worker may be on its way to sleep, or wait for a processor on a busy machine: it will be seen to stand still.
                while !computes && !crew.members[1].0.moved.load(Ordering::SeqCst) {
                    crew.rescue(0, &|| false);
                }
                done.store(true, Ordering::SeqCst);
                worker.thread().unpark();
                let (moved, only, after) = worker.join().expect("the worker does not panic");
                assert!(moved != computes && !after, "computes: {computes}");
                assert!(computes || only == 1);
            });
            crew.disband();
        }
    }
}
