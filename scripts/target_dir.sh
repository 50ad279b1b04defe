#!/usr/bin/env bash
# Prints the directory into which cargo builds: CARGO_TARGET_DIR, a config file, or ./target.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'
