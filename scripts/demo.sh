#!/usr/bin/env bash
# Starts a standalone server on a fresh directory, sends real records, reads them back and compares every byte.
# KEEP=1 leaves the server running.
#
# The records: the system's word list of services and licences (/etc/services where it exists, the Apache licence of
# this repository), this repository's own history of dependencies (Cargo.lock, JSON made of it), and the walser
# program itself as a binary of many megabytes. All of it is on every machine that could build this.
set -euo pipefail
cd "$(dirname "$0")/.."
walser=$(scripts/target_dir.sh)/release/walser
dir=$(mktemp -d "${TMPDIR:-/tmp}/walser-demo.XXXXXX")
pid=
stop() {
  code=$?
  if [ -n "${KEEP:-}" ] && [ $code = 0 ]; then
    echo; echo "The server is still running (pid $pid). Stop it with: kill $pid; its data is in $dir"
    return
  fi
  if [ -n "$pid" ]; then kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; fi
  rm -rf "$dir"
  exit $code
}
trap stop EXIT

start() {
  rm -f "$dir/ready.json"
  "$walser" up --data "$dir/data" --listen 127.0.0.1:0 --admin 127.0.0.1:0 --ready-file "$dir/ready.json" 2>"$dir/server.log" &
  pid=$!
  for _ in $(seq 200); do [ -f "$dir/ready.json" ] && break; kill -0 "$pid" 2>/dev/null || break; sleep 0.05; done
  [ -f "$dir/ready.json" ] || { cat "$dir/server.log" >&2; echo "the server did not start" >&2; exit 1; }
  WALSER_SERVER=$(sed 's/.*"grpc":"\([^"]*\)".*/\1/' "$dir/ready.json"); export WALSER_SERVER
  ADMIN=$(sed 's/.*"admin":"\([^"]*\)".*/\1/' "$dir/ready.json")
}

same() { # what, expected, actual
  if ! cmp -s "$2" "$3"; then echo "DIFFERENT: $1" >&2; cmp "$2" "$3" >&2 || true; exit 1; fi
  printf '  same      %-34s %12s bytes, sha256 %s…\n' "$1" "$(stat -c %s "$3")" "$(sha256sum "$3" | cut -c1-16)"
}

lines=$dir/lines.txt
{ cat LICENSE Cargo.lock; [ ! -r /etc/services ] || cat /etc/services; } >"$lines"
json=$dir/packages.ndjson
awk -F'"' '/^name = /{n=$2} /^version = /{printf "{\"package\":{\"name\":\"%s\"},\"version\":\"%s\"}\n",n,$2}' Cargo.lock >"$json"

start
echo "Server on $WALSER_SERVER, data in $dir/data"
sed -n 's/.*"took_ms":\([0-9]*\).*/  started   in \1 ms/p' "$dir/server.log"

echo "Sending"
printf '  lines     '; "$walser" produce lines --file "$lines" 2>&1 | tail -1
"$walser" topic create packages --partitions 4 >/dev/null
printf '  packages  '; "$walser" produce packages --key-json .package.name --compression zstd --file "$json" 2>&1 | tail -1
printf '  program   '; "$walser" produce program --file "$walser" --as blocks:256KiB 2>&1 | tail -1

echo "Killing the server with SIGKILL, and starting it again"
kill -9 "$pid"; wait "$pid" 2>/dev/null || true
start
sed -n 's/.*"took_ms":\([0-9]*\).*/  started   in \1 ms/p' "$dir/server.log"

echo "Reading back"
"$walser" consume lines --to latest -f '%v\n' >"$dir/lines.out"
same "lines (text)" "$lines" "$dir/lines.out"
"$walser" consume packages --to latest -f '%v\n' | sort >"$dir/packages.out"
sort "$json" >"$dir/packages.sorted"
same "packages (JSON, 4 partitions, zstd)" "$dir/packages.sorted" "$dir/packages.out"
"$walser" consume program --to latest -o raw >"$dir/program.out"
same "program (binary)" "$walser" "$dir/program.out"

echo; "$walser" topic list
echo; "$walser" status
echo
echo "Everything came back byte for byte. Look around:"
echo "  export WALSER_SERVER=$WALSER_SERVER        (with KEEP=1)"
echo "  $walser topic describe packages"
echo "  $walser consume packages --last 3"
echo "  http://$ADMIN/metrics"
