#!/usr/bin/env bash
# A smoke of what `make test` leaves out, because it needs a Docker Engine or a Kubernetes: scripts/smoke.sh
#
# A part runs where its tools are there already, and is named where they are not: nothing is installed for it. The image
# is made from the program that `make test` has built. Left out: `make test-k8s ONLY="cluster tls"`, and images that are
# built from the sources inside a container.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(scripts/target_dir.sh)
export WALSER_BINARY=$target/debug/walser WALSER_HISTORY=$target/debug/walser-history
started_docker=

stop() {
  local code=$?
  trap '' INT TERM
  if [ -n "$started_docker" ]; then scripts/docker.sh down; fi
  exit $code
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

left_out() {
  echo "smoke: left out: $1: $2"
}

if [ "$(id -u)" != 0 ]; then
  left_out "images, containers, Kubernetes" "they need root"
  exit
fi
if ! command -v dockerd >/dev/null; then
  left_out "images, containers, Kubernetes" "there is no Docker Engine; make test-containers installs one"
  exit
fi
docker version >/dev/null 2>&1 || started_docker=1
if ! scripts/docker.sh up; then
  left_out "images, containers, Kubernetes" "the Docker Engine does not start here"
  exit
fi
BUILD=outside IMAGES=1 scripts/test_containers.sh
if docker compose version >/dev/null 2>&1 || compgen -G "$target/compose/*/docker-compose" >/dev/null; then
  scripts/test_compose.sh
else
  left_out "compose files" "there is no Docker Compose; make test-compose builds one"
fi
if compgen -G "$target/k8s/*/bin/kubernetes" >/dev/null; then
  scripts/test_k8s.sh standalone
else
  left_out "Kubernetes" "it is not built; make test-k8s builds it"
fi
