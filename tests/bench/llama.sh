#!/usr/bin/env bash
# Builds llama.cpp for this machine, for the benchmarks to stand beside, and prints the folder of its binaries.
#
#   tests/bench/llama.sh [DEST]      DEST: a folder, default target/llama
#
# The source comes with the machine's own `pip download`: the archive of llama-cpp-python carries llama.cpp whole. Compiled with all that
# this CPU can do (GGML_NATIVE), as its own users do. About ten minutes on two cores; what is built already is kept.
set -euo pipefail

package=llama_cpp_python version=0.3.36
dest=${1:-$(cd "$(dirname "$0")/../.." && pwd)/target/llama}
source=$dest/$package-$version/vendor/llama.cpp
targets=(llama-server llama-bench llama-perplexity)

fail() { echo "llama: $1" >&2; exit 1; }

if [[ ! -f $dest/built-$version ]]; then
    command -v cmake >/dev/null || fail "cmake is not installed (Debian: apt-get install cmake)"
    command -v c++ >/dev/null || fail "a C++ compiler is not installed (Debian: apt-get install g++)"
    mkdir -p "$dest"
    if [[ ! -d $source ]]; then
        python3 -m pip download --quiet --no-deps --no-binary :all: --disable-pip-version-check --dest "$dest" "llama-cpp-python==$version" >&2 \
            || fail "pip could not download llama-cpp-python $version; is a package index reachable (see \`pip config list\`)?"
        tar -xzf "$dest/$package-$version.tar.gz" -C "$dest"
    fi
    generator=()
    if command -v ninja >/dev/null; then generator=(-G Ninja); fi
    cmake "${generator[@]}" -S "$source" -B "$source/build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF >&2
    cmake --build "$source/build" --parallel "$(nproc)" --target "${targets[@]}" >&2
    touch "$dest/built-$version"
fi
echo "$source/build/bin"
