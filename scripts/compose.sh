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
  export CGO_ENABLED=0 GOFLAGS="-buildvcs=false -trimpath" GOTOOLCHAIN=local
  mkdir -p "$compose"
  GOBIN=$compose "$go" install -ldflags "-s -w -X github.com/docker/compose/v2/internal.Version=$version" \
    "github.com/docker/compose/v2/cmd@$version" >&2
  mv "$compose/cmd" "$compose/docker-compose"
fi
echo "$compose/docker-compose"
