#!/usr/bin/env bash
# The lane of the CUDA kernels on a machine without a GPU, in one command: brings NVIDIA's run-time compiler as a Python wheel (88 MB, unpacked into a cache
# folder, installed nowhere) and compiles every kernel for every supported architecture. Before, it runs the kernels' sources on the host (host.cpp).
#
# Exit code 0: passed. 77: a part could not run here; the line that begins with "skipped" says which and why. Else: failed.
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
# The newest with the file name libnvrtc.so.12 that the binding's CUDA release (12.8) looks for.
version=12.8.93
cache=${TRACKSIDE_NVRTC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trackside/nvrtc-$version}
skipped=0
skip() {
  echo "nvrtc: skipped: $*"
  skipped=77
}

host=$(mktemp -d)
trap 'rm -rf "$host"' EXIT
if echo '#include <barrier>' | ${CXX:-c++} -std=c++20 -fsyntax-only -x c++ - 2>"$host/log"; then
  ${CXX:-c++} -std=c++20 -O1 -pthread -o "$host/run" "$repo/tests/nvrtc/host.cpp"
  "$host/run"
else
  skip "running the kernels' sources on the host takes a C++20 compiler: $(head -n 1 "$host/log")"
fi

if [ ! -d "$cache" ]; then
  if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$host" "nvidia-cuda-nvrtc-cu12==$version"; then
    skip "python3's pip cannot download nvidia-cuda-nvrtc-cu12 $version"
    exit $skipped
  fi
  mkdir -p "$(dirname "$cache")"
  rm -rf "$cache.part"
  python3 -m zipfile --extract "$host"/*.whl "$cache.part"
  mv "$cache.part" "$cache" # Whole or not at all: an interrupted run begins again.
fi

cd "$repo"
LD_LIBRARY_PATH=$cache/nvidia/cuda_nvrtc/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} TRACKSIDE_NVRTC=required \
  cargo test --locked --workspace --test nvrtc
exit $skipped
