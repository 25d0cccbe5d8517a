#!/usr/bin/env bash
# What the eBPF probes cost on this machine, as a table for the documentation. Needs root. Machine, commit and date stand above the table.
set -euo pipefail
cd "$(dirname "$0")/../.."
echo "$(grep --max-count 1 'model name' /proc/cpuinfo | cut -d: -f2- | xargs), $(nproc) CPUs, kernel $(uname -r), commit \
$(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(date --utc +%F); steal $(awk '/^cpu / { print $9 }' /proc/stat) ticks since boot"
echo
exec cargo run --quiet --package ebpf --example process_exit_cost
