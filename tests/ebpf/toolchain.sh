#!/usr/bin/env bash
# Brings the compiler and the linker of the kernel side (`ebpf/programs`) into a folder of their own, and prints the environment that uses them.
#
#   env=$(tests/ebpf/toolchain.sh) && (eval "$env" && cd ebpf/programs && cargo build --release)
#   tests/ebpf/toolchain.sh --versions        what is installed there, one tool a line; this is what stands beside a committed object
#
# Rust ships no prebuilt `core` for bpfel-unknown-none; Debian does, and that spares a nightly compiler, rust-src and rustup. bpf-linker must speak
# the LLVM major version of the compiler whose bitcode it reads, so both come from the same archive. The packages are unpacked, not installed: the
# machine's own rustc stays what it is. Needs a Debian whose archive has rustc-web, root for the package lists, and the crate registry.
set -euo pipefail

home=${TRACKSIDE_BPF_TOOLCHAIN:-${XDG_CACHE_HOME:-$HOME/.cache}/trackside/bpf-toolchain}
llvm=22
linker=0.13.0
root=$home/debian

unpack() { # Debian's compiler, its core for BPF, and LLVM, below $root.
  local fetched package
  fetched=$(mktemp -d)
  apt-get update --quiet=2
  # The compiler's shared library is in a package named after its version, which the archive knows as what the static library depends on.
  package=$(apt-cache depends libstd-rust-web-dev | awk '$1 == "Depends:" { print $2; exit }')
  (cd "$fetched" && apt-get download --quiet=2 --option APT::Sandbox::User=root rustc-web libstd-rust-web-dev \
    libstd-rust-web-dev-bpf "$package" "libllvm$llvm" "llvm-$llvm" "llvm-$llvm-dev" "llvm-$llvm-linker-tools")
  rm -rf "$root.part"
  mkdir -p "$root.part"
  for package in "$fetched"/*.deb; do dpkg-deb --extract "$package" "$root.part"; done
  rm -rf "$fetched"
  mv "$root.part" "$root" # Whole or not at all: an interrupted run begins again.
}

libraries=$root/usr/lib/$(uname -m)-linux-gnu:$root/usr/lib/llvm-$llvm/lib
with_libraries() { LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} "$@"; }

mkdir -p "$home"
exec 9>"$home/.lock"
flock 9 # Two lanes at once share one installation.
[ -d "$root" ] || unpack >&2
[ -x "$home/bin/bpf-linker" ] ||
  LLVM_PREFIX=$root/usr/lib/llvm-$llvm CARGO_TARGET_DIR=$home/build with_libraries \
    cargo install --quiet --locked --root "$home" bpf-linker --version "$linker" --no-default-features --features "llvm-$llvm" >&2
rm -rf "$home/build"

if [ "${1:-}" = --versions ]; then
  with_libraries "$root/usr/bin/rustc" --version --verbose | sed -n 's/^release: /rustc /p; s/^LLVM version: /llvm /p'
  echo "bpf-linker $linker"
  exit
fi
cat <<END
export RUSTC='$root/usr/bin/rustc'
export CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER='$home/bin/bpf-linker'
export LD_LIBRARY_PATH='$libraries'\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}
export RUSTC_BOOTSTRAP=1
END
