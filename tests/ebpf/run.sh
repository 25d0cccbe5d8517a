#!/usr/bin/env bash
# The lane of the eBPF probes, in one command:
#
#   tests/ebpf/run.sh            rebuild the kernel side, compare it with the committed objects, and try the probes in this kernel
#   tests/ebpf/run.sh --update   rebuild, and commit to the result: writes ebpf/programs/*.bpf.o and toolchain.txt, then tries the probes
#
# Same tools as recorded in ebpf/programs/toolchain.txt: the objects must be the same to the byte. Other tools: theirs must build, load and behave alike,
# and the lane says that the tools moved. The tests run three times: with the rights (as root), without any, and in a pid namespace of their own.
#
# Exit code 0: everything ran and passed. 77: passed, but a part could not run here; the line that begins with "skipped" says which and why. Else: failed.
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
programs=$repo/ebpf/programs
built=${TRACKSIDE_BPF_TARGET:-$programs/target}
skipped=0
say() { printf 'ebpf: %s\n' "$*"; }
skip() {
  say "skipped: $*"
  skipped=77
}
fail() {
  say "failed: $*"
  exit 1
}

build() { # Every probe's object, at $built/<name>.bpf.o.
  local environment llvm program
  environment=$("$repo/tests/ebpf/toolchain.sh")
  (
    eval "$environment"
    llvm=$(dirname "$RUSTC")/../lib/llvm-22/bin
    # Paths would make the bytes depend on where the repository and the registry lie.
    export RUSTFLAGS="--cfg=bpf_target_arch=\"$(uname -m)\" -Cdebuginfo=2 -Clink-arg=--btf \
      --remap-path-prefix=$repo=/trackside --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
    cd "$programs"
    CARGO_TARGET_DIR=$built cargo build --quiet --locked --release
    for program in src/*.rs; do
      program=$(basename "$program" .rs)
      # The kernel reads its own type information (.BTF); the debugger's is ten times the program.
      "$llvm/llvm-strip" --strip-debug -o "$built/$program.bpf.o" "$built/bpfel-unknown-none/release/$program"
    done
  )
}

compare() {
  local object moved=0
  if ! diff -u "$programs/toolchain.txt" <("$repo/tests/ebpf/toolchain.sh" --versions); then
    moved=1
    say "the tools moved since the objects were committed; theirs must behave alike"
  fi
  for object in "$built"/*.bpf.o; do
    if cmp -s "$object" "$programs/$(basename "$object")"; then
      say "$(basename "$object"): the same $(stat -c %s "$object") bytes as committed"
    elif [ $moved = 0 ]; then
      fail "$(basename "$object") is not what its source gives with the recorded tools; if the source is right, run $0 --update and commit the result"
    else
      say "$(basename "$object"): other bytes, as other tools may give"
    fi
  done
}

update() {
  cp "$built"/*.bpf.o "$programs/"
  "$repo/tests/ebpf/toolchain.sh" --versions >"$programs/toolchain.txt"
  say "committed objects are now those of: $(paste -sd, "$programs/toolchain.txt")"
}

objects=$programs
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
  skip "rebuilding: the tools of the kernel side come from Debian's packages, which takes apt-get and root"
elif ! build; then
  fail "the kernel side does not build"
else
  objects=$built
  if [ "${1:-}" = --update ]; then update; else compare; fi
fi

cd "$repo"
cargo fmt --check --manifest-path "$programs/Cargo.toml"
# With the whole workspace in view cargo chooses the features that the other lanes have built.
binary=$(cargo test --locked --workspace --test process_exit --no-run 2>&1 | sed -n 's/.*Executable .*process_exit\.rs (\(.*\))$/\1/p')
[ -x "$binary" ] || fail "cargo did not say where the test is"

# The tests themselves hold the probe to being there, or to a reason for its absence that this machine shows.
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
say "trying the probes of $objects in kernel $(uname -r)"
TRACKSIDE_EBPF_OBJECTS=$objects "$binary" 2>&1 | tee "$out/log"
if grep --quiet "^no probe here" "$out/log"; then
  skip "trying the probes: $(grep --max-count 1 "^no probe here" "$out/log")"
  exit $skipped
fi
if [ "$(id -u)" != 0 ]; then
  skip "trying them without rights and in another pid namespace: giving up rights that way takes root"
  exit $skipped
fi
# A copy that others may run, because the build folder may be closed to them.
install -m 755 "$binary" "$out/process_exit"
chmod 755 "$out"
absent() { # The reason to expect, then the command: it must pass, and pass for that reason.
  "${@:2}" "$out/process_exit" >"$out/log" 2>&1 || { cat "$out/log" && fail "the tests where the probe must be absent"; }
  say "$(grep --max-count 1 "no probe here: .*$1" "$out/log" || fail "nothing said that the probe is absent: $1")"
}
absent "CAP_BPF and no CAP_PERFMON" setpriv --reuid 65534 --regid 65534 --clear-groups
absent "pid namespace of its own" unshare --pid --fork --mount-proc
exit $skipped
