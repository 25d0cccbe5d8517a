#!/usr/bin/env bash
# Runs one fuzzer: tests/fuzz/run.sh gguf|safetensors|config|text_assets|chat_template|reply|request|kmsg [SECONDS]
#
# Needs a nightly Rust (or RUSTC_BOOTSTRAP=1) and a C++ compiler; not cargo-fuzz. New inputs and finds go to target/, not to corpus/.
set -euo pipefail
cd "$(dirname "$0")"
target=${1:?which fuzzer: $(ls fuzz_targets | sed 's/\.rs//' | tr '\n' ' ')}
seconds=${2:-300}

host=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    coverage+=" -Cllvm-args=-sanitizer-coverage-$option"
done
CARGO_TARGET_DIR=$PWD/target RUSTFLAGS="$coverage --cfg fuzzing" cargo +nightly build --locked --release --target "$host" --bin "$target"
mkdir -p "target/found/$target"
exec "target/$host/release/$target" "target/found/$target" "corpus/$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2500 \
    -artifact_prefix="target/found/$target-"
