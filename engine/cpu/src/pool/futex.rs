//! Sleeping on a word of memory, and waking who sleeps there (futex(2)).

use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Sleeps while the word is `value`, until woken or for `longest`. May return early.
pub(super) fn wait(word: &AtomicU32, value: u32, longest: Option<Duration>) {
    let time = longest.map(|longest| libc::timespec {
        tv_sec: libc::time_t::try_from(longest.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: longest.subsec_nanos().into(),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: word and time outlive the call, which only reads them. Any error means that the caller looks again.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, value, time) };
}

/// Wakes up to `count` of those who sleep on the word.
pub(super) fn wake(word: &AtomicU32, count: usize) {
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    // SAFETY: the call takes the word's address as a name and does not follow it.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, count) };
}
