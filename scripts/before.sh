#!/usr/bin/env bash
# Builds the program of the version from which an upgrade begins, once, and prints its path: scripts/before.sh
# With what it needs for etcd: PROTOC names the compiler of its client (scripts/protoc.sh).
set -euo pipefail
cd "$(dirname "$0")/.."

# The last commit before nodes could be cordoned: feature level 1.
commit=bf4ab089
if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
  echo "before.sh: commit $commit is not in this clone; git fetch --unshallow gets it" >&2
  exit 1
fi
dir=$(scripts/target_dir.sh)/before/$commit-etcd
if [ ! -x "$dir/walser" ]; then
  rm -rf "$dir"
  mkdir -p "$dir/source"
  git archive "$commit" | tar -x -C "$dir/source"
  export PROTOC=${PROTOC:-$PWD/scripts/protoc.sh}
  (cd "$dir/source" && cargo build -q -p walser --features walser/etcd --target-dir "$dir/build")
  mv "$dir/build/debug/walser" "$dir/walser"
  rm -rf "$dir/build" "$dir/source"
fi
echo "$dir/walser"
