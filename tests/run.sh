#!/usr/bin/env bash
# All tests of the gate, or the lanes named:  tests/run.sh [format|clippy|workspace|ebpf|nvrtc|clients|real]...
#
# Each lane first probes for what it needs beyond Rust, a C compiler and the registries. A lane whose probe fails is skipped and says
# why; a lane whose probe passes runs, and its failure is the gate's. Lanes share one build (profile dev).
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
jobs=${TRACKSIDE_JOBS:-$(nproc)}

probe_format() { cargo fmt --version >/dev/null 2>&1 || echo "rustfmt is not installed (rustup component add rustfmt)"; }
lane_format() { cargo fmt --all --check; }

probe_clippy() { cargo clippy --version >/dev/null 2>&1 || echo "clippy is not installed (rustup component add clippy)"; }
lane_clippy() { cargo clippy --workspace --all-targets --locked -j "$jobs" -- -D warnings; }

probe_workspace() { :; }
lane_workspace() { cargo test --workspace --locked --no-fail-fast -j "$jobs"; }

# The binary that the workspace's tests run too; the lane builds it where that lane has not.
binary() {
  cargo build --workspace --bins --tests --locked -j "$jobs" --message-format short >&2 || return
  echo "${CARGO_TARGET_DIR:-$PWD/target}/debug/trackside-under-test"
}

probe_ebpf() {
  [ "$(id -u)" = 0 ] || { echo "loading BPF programs wants root"; return; }
  # CAP_BPF (39) and CAP_PERFMON (38), or CAP_SYS_ADMIN (21) for both; a container's root may have neither.
  local held=$((16#$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status)))
  (((held >> 21 & 1) || ((held >> 38 & 1) && (held >> 39 & 1)))) || { echo "this root has neither CAP_SYS_ADMIN nor CAP_BPF and CAP_PERFMON"; return; }
  [ -r /sys/kernel/btf/vmlinux ] || { echo "this kernel has no BTF (/sys/kernel/btf/vmlinux)"; return; }
  command -v apt-get >/dev/null || echo "the BPF toolchain comes from Debian's packages, and apt-get is not here"
}
lane_ebpf() { tests/ebpf/run.sh; }

probe_python() { python3 -m venv --help >/dev/null 2>&1 && python3 -m pip --version >/dev/null 2>&1 || echo "python3 with venv and pip is not installed"; }
probe_nvrtc() { probe_python; }
lane_nvrtc() { tests/nvrtc/run.sh; }

probe_clients() { probe_python; }
lane_clients() { TRACKSIDE=$(binary) tests/clients/run.sh; }

probe_real() { probe_python; }
lane_real() { TRACKSIDE=$(binary) tests/real/run.sh; }

all=(format clippy workspace ebpf nvrtc clients real)
failed=0
summary=()
for lane in "${@:-${all[@]}}"; do
  declare -F "lane_$lane" >/dev/null || { echo "no lane $lane; there are: ${all[*]}" >&2; exit 2; }
  missing=$("probe_$lane")
  if [ -n "$missing" ]; then
    summary+=("$lane: skipped: $missing")
    continue
  fi
  printf '\n== lane %s\n' "$lane"
  begun=$SECONDS
  if "lane_$lane"; then
    summary+=("$lane: passed in $((SECONDS - begun)) s")
  else
    summary+=("$lane: FAILED after $((SECONDS - begun)) s")
    failed=$((failed + 1))
  fi
done
printf '\n== lanes\n'
printf '%s\n' "${summary[@]}"
exit $((failed > 0))
