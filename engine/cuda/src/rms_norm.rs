//! RMS norm on a GPU, and the same on the host to hold it against.

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg as _};
use cudarc::nvrtc::Ptx;

use crate::device::Driver;
use crate::kernel::RMS_NORM;
use crate::{Error, compile};

/// Threads of a block, as in `kernels/rms_norm.cu`.
const THREADS: u32 = 256;

/// Most elements of a self-test: 1 GiB of f32 in and as much out.
const SELFTEST_ELEMENTS_MAX: usize = 1 << 28;

/// A sum of a row's squares in f32, in the kernel's order, is off by some units in the last place (6e-8); what is wrong is off by far more.
const SELFTEST_RELATIVE_ERROR_MAX: f64 = 2e-6;

/// A usual value: Llama's.
const SELFTEST_EPSILON: f32 = 1e-5;

/// The largest differences between a device's result and the host's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaxError {
    /// Of any element.
    pub absolute: f64,
    /// Of any element, divided by the host's value of it; of elements that are 0 on the host, the absolute one.
    pub relative: f64,
}

/// Norms `input`, rows of `weight.len()` elements, on a device: `x * weight / sqrt(mean(x²) + epsilon)` in f32, each row by itself.
///
/// Compiles the kernel and moves everything to the device and back: it is here to be compared with, not to be fast.
pub fn rms_norm(device: usize, input: &[f32], weight: &[f32], epsilon: f32) -> Result<Vec<f32>, Error> {
    let shape = |what: &str| Error::Shape { what: format!("{what}: {} elements in rows of {}", input.len(), weight.len()) };
    if input.is_empty() || weight.is_empty() || !input.len().is_multiple_of(weight.len()) {
        return Err(shape("rms_norm takes whole rows, at least one"));
    }
    let columns = u32::try_from(weight.len()).map_err(|_| shape("rms_norm takes rows of less than 2^32 elements"))?;
    let rows = i32::try_from(input.len() / weight.len()).map_err(|_| shape("rms_norm takes less than 2^31 rows"))?.unsigned_abs();

    let arch = Driver::find()?.device(device)?.arch;
    let cubin = compile(RMS_NORM, arch)?;
    let context = CudaContext::new(device).map_err(Error::driver("open the device"))?;
    let stream = context.default_stream();
    let module = context.load_module(Ptx::from_binary(cubin)).map_err(Error::driver("load the kernel's code"))?;
    let function = module.load_function(RMS_NORM.name).map_err(Error::driver("find the kernel in its code"))?;
    let on_device = |host: &[f32]| stream.clone_htod(host).map_err(Error::driver("copy to the device"));
    let (input_there, weight_there) = (on_device(input)?, on_device(weight)?);
    let mut out = stream.alloc_zeros::<f32>(input.len()).map_err(Error::driver("allocate on the device"))?;

    let mut launch = stream.launch_builder(&function);
    launch.arg(&mut out).arg(&input_there).arg(&weight_there).arg(&columns).arg(&epsilon);
    let grid = LaunchConfig { grid_dim: (rows, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the arguments are in number, order and type the kernel's. Block r reads `columns` weights and row r of the input, and writes row r of the
    // output: both have `rows` rows of `columns`. The arrays live until the copy below, which waits for the kernel on the same stream.
    unsafe { launch.launch(grid) }.map_err(Error::driver("launch the kernel"))?;
    stream.clone_dtoh(&out).map_err(Error::driver("run the kernel"))
}

/// Norms rows of made-up numbers on a device and on the host, in f64, and tells how far they are apart; further than rounding explains is
/// [`Error::Wrong`]. One `seed`, one set of numbers.
pub fn selftest_rms_norm(device: usize, rows: usize, columns: usize, seed: u64) -> Result<MaxError, Error> {
    if rows.checked_mul(columns).is_none_or(|elements| elements > SELFTEST_ELEMENTS_MAX) {
        return Err(Error::Shape {
            what: format!("a self-test of {rows} rows of {columns}: more than {SELFTEST_ELEMENTS_MAX} elements"),
        });
    }
    let mut numbers = numbers(seed);
    let input: Vec<f32> = numbers.by_ref().take(rows * columns).collect();
    let weight: Vec<f32> = numbers.take(columns).collect();
    let out = rms_norm(device, &input, &weight, SELFTEST_EPSILON)?;
    let error = max_error(&out, &on_host(&input, &weight, SELFTEST_EPSILON));
    if error.relative <= SELFTEST_RELATIVE_ERROR_MAX {
        return Ok(error);
    }
    let detail = format!(
        "{rows} rows of {columns}, relative error {:.1e}, at most {SELFTEST_RELATIVE_ERROR_MAX:.0e} is rounding",
        error.relative
    );
    Err(Error::Wrong { index: device, kernel: RMS_NORM.name, detail })
}

/// The same in f64, which is exact enough to judge f32 by.
fn on_host(input: &[f32], weight: &[f32], epsilon: f32) -> Vec<f64> {
    input
        .chunks_exact(weight.len())
        .flat_map(|row| {
            let squares: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
            let factor = 1.0 / (squares / row.len() as f64 + f64::from(epsilon)).sqrt();
            row.iter().zip(weight).map(move |(x, weight)| f64::from(*x) * factor * f64::from(*weight))
        })
        .collect()
}

fn max_error(out: &[f32], expected: &[f64]) -> MaxError {
    assert_eq!(out.len(), expected.len(), "a device gives as many elements as it was asked for");
    out.iter().zip(expected).fold(MaxError { absolute: 0.0, relative: 0.0 }, |worst, (out, expected)| {
        // What is not a number compares with nothing; it must not pass as no difference.
        let absolute = (f64::from(*out) - expected).abs();
        let absolute = if absolute.is_nan() { f64::INFINITY } else { absolute };
        let relative = if *expected == 0.0 { absolute } else { absolute / expected.abs() };
        MaxError { absolute: worst.absolute.max(absolute), relative: worst.relative.max(relative) }
    })
}

/// Numbers from -2 to 2 without end: SplitMix64 (Steele, Lea and Flood, 2014), its upper 24 bits.
fn numbers(seed: u64) -> impl Iterator<Item = f32> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 40) as f32 / (1 << 22) as f32 - 2.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_norms_as_worked_out_by_hand() {
        // Mean of squares 12.5, and with epsilon 0 the factor is 1 / sqrt(12.5) = 0.282842712...; the second row's mean is 1.
        let out = on_host(&[3.0, 4.0, -1.0, 1.0], &[1.0, 10.0], 0.0);
        let expected = [0.848_528_137_423_857, 11.313_708_498_984_76, -1.0, 10.0];
        for (out, expected) in out.iter().zip(expected) {
            assert!((out - expected).abs() < 1e-12, "{out} {expected}");
        }
    }

    #[test]
    fn an_error_is_the_worst_of_all_elements() {
        let check = |out: &[f32], expected: &[f64], absolute, relative| {
            assert_eq!(max_error(out, expected), MaxError { absolute, relative });
        };
        check(&[1.0, 2.0], &[1.0, 2.0], 0.0, 0.0);
        check(&[1.5, -8.0], &[1.0, -10.0], 2.0, 0.5);
        check(&[0.25], &[0.0], 0.25, 0.25);
        check(&[f32::NAN, 1.0], &[1.0, 1.0], f64::INFINITY, f64::INFINITY);
    }

    #[test]
    fn a_seed_gives_its_numbers() {
        // The first outputs of SplitMix64 for seed 0 are e220a8397b1dcdaf and 6e789e6aa1b965f4.
        let first: Vec<f32> = numbers(0).take(2).collect();
        assert_eq!(first, [0xe2_20a8 as f32 / 4_194_304.0 - 2.0, 0x6e_789e as f32 / 4_194_304.0 - 2.0]);
        assert!(numbers(7).take(10_000).all(|number| (-2.0..2.0).contains(&number)));
    }

    #[test]
    fn arrays_that_do_not_fit_are_refused_before_a_gpu_is_looked_for() {
        for (input, weight) in [(&[][..], &[1.0][..]), (&[1.0; 5][..], &[1.0; 2][..]), (&[1.0][..], &[][..])] {
            let error = rms_norm(0, input, weight, 0.0).expect_err("no whole rows");
            assert!(matches!(&error, Error::Shape { what } if what.contains("rows of")), "{error}");
        }
        assert!(matches!(selftest_rms_norm(0, usize::MAX, 2, 0), Err(Error::Shape { .. })));
    }
}
