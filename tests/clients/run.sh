#!/usr/bin/env bash
# The `clients` lane: OpenAI's Python client, a msgspec/pyzmq subscriber and Prometheus' own parser against the real binary.
#
#   tests/clients/run.sh [pytest arguments]     TRACKSIDE=path takes a binary that is built already
set -euo pipefail
cd "$(dirname "$0")/../.."
lane=$PWD/tests/clients
venv=$PWD/target/clients-venv

if [[ -z ${TRACKSIDE:-} ]]; then
    cargo build --locked --package trackside
    TRACKSIDE=${CARGO_TARGET_DIR:-$PWD/target}/debug/trackside
fi
[[ -x $TRACKSIDE ]] || { echo "clients: no binary at $TRACKSIDE" >&2; exit 1; }
export TRACKSIDE

# The environment is made once for each set of pins.
stamp=$venv/pins
if ! cmp -s "$lane/requirements.txt" "$stamp"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$lane/requirements.txt"
    cp "$lane/requirements.txt" "$stamp"
fi
# vLLM's protocol modules are some of a large wheel; their tests run where somebody has fetched them (tests/clients/fetch-vllm.sh).
kept=$PWD/target/vllm-0.33.0
if [[ -z ${VLLM:-} && -d $kept ]]; then export VLLM=$kept; fi
exec "$venv/bin/python" -m pytest -q -p no:cacheprovider "$lane" "$@"
