#!/usr/bin/env bash
# Prints a Go: the one that is installed, or a toolchain from the module proxy: scripts/go.sh
set -euo pipefail
cd "$(dirname "$0")/.."
version=go1.26.8
go=$(command -v go || true)
if [ -z "$go" ] || ! "$go" version | grep -qE 'go1\.(2[6-9]|[3-9][0-9])'; then
  toolchain=$(scripts/target_dir.sh)/go/toolchain
  go=$toolchain/bin/go
  [ -x "$go" ] || python3 scripts/go_toolchain.py "$version" "$toolchain" >&2
fi
echo "$go"
