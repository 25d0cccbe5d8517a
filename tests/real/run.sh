#!/usr/bin/env bash
# The `real` lane: SmolLM2-135M-Instruct through the whole product, token for token as Hugging Face transformers generates.
#
#   tests/real/run.sh      TRACKSIDE=path takes a binary that is built already
set -euo pipefail
cd "$(dirname "$0")/../.."

model=$(tests/real/fetch-smollm2.sh)
# The tokenizer and the template by themselves first: a difference there would show everywhere else.
TRACKSIDE_SMOLLM2=$model cargo test --locked --workspace --test suite --test smollm2 smollm2
if [[ -z ${TRACKSIDE:-} ]]; then
    cargo build --locked --package trackside
    TRACKSIDE=${CARGO_TARGET_DIR:-$PWD/target}/debug/trackside
fi
[[ -x $TRACKSIDE ]] || { echo "real: no binary at $TRACKSIDE" >&2; exit 1; }
TRACKSIDE=$TRACKSIDE exec python3 tests/real/check.py "$model"
