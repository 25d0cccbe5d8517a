#!/usr/bin/env bash
# The `parity` lane, outside the gate: makes the goldens anew with Hugging Face transformers and shows what changed.
#
#   tests/parity/run.sh [tiny] [architectures] [lora] [scripted] [text] [smollm2]      default: all; 6 GB of disk for torch, some minutes
#   LLAMA_CPP=DIR tests/parity/run.sh hub      chat templates and vocabularies of llama.cpp's source, which are not committed, against ours
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
[[ $# -gt 0 ]] || set -- tiny architectures lora scripted text smollm2
for goldens in "$@"; do
    case $goldens in
        tiny | architectures | lora | scripted) "$venv/bin/python" "tests/parity/$goldens.py" ;;
        text)
            for script in template_features template_families tool_history tokenizer_families sentence_piece; do
                "$venv/bin/python" "tests/parity/$script.py"
            done
            ;;
        hub)
            mkdir -p target/templates
            cp "${LLAMA_CPP:?names no folder of the source of llama.cpp}"/models/templates/*.jinja target/templates/
            "$venv/bin/python" tests/parity/template_families.py target/templates
            "$venv/bin/python" tests/parity/vocabularies.py "$LLAMA_CPP/models" target/vocabularies
            TRACKSIDE_TEMPLATES=$PWD/target/templates TRACKSIDE_VOCABULARIES=$PWD/target/vocabularies cargo test -p engine-text --test suite
            ;;
        smollm2) "$venv/bin/python" tests/parity/smollm2.py "$(tests/real/fetch-smollm2.sh)" ;;
        *) echo "parity: no goldens $goldens; there are: tiny architectures lora scripted text hub smollm2" >&2; exit 2 ;;
    esac
done
git status --short tests/fixtures engine/text/tests engine/serve/tests
git diff --stat -- tests/fixtures engine/text/tests engine/serve/tests
