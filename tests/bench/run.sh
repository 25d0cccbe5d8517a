#!/usr/bin/env bash
# All benchmarks, each written into docs/: builds Trackside for release and llama.cpp for this machine, makes the models, measures.
#
#   tests/bench/run.sh [--only PATTERN]... [--skip PATTERN]... [--list] [--again] [--no-write]     --help tells the rest
#
# Interrupted, it goes on where it was. What is worth writing down wants a quiet machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=$PWD/target/bench-venv

if ! cmp -s tests/bench/requirements.txt "$venv/pins"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement tests/bench/requirements.txt
    cp tests/bench/requirements.txt "$venv/pins"
fi
exec "$venv/bin/python" tests/bench/run.py "$@"
