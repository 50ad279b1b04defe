#!/usr/bin/env bash
# Builds the program of the version from which an upgrade begins, once, and prints its path: scripts/before.sh
set -euo pipefail
cd "$(dirname "$0")/.."

# The last commit before nodes could be cordoned: feature level 1.
commit=bf4ab089
if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
  echo "before.sh: commit $commit is not in this clone; git fetch --unshallow gets it" >&2
  exit 1
fi
dir=$(scripts/target_dir.sh)/before/$commit
if [ ! -x "$dir/walser" ]; then
  rm -rf "$dir"
  mkdir -p "$dir/source"
  git archive "$commit" | tar -x -C "$dir/source"
  (cd "$dir/source" && CARGO_TARGET_DIR="$dir/build" cargo build -q -p walser)
  mv "$dir/build/debug/walser" "$dir/walser"
  rm -rf "$dir/build" "$dir/source"
fi
echo "$dir/walser"
