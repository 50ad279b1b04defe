#!/usr/bin/env bash
# Builds etcd and etcdctl from the Go module proxy, once, and prints the directory: scripts/etcd.sh
set -euo pipefail
cd "$(dirname "$0")/.."

version=v3.6.16
go=$(scripts/go.sh)
etcd=$(scripts/target_dir.sh)/etcd/$version
if [ ! -x "$etcd/etcdutl" ]; then
  mkdir -p "$etcd/src"
  export CGO_ENABLED=0 GOFLAGS="-mod=mod -buildvcs=false -trimpath"
  cd "$etcd/src"
  # `go install` refuses modules with replace lines; a module of our own that needs them does not.
  [ -s go.mod ] || "$go" mod init walser/etcd 2>/dev/null
  "$go" get "go.etcd.io/etcd/server/v3@$version" "go.etcd.io/etcd/etcdctl/v3@$version" "go.etcd.io/etcd/etcdutl/v3@$version" >&2
  "$go" build -ldflags "-s -w" -o "$etcd/etcd" go.etcd.io/etcd/server/v3
  "$go" build -ldflags "-s -w" -o "$etcd/etcdctl" go.etcd.io/etcd/etcdctl/v3
  "$go" build -ldflags "-s -w" -o "$etcd/etcdutl" go.etcd.io/etcd/etcdutl/v3
fi
echo "$etcd"
