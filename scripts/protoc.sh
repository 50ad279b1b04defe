#!/usr/bin/env bash
# protoc for builds with the feature `etcd`, PROTOC=scripts/protoc.sh: the one that is installed, or that of the Python
# package grpcio-tools, which is installed where it is missing.
set -euo pipefail
if command -v protoc >/dev/null; then exec protoc "$@"; fi
exec "$("$(dirname "$0")/python.sh")" -m grpc_tools.protoc "$@"
