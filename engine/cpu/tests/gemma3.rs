//! Gemma 3 270M from its Q4_K_M file: 9 prompts, one beyond the window, 32 greedy tokens each, as transformers answers with the weights
//! dequantised. `TRACKSIDE_GEMMA3` names the file; `tests/real` fetches it.

#[path = "tiny/support.rs"]
mod support;

use std::path::Path;

use engine_cpu::CpuOptions;

use support::{Golden, fixtures, generate, load_file, options};

#[test]
fn gemma3_answers_as_transformers_does() {
    let Some(model) = std::env::var_os("TRACKSIDE_GEMMA3") else {
        println!("skipped: TRACKSIDE_GEMMA3 does not name gemma-3-270m-q4_k_m.gguf");
        return;
    };
    let golden = Golden::read(&fixtures().join("gemma3/golden.json"));
    assert_eq!(golden.cases.len(), 9);
    let mut backend = load_file(Path::new(&model), &CpuOptions { slots: 9, ..options() });
    let got = generate(&mut backend, &golden.requests(), usize::MAX);
    for (case, got) in golden.cases.iter().zip(got) {
        assert_eq!(case.top5.len(), case.output_ids.len(), "a golden tells of each token");
        assert_eq!(got, case.output_ids, "prompt {:?}, smallest gap {}", case.prompt, case.min_gap);
    }
}
