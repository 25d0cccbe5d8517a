#!/usr/bin/env bash
# The `real` lane: SmolLM2-135M-Instruct (Q4_1) through the whole product and Gemma 3 270M (Q4_K_M) through the engine, token for token as
# Hugging Face transformers generates with the weights dequantised.
#
#   tests/real/run.sh      TRACKSIDE=path takes a binary that is built already
set -euo pipefail
cd "$(dirname "$0")/../.."

model=$(tests/real/fetch-smollm2.sh)
gemma3=$(tests/real/fetch-gemma3.sh)
# The tokenizers and the template by themselves first: a difference there would show everywhere else.
TRACKSIDE_SMOLLM2=$model TRACKSIDE_GEMMA3=$gemma3 cargo test --locked --package engine-text --package engine-cpu --test suite --test smollm2 --test gemma3 -- smollm2 gemma3
if [[ -z ${TRACKSIDE:-} ]]; then
    cargo build --locked --package trackside
    TRACKSIDE=${CARGO_TARGET_DIR:-$PWD/target}/debug/trackside
fi
[[ -x $TRACKSIDE ]] || { echo "real: no binary at $TRACKSIDE" >&2; exit 1; }
TRACKSIDE=$TRACKSIDE exec python3 tests/real/check.py "$model"
