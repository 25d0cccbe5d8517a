//! Threads that compute masks while the engine computes logits.
//!
//! A job that no thread has taken when its result is wanted is done by who wants it: with no thread free, or none at all, masks are
//! late and never missing.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Where a job's owner and a worker meet.
pub struct Desk<T> {
    slot: Mutex<Slot<T>>,
    done: Condvar,
}

enum Slot<T> {
    /// Nothing lies here.
    Empty,
    /// To be done.
    Open(T),
    /// A worker has it.
    Taken,
    Done(T),
}

/// What a worker does.
pub trait Job: Send + 'static {
    fn work(&mut self);
}

impl<T: Job> Desk<T> {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { slot: Mutex::new(Slot::Empty), done: Condvar::new() })
    }

    fn put(&self, slot: Slot<T>) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = slot;
    }

    /// Takes what is open and does it.
    fn serve(&self) {
        let job = {
            let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
            match std::mem::replace(&mut *slot, Slot::Taken) {
                Slot::Open(job) => job,
                other => {
                    *slot = other;
                    return;
                }
            }
        };
        // If the work panics, what was taken is gone, and who waits is told so.
        let guard = Lost(self);
        let mut job = job;
        job.work();
        std::mem::forget(guard);
        self.put(Slot::Done(job));
        self.done.notify_all();
    }

    /// The job, done: by a worker, or here if none has begun. `None`: it was lost.
    pub fn take(&self) -> Option<T> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match std::mem::replace(&mut *slot, Slot::Empty) {
                Slot::Empty => return None,
                Slot::Done(job) => return Some(job),
                Slot::Open(mut job) => {
                    drop(slot);
                    job.work();
                    return Some(job);
                }
                Slot::Taken => {
                    *slot = Slot::Taken;
                    slot = self.done.wait(slot).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

struct Lost<'a, T: Job>(&'a Desk<T>);

impl<T: Job> Drop for Lost<'_, T> {
    fn drop(&mut self) {
        self.0.put(Slot::Empty);
        self.0.done.notify_all();
    }
}

/// Some threads. They end with the last of the pool's handles.
#[derive(Debug)]
pub struct Workers<T: Job> {
    sender: Sender<Arc<Desk<T>>>,
}

impl<T: Job> Clone for Workers<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone() }
    }
}

impl<T: Job> Workers<T> {
    /// Starts `threads` of them; fewer where the system gives no more.
    pub fn start(threads: usize) -> Self {
        let (sender, receiver) = channel::<Arc<Desk<T>>>();
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..threads {
            let receiver = Arc::clone(&receiver);
            let body = move || {
                while let Some(desk) = next(&receiver) {
                    // A panic is the job's alone.
                    drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| desk.serve())));
                }
            };
            if let Err(error) = std::thread::Builder::new().name("grammar-mask".into()).spawn(body) {
                tracing::warn!(%error, "a thread for grammar masks could not be started; masks are computed where they are wanted");
            }
        }
        Self { sender }
    }

    /// Lays a job on its desk. Every desk has one job at a time, so the queue is as long as there are requests.
    pub fn begin(&self, desk: &Arc<Desk<T>>, job: T) {
        desk.put(Slot::Open(job));
        // Without threads the job waits for who wants it.
        drop(self.sender.send(Arc::clone(desk)));
    }
}

fn next<T: Job>(receiver: &Mutex<Receiver<Arc<Desk<T>>>>) -> Option<Arc<Desk<T>>> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Double(u32);

    impl Job for Double {
        fn work(&mut self) {
            assert!(self.0 != 13, "unlucky");
            self.0 *= 2;
        }
    }

    #[test]
    fn every_job_is_done_once_with_any_number_of_threads() {
        for threads in [0, 1, 4] {
            let workers = Workers::start(threads);
            let desks: Vec<_> = (0..100).map(|_| Desk::new()).collect();
            for round in 0..10 {
                desks.iter().zip(100..).for_each(|(desk, number)| workers.begin(desk, Double(number + round)));
                for (desk, number) in desks.iter().zip(100u32..) {
                    assert_eq!(desk.take().map(|job| job.0), Some(2 * (number + round)), "{threads} threads");
                }
            }
            assert!(desks[0].take().is_none(), "nothing was begun");
        }
    }

    #[test]
    fn a_panic_loses_its_job_alone() {
        let workers = Workers::start(1);
        let (bad, good) = (Desk::new(), Desk::new());
        workers.begin(&bad, Double(13));
        workers.begin(&good, Double(4));
        assert_eq!(good.take().map(|job| job.0), Some(8));
        let lost = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bad.take().is_none()));
        assert!(lost.unwrap_or(true));
    }
}
