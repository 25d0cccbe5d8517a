//! What this machine can do at most, for a roofline: `bandwidth [--threads N] [--mib N] [--repeats N]`.
//!
//! Prints one JSON line: the best of the repeats of reading memory that no cache holds, in GB/s, and of f32 multiply-adds on registers, in
//! GFLOP/s (absent without AVX2). Reads as fast as anything may: each thread its own contiguous part in one, two, three or four streams side by
//! side, huge pages where the kernel gives them, with and without prefetching, whichever is fastest.

use std::error::Error;
use std::hint::black_box;
use std::thread;
use std::time::Instant;

/// One region of memory outside the allocator, asked to be of huge pages.
struct Region {
    start: *mut u64,
    words: usize,
}

impl Region {
    fn new(bytes: usize) -> Result<Self, Box<dyn Error>> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping of no fixed address touches nothing of anybody.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().into());
        }
        // SAFETY: the range was mapped above; the advice may be refused without harm.
        unsafe { libc::madvise(start, bytes, libc::MADV_HUGEPAGE) };
        Ok(Self { start: start.cast(), words: bytes / 8 })
    }

    fn words(&mut self) -> &mut [u64] {
        // SAFETY: mapped for that many words, zeroed by the kernel, owned by this value until it is dropped.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.words) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped, borrowed by nobody any more.
        unsafe { libc::munmap(self.start.cast(), self.words * 8) };
    }
}

/// How a thread reads its part.
#[derive(Clone, Copy)]
struct Way {
    /// 1 ..= 4.
    streams: usize,
    prefetch: Option<usize>,
}

/// Sum of all words, by the widest loads there are.
fn sum(words: &[u64], way: Way) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the instructions are there.
        return unsafe {
            match way.streams {
                1 => avx2::sum::<1>(words, way.prefetch),
                2 => avx2::sum::<2>(words, way.prefetch),
                3 => avx2::sum::<3>(words, way.prefetch),
                _ => avx2::sum::<4>(words, way.prefetch),
            }
        };
    }
    let _ = way;
    let mut lanes = [0u64; 16];
    for chunk in words.chunks_exact(16) {
        lanes.iter_mut().zip(chunk).for_each(|(lane, word)| *lane = lane.wrapping_add(*word));
    }
    lanes.iter().fold(0, |all, lane| all.wrapping_add(*lane))
}

/// Multiply-adds on registers alone: the number of operations, each counted as two.
fn multiply_add(rounds: usize) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the instructions are there.
        return Some(unsafe { avx2::multiply_add(rounds) });
    }
    let _ = rounds;
    None
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    //! 256-bit loads and multiply-adds.
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// `S` equal stretches of the words, side by side; `prefetch` so many bytes ahead.
    #[target_feature(enable = "avx2")]
    pub fn sum<const S: usize>(words: &[u64], prefetch: Option<usize>) -> u64 {
        const VECTORS: usize = 4;
        const CHUNK: usize = VECTORS * 4;
        let each = words.len() / S / CHUNK * CHUNK;
        let mut lanes = [[_mm256_setzero_si256(); VECTORS]; S];
        for at in (0..each).step_by(CHUNK) {
            for (stream, lanes) in lanes.iter_mut().enumerate() {
                let start = words[stream * each + at..][..CHUNK].as_ptr();
                if let Some(ahead) = prefetch {
                    for line in 0..2 {
                        // A prefetch of any address faults never.
                        _mm_prefetch::<_MM_HINT_T0>(start.cast::<i8>().wrapping_add(ahead + line * 64));
                    }
                }
                for (i, lane) in lanes.iter_mut().enumerate() {
                    // SAFETY: the chunk has 16 words, four vectors of four.
                    let vector = unsafe { _mm256_loadu_si256(start.add(i * 4).cast()) };
                    *lane = _mm256_add_epi64(*lane, vector);
                }
            }
        }
        let mut words = [0u64; 4];
        let all = lanes.into_iter().flatten().fold(_mm256_setzero_si256(), |all, lane| _mm256_add_epi64(all, lane));
        // SAFETY: four words are 32 bytes.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), all) };
        words.iter().fold(0, |all, word| all.wrapping_add(*word))
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn multiply_add(rounds: usize) -> f64 {
        // Ten chains of eight lanes hide the latency of any core with two units.
        let (scale, step) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        let mut lanes = [_mm256_set1_ps(black_box(1.0)); 10];
        for _ in 0..rounds {
            lanes.iter_mut().for_each(|lane| *lane = _mm256_fmadd_ps(*lane, scale, step));
        }
        black_box(lanes);
        (rounds * lanes.len() * 8 * 2) as f64
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut threads, mut mib, mut repeats) = (1, 1024, 2);
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let value: usize = given.next().ok_or_else(|| format!("{name} wants a value"))?.parse()?;
        match name.as_str() {
            "--threads" => threads = value.max(1),
            "--mib" => mib = value.max(1),
            "--repeats" => repeats = value.max(1),
            _ => return Err(format!("{name} is none of --threads, --mib, --repeats").into()),
        }
    }
    let bytes = mib << 20;
    let mut region = Region::new(bytes)?;
    let words = region.words();
    words.iter_mut().enumerate().for_each(|(i, word)| *word = i as u64);
    let part = words.len().div_ceil(threads);
    let mut read_gb_s = 0.0f64;
    let ways = (1..=4).flat_map(|streams| [None, Some(512), Some(4096)].map(|prefetch| Way { streams, prefetch }));
    for way in ways.cycle().take(12 * repeats) {
        let begun = Instant::now();
        thread::scope(|scope| words.chunks(part).for_each(|part| drop(scope.spawn(move || black_box(sum(part, way))))));
        read_gb_s = read_gb_s.max(bytes as f64 / 1e9 / begun.elapsed().as_secs_f64());
    }
    let mut f32_gflop_s = None;
    for _ in 0..repeats {
        let begun = Instant::now();
        let done: Option<f64> = thread::scope(|scope| {
            let each: Vec<_> = (0..threads).map(|_| scope.spawn(|| multiply_add(10_000_000))).collect();
            each.into_iter().map(|thread| thread.join().ok().flatten()).sum()
        });
        let rate = done.map(|done| done / 1e9 / begun.elapsed().as_secs_f64());
        f32_gflop_s = f32::max(f32_gflop_s.unwrap_or(0.0), rate.unwrap_or(0.0) as f32).into();
    }
    let flops = f32_gflop_s.filter(|rate: &f32| *rate > 0.0).map_or("null".into(), |rate| format!("{rate:.1}"));
    println!("{{\"threads\":{threads},\"read_gb_s\":{read_gb_s:.2},\"f32_gflop_s\":{flops}}}");
    Ok(())
}
