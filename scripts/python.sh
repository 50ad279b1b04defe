#!/usr/bin/env bash
# Prints a Python with the stock packages of gRPC, which it installs once: scripts/python.sh
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(scripts/target_dir.sh)/python
if [ ! -x "$venv/bin/python" ]; then python3 -m venv "$venv" >&2; fi
"$venv/bin/python" -c 'import grpc_tools, grpc_status, grpc_reflection' 2>/dev/null ||
  "$venv/bin/pip" install -q --disable-pip-version-check 'grpcio>=1.60' 'grpcio-tools>=1.60' 'grpcio-status>=1.60' \
    'grpcio-reflection>=1.60' >&2
echo "$venv/bin/python"
