#!/usr/bin/env bash
# The `parity` lane, outside the gate: makes the goldens anew with Hugging Face transformers and shows what changed.
#
#   tests/parity/run.sh [tiny] [architectures] [lora] [scripted] [smollm2]      default: all; 6 GB of disk for torch, some minutes
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=$PWD/target/parity-venv

stamp=$venv/pins
if ! cmp -s tests/parity/requirements.txt "$stamp"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement tests/parity/requirements.txt
    cp tests/parity/requirements.txt "$stamp"
fi
export OMP_NUM_THREADS=1                    # one order of summation on every machine
[[ $# -gt 0 ]] || set -- tiny architectures lora scripted smollm2
for goldens in "$@"; do
    case $goldens in
        tiny | architectures | lora | scripted) "$venv/bin/python" "tests/parity/$goldens.py" ;;
        smollm2) "$venv/bin/python" tests/parity/smollm2.py "$(tests/real/fetch-smollm2.sh)" ;;
        *) echo "parity: no goldens $goldens; there are: tiny architectures lora scripted smollm2" >&2; exit 2 ;;
    esac
done
git status --short tests/fixtures
git diff --stat -- tests/fixtures
