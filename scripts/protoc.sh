#!/usr/bin/env bash
# The protoc of the Python package grpcio-tools, for builds with the feature `etcd`: PROTOC=scripts/protoc.sh
set -euo pipefail
exec "$("$(dirname "$0")/target_dir.sh")/python/bin/python" -m grpc_tools.protoc "$@"
