#!/usr/bin/env bash
# Installs cargo-deny once, and checks the dependencies: scripts/cargo_deny.sh CHECK ...
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
tools=$(scripts/target_dir.sh)/tools/cargo-deny-$version
if [ ! -x "$tools/bin/cargo-deny" ]; then
  # It works for a second: building it fast is worth more than having it fast.
  CARGO_PROFILE_DEV_DEBUG=0 cargo install -q --debug --locked --root "$tools" --target-dir "$tools/build" \
    "cargo-deny@$version" >&2
  rm -rf "$tools/build"
fi
exec "$tools/bin/cargo-deny" --all-features check "$@"
