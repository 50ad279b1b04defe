#!/usr/bin/env bash
# Prints a Docker Compose: the plugin that is installed, or one that is built from the Go module proxy: scripts/compose.sh
set -euo pipefail
cd "$(dirname "$0")/.."
version=v2.40.3
if docker compose version >/dev/null 2>&1; then
  echo "docker compose"
  exit
fi
compose=$(scripts/target_dir.sh)/compose/$version
if [ ! -x "$compose/docker-compose" ]; then
  go=$(scripts/go.sh)
  export CGO_ENABLED=0 GOFLAGS="-mod=mod -buildvcs=false -trimpath" GOTOOLCHAIN=local
  mkdir -p "$compose/src"
  cd "$compose/src"
  # `go install` refuses modules with replace lines; a module of our own that needs them does not.
  [ -s go.mod ] || "$go" mod init walser/compose 2>/dev/null
  "$go" get "github.com/docker/compose/v2@$version" >&2
  "$go" build -ldflags "-s -w -X github.com/docker/compose/v2/internal.Version=$version" -o "$compose/new" \
    github.com/docker/compose/v2/cmd >&2
  mv "$compose/new" "$compose/docker-compose"
fi
echo "$compose/docker-compose"
