//! Every kernel on a GPU: `cargo test -p engine-cuda --test gpu` is the command for when one is at hand. Without one, the tests hold the crate to saying what
//! is absent, and print it. `TRACKSIDE_GPU=required` makes absence a failure.

use std::io::Write as _;
use std::path::Path;
use std::sync::Once;

use domain::{Fault, FaultKind};
use engine_cuda::{Error, inspect, rms_norm, selftest_rms_norm};

/// Two results in f32 may each be off by some units in the last place (6e-8), as their sums have different orders; what is wrong is off by far more.
const RELATIVE_ERROR_MAX: f64 = 4e-6;

/// Prints past the test harness, which would keep it to itself in a test that passes.
fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).expect("there is a standard error");
}

/// The number of GPUs that can be used; 0 only where an independent look finds no reason to expect one.
fn gpus() -> usize {
    static SAID: Once = Once::new();
    let report = inspect();
    SAID.call_once(|| say(&report.to_string()));
    let count = report.devices().len();
    if count > 0 && report.compiler.is_ok() {
        return count;
    }
    assert_ne!(std::env::var("TRACKSIDE_GPU").as_deref(), Ok("required"), "{report}");
    assert!(report.compiler.is_err() || !Path::new("/dev/nvidia0").exists(), "a GPU's device file, and no GPU: {report}");
    0
}

#[test]
fn rms_norm_is_the_hosts() {
    for device in 0..gpus() {
        // One element, less than a warp, a whole block, more than a block and not a multiple, Llama's sizes, many rows.
        for (rows, columns) in [(1, 1), (3, 31), (2, 256), (5, 1000), (4, 4096), (2, 14336), (20_000, 64)] {
            let error =
                selftest_rms_norm(device, rows, columns, 42).unwrap_or_else(|error| panic!("{error}; {}", error.action()));
            writeln!(std::io::stderr(), "GPU {device}: rms_norm {rows} x {columns}: {error:?}")
                .expect("there is a standard error");
        }
    }
}

#[test]
fn rms_norm_is_the_cpu_backends() {
    let (input, weight) = rows();
    for device in 0..gpus() {
        let out = rms_norm(device, &input, &weight, 1e-5).unwrap_or_else(|error| panic!("{error}; {}", error.action()));
        for isa in engine_cpu::Isa::available() {
            let expected = engine_cpu::oracle::rms_norm(isa, &input, &weight, 1e-5);
            close(&out, &expected, &format!("GPU {device} and the CPU's {isa}"));
        }
    }
}

#[test]
fn the_cpu_backend_is_a_reference_on_every_machine() {
    // What the GPU is held against is itself right: by hand, then one instruction set against the other.
    let (input, weight) = rows();
    let reference = engine_cpu::oracle::rms_norm(engine_cpu::Isa::Portable, &input, &weight, 1e-5);
    for isa in engine_cpu::Isa::available() {
        // Mean of squares 12.5: 3 / sqrt(12.5) and 10 * 4 / sqrt(12.5).
        close(&engine_cpu::oracle::rms_norm(isa, &[3.0, 4.0], &[1.0, 10.0], 0.0), &[0.848_528_14, 11.313_708], &isa.to_string());
        close(&engine_cpu::oracle::rms_norm(isa, &input, &weight, 1e-5), &reference, &isa.to_string());
    }
}

/// Eight rows of 1,000 numbers, and a weight.
fn rows() -> (Vec<f32>, Vec<f32>) {
    let input = (0..8000).map(|at| (at as f32 * 0.37).sin() * (1 + at / 1000) as f32).collect();
    (input, (0..1000).map(|column| 1.0 + column as f32 / 1000.0).collect())
}

fn close(out: &[f32], expected: &[f32], of: &str) {
    assert_eq!(out.len(), expected.len(), "{of}");
    for (at, (out, expected)) in out.iter().zip(expected).enumerate() {
        let error = f64::from((out - expected).abs());
        assert!(error <= RELATIVE_ERROR_MAX * f64::from(expected.abs()), "{of}: {out} is not {expected} at {at}");
    }
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    for device in 0..gpus() {
        let row: Vec<f32> = (0..1000).map(|column| (column as f32 * 0.37).sin()).collect();
        let weight: Vec<f32> = (0..1000).map(|column| 1.0 + column as f32 / 1000.0).collect();
        let alone = rms_norm(device, &row, &weight, 1e-5).expect("it runs");
        let among: Vec<f32> = (0..64).flat_map(|copy| if copy == 33 { row.clone() } else { vec![copy as f32; 1000] }).collect();
        let among = rms_norm(device, &among, &weight, 1e-5).expect("it runs");
        assert_eq!(among[33_000..34_000], alone, "to the bit");
    }
}

#[test]
fn a_gpu_that_is_not_there_is_said_to_be() {
    let count = gpus();
    let error = rms_norm(count + 7, &[1.0], &[1.0], 0.0).expect_err("there is no such GPU");
    match (&error, inspect().driver) {
        (Error::NoDevice { index, count: said }, Ok(driver)) => assert_eq!((*index, *said), (count + 7, driver.devices.len())),
        (Error::Absent { library, tried, reason }, Err(_)) => {
            assert!(
                library.contains("libcuda") && tried.iter().any(|name| name == "libcuda.so.1") && !reason.is_empty(),
                "{error}"
            );
        }
        (_, driver) => assert_eq!(driver.as_ref().err(), Some(&error), "the report and the call say the same"),
    }
    let Fault { kind, what, action, .. } = Fault::from(error.clone());
    assert_eq!((kind, what.as_str(), action.as_str()), (FaultKind::Device, error.to_string().as_str(), error.action().as_str()));
    assert!(!action.is_empty());
}
