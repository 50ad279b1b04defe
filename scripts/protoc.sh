#!/usr/bin/env bash
# protoc for builds with the feature `etcd`, PROTOC=scripts/protoc.sh: the one that is installed, or that of the Python
# package grpcio-tools, which the tests install.
set -euo pipefail
if command -v protoc >/dev/null; then exec protoc "$@"; fi
exec "$("$(dirname "$0")/target_dir.sh")/python/bin/python" -m grpc_tools.protoc "$@"
