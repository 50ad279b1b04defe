#!/usr/bin/env bash
# Runs the images as a cluster of containers and hurts it: scripts/test_containers.sh
#
# A Docker Engine is installed and started where there is none and the user is root; the images are made where they are
# missing (IMAGES=1 makes them anew). Everything that is started is taken away at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
PROTOC=${PROTOC:-$PWD/scripts/protoc.sh}
export PROTOC
started_docker=
docker version >/dev/null 2>&1 || started_docker=1

stop() {
  local code=$?
  trap '' INT TERM
  if [ -n "$started_docker" ]; then scripts/docker.sh down; fi
  exit $code
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

scripts/docker.sh up
if [ -n "${IMAGES:-}" ] || ! docker image inspect walser:dev >/dev/null 2>&1; then
  scripts/images.sh walser
fi
docker image inspect gcr.io/etcd-development/etcd:v3.6.16 >/dev/null 2>&1 || scripts/images.sh etcd
cargo test -q -p walser-standalone-tests --features containers --test standalone containers:: -- --nocapture
