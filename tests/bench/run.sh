#!/usr/bin/env bash
# All benchmarks, each written into docs/: builds Trackside for release and llama.cpp for this machine, makes the models, measures.
#
#   tests/bench/run.sh [engine|quality|load|fleet]... [-- options of engine.py]
#
# Hours of a quiet machine are not needed: about 40 minutes on two cores, once llama.cpp is built. What an interrupted run has measured is
# kept: give `-- --resume`.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=$PWD/target/bench-venv
parts=()
while [[ $# -gt 0 && $1 != -- ]]; do parts+=("$1"); shift; done
[[ ${1:-} == -- ]] && shift
[[ ${#parts[@]} -gt 0 ]] || parts=(engine quality load fleet)

if ! cmp -s tests/bench/requirements.txt "$venv/pins"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement tests/bench/requirements.txt
    cp tests/bench/requirements.txt "$venv/pins"
fi
python=$venv/bin/python

for part in "${parts[@]}"; do
    case $part in
    engine)
        cargo build --release --locked --package trackside --package engine-cpu --bins --example bandwidth
        "$python" tests/bench/engine.py --write "$@"
        ;;
    quality)
        cargo build --release --locked --package trackside --package engine-cpu --bins --example divergence
        "$python" tests/bench/quality.py --write
        ;;
    load)
        cargo build --release --locked --package trackside
        "$python" tests/bench/ledger.py --write
        ;;
    fleet)
        cargo build --release --locked --package tests --bins
        for bench in gateway agent up; do target/release/bench "$bench" --write; done
        ;;
    *)
        echo "no part $part; there are: engine quality load fleet" >&2
        exit 2
        ;;
    esac
done
