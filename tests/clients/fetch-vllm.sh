#!/usr/bin/env bash
# Fetches vLLM's own protocol modules with this machine's `pip download` and prints their folder, for tests/clients/test_vllm.py.
#
#   tests/clients/fetch-vllm.sh [DEST]      DEST: a folder, default target/vllm-0.33.0
#
# The wheel is large (GPU kernels); only the modules that describe requests and answers are kept, and nothing is installed.
set -euo pipefail

version=0.33.0
dest=${1:-$(cd "$(dirname "$0")/../.." && pwd)/target/vllm-$version}
if [[ -d $dest/vllm ]]; then echo "$dest"; exit 0; fi

fail() { echo "fetch-vllm: $1" >&2; exit 1; }
mkdir -p "$(dirname "$dest")"
work=$(mktemp -d "$dest.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --no-deps --no-cache-dir --disable-pip-version-check --only-binary :all: --dest "$work" "vllm==$version" >&2 \
    || fail "pip could not download vllm $version; is a package index reachable (see \`pip config list\`)?"
python3 - "$work" <<'PY' || fail "the wheel does not hold the modules"
import glob, re, sys, zipfile
[wheel] = glob.glob(f"{sys.argv[1]}/*.whl")
with zipfile.ZipFile(wheel) as archive:
    wanted = [name for name in archive.namelist() if re.fullmatch(r"vllm/(entrypoints/.*/protocol|exceptions|logprobs|envs)\.py", name)]
    assert len(wanted) > 10, wanted
    archive.extractall(f"{sys.argv[1]}/kept", wanted)
PY
mv "$work/kept" "$dest"
echo "$dest"
