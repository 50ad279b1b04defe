#!/usr/bin/env bash
# Builds promtool, which checks rules of Prometheus, from the Go module proxy, once, and prints its path: scripts/promtool.sh
set -euo pipefail
cd "$(dirname "$0")/.."
version=v0.313.0
promtool=$(scripts/target_dir.sh)/promtool/$version
if [ ! -x "$promtool/promtool" ]; then
  go=$(scripts/go.sh)
  export CGO_ENABLED=0 GOFLAGS="-mod=mod -buildvcs=false -trimpath" GOTOOLCHAIN=local
  mkdir -p "$promtool/src"
  cd "$promtool/src"
  # `go install` refuses modules with replace lines; a module of our own that has the same one does not. The tag leaves out
  # what finds machines in clouds: rules need none of it.
  if [ ! -s go.mod ]; then
    "$go" mod init walser/promtool 2>/dev/null
    "$go" mod edit -replace cloud.google.com/go=cloud.google.com/go@v0.123.0
  fi
  "$go" get "github.com/prometheus/prometheus@$version" >&2
  "$go" build -tags remove_all_sd -ldflags "-s -w" -o "$promtool/new" github.com/prometheus/prometheus/cmd/promtool >&2
  mv "$promtool/new" "$promtool/promtool"
fi
echo "$promtool/promtool"
