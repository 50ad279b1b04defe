#!/usr/bin/env bash
# Measures this machine with the release build; PEER=kafka puts Apache Kafka beside it. See scripts/bench/run.py.
set -euo pipefail
cd "$(dirname "$0")/.."
need=()
command -v python3 >/dev/null || need+=(python3)
case "${SCENARIO:-}" in groups | group-admin) members=1 ;; *) members= ;; esac
if [ -n "$members" ]; then python3 -c 'import venv, ensurepip' 2>/dev/null || need+=(python3-venv); fi
if [ "${PEER:-}" = kafka ]; then
  command -v javac >/dev/null || need+=(default-jdk-headless)
  command -v mvn >/dev/null || need+=(maven)
fi
if [ ${#need[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing: ${need[*]}; install them and try again" >&2
    exit 1
  fi
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}"
fi
TARGET_DIR=$(scripts/target_dir.sh)
if [ -n "$members" ]; then
  # Members on Walser are programs of stock gRPC for Python, as those of the tests.
  scripts/python.sh >/dev/null
fi
export TARGET_DIR
exec python3 scripts/bench/run.py
