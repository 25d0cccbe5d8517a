//! Token for token what Hugging Face transformers answers in f32: every committed checkpoint, every instruction set of this machine.

use std::path::Path;

use engine_cpu::{CpuOptions, Isa};

use crate::checkpoints::{checkpoints, load};
use crate::support::{Golden, generate, options};

fn check(model: &Path, isa: Isa) {
    let golden = Golden::read(&model.join("golden.json"));
    let mut backend = load(model, &CpuOptions { isa: Some(isa), ..options() });
    let got = generate(&mut backend, &golden.requests(), usize::MAX);
    for (case, got) in golden.cases.iter().zip(got) {
        assert_eq!(got, case.output_ids, "{} on {isa}, prompt {:?}, smallest gap {}", model.display(), case.prompt, case.min_gap);
    }
}

#[test]
fn answers_are_those_of_transformers() {
    let models = checkpoints();
    assert!(models.len() >= 30, "checkpoints are missing: {models:?}");
    for model in models {
        for isa in Isa::available() {
            check(&model, isa);
        }
    }
}
