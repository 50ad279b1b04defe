#!/usr/bin/env bash
# Measures this machine with the release build; docs/benchmarks.md says how to read the figures.
# RUNS=3 DURATION=10s by default; the median of the runs counts.
set -euo pipefail
cd "$(dirname "$0")/.."
walser=$PWD/target/release/walser
runs=${RUNS:-3} duration=${DURATION:-10s}
dir=$(mktemp -d "${TMPDIR:-/tmp}/walser-bench.XXXXXX")
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT

start() {
  rm -rf "$dir/data" "$dir/ready"
  "$walser" up --data "$dir/data" --listen 127.0.0.1:0 --admin 127.0.0.1:0 --ready-file "$dir/ready" 2>"$dir/log" &
  pid=$!
  for _ in $(seq 200); do [ -f "$dir/ready" ] && break; sleep 0.05; done
  WALSER_SERVER=$(sed 's/.*"grpc":"\([^"]*\)".*/\1/' "$dir/ready"); export WALSER_SERVER
}
stop() { kill "$pid"; wait "$pid" 2>/dev/null || true; pid=; }

measure() { # name, arguments of walser bench
  local name=$1; shift
  for run in $(seq "$runs"); do
    start
    "$walser" bench "$@" --json "$dir/$name.$run.json" >/dev/null
    stop
  done
  python3 - "$name" "$dir"/"$name".*.json <<'PY'
import json, statistics, sys
runs = [json.load(open(path)) for path in sys.argv[2:]]
def median(get): return statistics.median(get(run) for run in runs)
gb = median(lambda r: r["bytes"]) / 1e9
cpu = median(lambda r: (r["server_cpu_seconds"] or 0) / max(r["bytes"] / 1e9, 1e-9))
print(f'{sys.argv[1]:24} {median(lambda r: r["mb_per_s"]):8.1f} MB/s {median(lambda r: r["records_per_s"]):10.0f} records/s  '
      f'p50 {median(lambda r: r["latency_us"]["p50"]):7.0f}  p99 {median(lambda r: r["latency_us"]["p99"]):8.0f} us  '
      f'server {cpu:.2f} CPU-s/GB')
PY
}

echo "walser $("$walser" --version | cut -d' ' -f2), $runs runs of $duration, medians"
common=(--duration "$duration" --warm-up 2s --acks all)
measure produce-1k-1p produce "${common[@]}" --durability page-cache
measure produce-1k-16p produce "${common[@]}" --durability page-cache --partitions 16 --producers 4
measure produce-100B-6p produce "${common[@]}" --durability page-cache --partitions 6 --size 100 --batch-bytes 64KiB
measure fsync-1k-16p produce "${common[@]}" --durability fsync --partitions 16
measure fsync-open-5k produce "${common[@]}" --durability fsync --partitions 16 --rate 5000 --linger 0 --batch-bytes 16KiB
measure one-in-flight-fsync e2e --duration "$duration" --in-flight 1 --linger 0
measure one-in-flight e2e --duration "$duration" --in-flight 1 --linger 0 --durability page-cache
measure catch-up consume --records 4000000 --durability page-cache
