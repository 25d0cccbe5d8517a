//! The kernels through NVRTC, which needs no GPU. `tests/nvrtc/run.sh` brings the compiler and sets `TRACKSIDE_NVRTC=required`; where there is none, each test
//! says so and holds the crate to reporting it.

use std::io::Write as _;
use std::process::Command;
use std::sync::Once;

use engine_cuda::{Arch, Error, KERNELS, Kernel, compile, inspect};

/// What is supported: A100, L40S, H100 (and with its own instructions), B200.
const ARCHS: [&str; 5] = ["sm_80", "sm_89", "sm_90", "sm_90a", "sm_100"];

fn arch(text: &str) -> Arch {
    text.parse().expect("an architecture")
}

/// Whether NVRTC is here. If not, an independent look (the loader's own list) must agree, and the crate must say it properly.
fn present() -> bool {
    let error = match inspect().compiler {
        Ok(_) => return true,
        Err(error) => error,
    };
    static SAID: Once = Once::new();
    // Past the test harness, which would keep it to itself in a test that passes.
    SAID.call_once(|| {
        let line = format!("no NVRTC here: {error}; {}\n", error.action());
        std::io::stderr().write_all(line.as_bytes()).expect("there is a standard error");
    });
    assert_ne!(std::env::var("TRACKSIDE_NVRTC").as_deref(), Ok("required"), "the lane needs the compiler: {error}");
    let Error::Absent { library, tried, reason } = &error else { panic!("{error:?}") };
    assert!(library.contains("libnvrtc") && tried.iter().any(|name| name == "libnvrtc.so.12") && !reason.is_empty(), "{error}");
    let listed = Command::new("ldconfig").arg("-p").output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    assert!(!listed.is_ok_and(|listed| listed.contains("libnvrtc.so.12")), "the loader lists a compiler that was not found");
    // Asked again, it says the same and does not panic.
    assert_eq!(compile(KERNELS[0], arch("sm_90")), Err(error));
    false
}

#[test]
fn every_kernel_compiles_for_every_supported_architecture() {
    if !present() {
        return;
    }
    for kernel in KERNELS {
        for text in ARCHS {
            let cubin = compile(*kernel, arch(text)).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(cubin.first_chunk(), Some(b"\x7fELF"), "{} for {text}", kernel.name);
            // EM_CUDA, at the ELF header's e_machine.
            assert_eq!(cubin.get(18..20), Some(&190_u16.to_le_bytes()[..]), "{} for {text}", kernel.name);
            let name = kernel.name.as_bytes();
            assert!(
                cubin.windows(name.len()).any(|window| window == name),
                "the code for {text} has the function {}",
                kernel.name
            );
        }
    }
}

#[test]
fn architectures_differ_in_their_code() {
    if present() {
        assert_ne!(compile(KERNELS[0], arch("sm_80")), compile(KERNELS[0], arch("sm_90")));
    }
}

#[test]
fn a_broken_kernel_gives_the_compilers_words() {
    if !present() {
        return;
    }
    let broken = Kernel { name: "broken", source: "extern \"C\" __global__ void broken(float* x) {\n    *x = unheard_of;\n}\n" };
    let error = compile(broken, arch("sm_90")).expect_err("it does not compile");
    let Error::Compile { kernel, arch: of, log } = &error else { panic!("{error:?}") };
    assert_eq!((kernel.as_str(), *of), ("broken", arch("sm_90")));
    // Where (file and line) and what.
    assert!(log.contains("broken.cu(2)") && log.contains("unheard_of"), "{log}");
    assert!(error.to_string().contains("broken does not compile for sm_90"), "{error}");
}

#[test]
fn an_architecture_that_the_compiler_does_not_know_is_named() {
    if !present() {
        return;
    }
    let error = compile(KERNELS[0], arch("sm_20")).expect_err("long gone");
    assert!(matches!(&error, Error::UnknownArch { known, .. } if known.contains(&90)), "{error:?}");
    assert!(error.to_string().contains("makes no code for sm_20"), "{error}");
}
