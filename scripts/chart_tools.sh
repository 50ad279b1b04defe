#!/usr/bin/env bash
# Builds Helm and kubeconform from the Go module proxy, once, makes the schemas of Kubernetes' objects for kubeconform, and
# prints the directory: scripts/chart_tools.sh [GO]
set -euo pipefail
cd "$(dirname "$0")/.."

helm=v3.22.0 kubeconform=v0.8.0 kubernetes=v1.34.4
go=${1:-go}
tools=$(scripts/target_dir.sh)/chart/helm-$helm-kubeconform-$kubeconform
schemas=$tools/schemas-$kubernetes
export CGO_ENABLED=0 GOFLAGS="-mod=mod -buildvcs=false -trimpath" GOBIN=$tools
mkdir -p "$tools"
# Without these, Helm takes itself for one of Kubernetes 1.20, and charts of today for too new.
minor=${kubernetes#v1.} minor=${minor%.*} flags="-s -w"
for package in chartutil lint/rules; do
  flags+=" -X helm.sh/helm/v3/pkg/$package.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/$package.k8sVersionMinor=$minor"
done
[ -x "$tools/helm" ] || "$go" install -ldflags "$flags" "helm.sh/helm/v3/cmd/helm@$helm" >&2
[ -x "$tools/kubeconform" ] || "$go" install -ldflags "-s -w" "github.com/yannh/kubeconform/cmd/kubeconform@$kubeconform" >&2
if [ ! -d "$schemas" ]; then
  # The module of Kubernetes carries the description of its API; kubeconform would fetch its schemas from the network.
  module=$("$go" mod download -json "k8s.io/kubernetes@$kubernetes" | sed -n 's/.*"Dir": "\(.*\)",/\1/p')
  rm -rf "$schemas.new"
  python3 scripts/chart_schemas.py "$module/api/openapi-spec/swagger.json" "$schemas.new" >&2
  mv "$schemas.new" "$schemas"
fi
echo "$tools"
