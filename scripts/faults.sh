#!/usr/bin/env bash
# Runs rows of the fault matrix and prints a verdict of each: scripts/faults.sh [ROW ...]
set -euo pipefail
cd "$(dirname "$0")/.."

rows=("$@")
all=(1 2 3 5 6 14 15 16 17 18 19 20 21 22 23 24 25 28 29 30 39 1000)
[ ${#rows[@]} -gt 0 ] || rows=("${all[@]}")

features=()
if [[ " ${rows[*]} " =~ " "(15|16|17|18|19|22|23)" " ]]; then
  # Metadata in etcd, which `make test` installs together with what its client is built with.
  PROTOC=${PROTOC:-$PWD/scripts/protoc.sh}
  WALSER_ETCD=$(scripts/etcd.sh)/etcd
  export PROTOC WALSER_ETCD
  features=(--features walser/etcd,walser-controller/etcd,walser-metastore/etcd)
fi
if [[ " ${rows[*]} " =~ " 23 " ]]; then
  WALSER_BEFORE=$(scripts/before.sh)
  export WALSER_BEFORE
fi
cargo build -q --workspace --exclude walser-sim --bins "${features[@]}"
WALSER_BINARY=$(scripts/target_dir.sh)/debug/walser
export WALSER_BINARY WALSER_FAULTS="${TIMES:-10}"

# Tests of whole processes, by row; 25 needs a disk whose syncs fail, which only the simulated one can do.
processes() {
  case $1 in
    1 | 2 | 3 | 5) echo "fault_rows::row_0$1" ;;
    14 | 24 | 28) echo "fault_rows::row_$1" ;;
    20 | 21 | 39) echo "group_rows::row_$1" ;;
    22) echo rolling::row_22 ;;
    23) echo upgrades::row_23 ;;
    15 | 16 | 17 | 18 | 19) echo "controllers::row_$1" ;;
    6) echo a_node_that_lost_its_disk_and_one_behind_the_log_start_get_everything_from_the_leader ;;
    1000) echo a_node_of_a_thousand_partitions_is_killed ;;
    29) echo a_replica_that_is_found_damaged_at_a_start_takes_the_log_of_the_leader ;;
    30) echo a_leader_whose_records_are_found_damaged_follows_and_takes_the_log_of_another ;;
    *) return 1 ;;
  esac
}

status=0
for row in "${rows[@]}"; do
  if [ "$row" = 25 ]; then
    test=(-p walser-storage-node --lib acknowledged_records_survive_on_other_nodes)
  elif name=$(processes "$row"); then
    test=(-p walser-standalone-tests --test standalone "$name")
    [ "$row" = 23 ] && test=(--features walser-standalone-tests/before "${test[@]}")
  else
    echo "row $row: no test here; there are ${all[*]}" >&2
    status=2
    continue
  fi
  log=$(mktemp)
  if cargo test -q "${test[@]}" -- --nocapture >"$log" 2>&1; then
    # A test without figures of its own has passed.
    grep -ohE "row $row: holds.*" "$log" || echo "row $row: holds"
    rm -f "$log"
  else
    echo "row $row: BROKEN, see $log"
    status=1
  fi
done
exit $status
