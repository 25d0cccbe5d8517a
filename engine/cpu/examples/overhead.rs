//! What it costs to divide an operation among threads: `overhead [THREADS]`, 2 if not given. Prints microseconds per operation of empty
//! tasks, for threads that are awake and for threads that sleep.

use std::error::Error;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let threads = std::env::args().nth(1).map_or(Ok(2), |threads| threads.parse())?;
    for (name, pause, count) in [("awake", Duration::ZERO, 20_000), ("asleep", Duration::from_micros(200), 2000)] {
        for tasks in [2, 8, 32] {
            let took = engine_cpu::oracle::operation_overhead(threads, tasks, count, pause)?;
            println!(
                "{{\"threads\":{threads},\"workers\":\"{name}\",\"tasks\":{tasks},\"operation_us\":{:.2}}}",
                took.as_secs_f64() * 1e6
            );
        }
    }
    Ok(())
}
