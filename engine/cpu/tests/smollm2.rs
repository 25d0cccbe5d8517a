//! SmolLM2-135M-Instruct from its Q4_1 file: 20 prompts, up to 64 greedy tokens each, as transformers answers with the weights
//! dequantised. `TRACKSIDE_SMOLLM2` names the file; `tests/real` fetches it.

#[path = "tiny/support.rs"]
mod support;

use std::path::Path;

use engine_cpu::CpuOptions;

use support::{Golden, fixtures, generate, load_file, options};

#[test]
fn smollm2_answers_as_transformers_does() {
    let Some(model) = std::env::var_os("TRACKSIDE_SMOLLM2") else {
        println!("skipped: TRACKSIDE_SMOLLM2 does not name SmolLM2-135M-Instruct.Q4_1.gguf");
        return;
    };
    let golden = Golden::read(&fixtures().join("smollm2/golden.json"));
    assert_eq!(golden.cases.len(), 20);
    let mut backend = load_file(Path::new(&model), &CpuOptions { slots: 20, ..options() });
    let got = generate(&mut backend, &golden.requests(), usize::MAX);
    for (case, got) in golden.cases.iter().zip(got) {
        assert_eq!(case.top5.len(), case.output_ids.len(), "a golden tells of each token");
        assert_eq!(got, case.output_ids, "prompt {:?}, smallest gap {}", case.prompt, case.min_gap);
    }
}
