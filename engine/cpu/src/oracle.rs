//! Single kernels of the CPU backend as safe functions, for whoever holds another device's kernels against them, and the cost of its pool.

use std::time::{Duration, Instant};

use crate::kernel::elementwise::RmsNorm;
use crate::kernel::{Isa, Kernels};
use crate::pool::Pool;

/// Norms rows of `weight.len()` values: `x * weight / sqrt(mean(x²) + epsilon)`, as the backend does with this instruction set.
///
/// # Panics
/// If `input` is not whole rows, or this machine lacks the instruction set.
pub fn rms_norm(isa: Isa, input: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    let kernel = Kernels::of(isa).expect("the caller asks for what `Isa::available` gave").rms_norm;
    let len = weight.len();
    assert!(len > 0 && input.len().is_multiple_of(len), "{} values in rows of {len}", input.len());
    let mut out = vec![0.0; input.len()];
    for (x, out) in input.chunks_exact(len).zip(out.chunks_exact_mut(len)) {
        let args = RmsNorm { x: x.as_ptr(), weight: weight.as_ptr(), epsilon, out: out.as_mut_ptr(), len };
        // SAFETY: the three have `len` values, only `out` is written and it is ours, and the machine has the instruction set.
        unsafe { kernel(&args) };
    }
    out
}

/// How long an operation of `tasks` empty tasks takes on a pool of `threads`, on average over `count` of them, `pause` apart: what dividing an
/// operation costs. After a pause longer than threads spin, they are woken.
///
/// # Errors
/// The system starts no more threads.
pub fn operation_overhead(threads: usize, tasks: usize, count: u32, pause: Duration) -> std::io::Result<Duration> {
    let mut pool = Pool::new(threads)?;
    let mut total = Duration::ZERO;
    for _ in 0..count {
        let pausing = Instant::now();
        while pausing.elapsed() < pause {
            std::hint::spin_loop();
        }
        let began = Instant::now();
        pool.run(tasks, &|task, _| {
            std::hint::black_box(task);
        });
        total += began.elapsed();
    }
    Ok(total / count.max(1))
}
