#!/usr/bin/env bash
# Takes images from the local Docker Engine into the Kubernetes of scripts/k8s/up.sh: scripts/k8s/import.sh IMAGE...
set -euo pipefail
# shellcheck source=scripts/k8s/state.sh
. "$(dirname "$0")/state.sh"
for image in "$@"; do
  docker save "$image" | containers images import - >/dev/null
done
