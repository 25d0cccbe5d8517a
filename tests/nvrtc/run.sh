#!/usr/bin/env bash
# The lane of the CUDA kernels on a machine without a GPU, in one command: brings NVIDIA's run-time compiler as a Python wheel (88 MB, unpacked into a cache
# folder, installed nowhere) and compiles every kernel for every supported architecture.
#
# Exit code 0: passed. 77: the compiler cannot be had here; the line that begins with "skipped" says why. Else: failed.
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
# The newest with the file name libnvrtc.so.12 that the binding's CUDA release (12.8) looks for.
version=12.8.93
cache=${TRACKSIDE_NVRTC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trackside/nvrtc-$version}
skip() {
  echo "nvrtc: skipped: $*"
  exit 77
}

if [ ! -d "$cache" ]; then
  command -v python3 >/dev/null || skip "python3 is not here, and its pip brings the compiler"
  part=$(mktemp -d)
  trap 'rm -rf "$part"' EXIT
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$part" "nvidia-cuda-nvrtc-cu12==$version" ||
    skip "pip cannot download nvidia-cuda-nvrtc-cu12 $version"
  python3 -m zipfile --extract "$part"/*.whl "$part/wheel"
  mkdir -p "$(dirname "$cache")"
  mv "$part/wheel" "$cache" # Whole or not at all: an interrupted run begins again.
fi

cd "$repo"
cargo test --quiet -p engine-cuda --no-run
LD_LIBRARY_PATH=$cache/nvidia/cuda_nvrtc/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} TRACKSIDE_NVRTC=required \
  cargo test -p engine-cuda --test nvrtc
