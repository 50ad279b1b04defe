#!/usr/bin/env bash
# Builds the parts of a small Kubernetes from the Go module proxy, once, and prints their directory: scripts/k8s/tools.sh
#
# Etcd comes from scripts/etcd.sh, Helm from scripts/chart_tools.sh, containerd and runc from Debian. It takes about six minutes on two free cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
kubernetes=1.34.4
coredns=v1.15.0

sources=$PWD/scripts/k8s/programs
tools=$(scripts/target_dir.sh)/k8s/$kubernetes
go=$(scripts/go.sh)
mkdir -p "$tools/bin" "$tools/src"
export CGO_ENABLED=0 GOFLAGS="-mod=mod -buildvcs=false -trimpath" GOTOOLCHAIN=local

build_kubernetes() {
  local module line version
  mkdir -p "$tools/src/kubernetes"
  cd "$tools/src/kubernetes"
  cp "$sources/kubernetes/main.go" .
  # Kubernetes names its own modules by paths in its repository; here each is the release of the same number.
  module=$("$go" mod download -json "k8s.io/kubernetes@v$kubernetes" | sed -n 's/.*"GoMod": "\(.*\)",/\1/p')
  {
    printf 'module walser/kubernetes\n\ngo 1.24.0\n\nrequire k8s.io/kubernetes v%s\n\nreplace (\n' "$kubernetes"
    sed -n 's#^[[:space:]]*\(k8s.io/[a-z-]*\) => ./staging.*#\1#p' "$module" | sort -u |
      while read -r line; do printf '\t%s => %s v0.%s\n' "$line" "$line" "${kubernetes#1.}"; done
    echo ")"
  } >go.mod
  "$go" mod tidy -e >tidy.log 2>&1
  version=k8s.io/component-base/version
  "$go" build -o "$tools/kubernetes.new" -ldflags "-s -w -X $version.gitVersion=v$kubernetes -X $version.gitMajor=1 \
    -X $version.gitMinor=$(cut -d. -f2 <<<"$kubernetes") -X $version.gitTreeState=clean \
    -X $version.buildDate=2026-01-01T00:00:00Z" .
  for line in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do
    ln -sf kubernetes "$tools/bin/$line"
  done
  mv "$tools/kubernetes.new" "$tools/bin/kubernetes"
}

[ -x "$tools/bin/kubernetes" ] || (build_kubernetes) >&2
[ -x "$tools/bin/pause" ] || "$go" build -ldflags "-s -w" -o "$tools/bin/pause" "$sources/pause/main.go" >&2
[ -x "$tools/bin/coredns" ] ||
  GOBIN=$tools/bin GOFLAGS="-buildvcs=false -trimpath" "$go" install -ldflags "-s -w" "github.com/coredns/coredns@$coredns" >&2
ln -sf "$(scripts/chart_tools.sh "$go")/helm" "$tools/bin/helm"
ln -sf "$(scripts/etcd.sh)/etcd" "$tools/bin/etcd"
echo "$tools/bin"
