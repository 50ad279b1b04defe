#!/usr/bin/env bash
# Installs the chart on a real Kubernetes of one node, and disturbs it under load: scripts/test_k8s.sh [standalone|cluster|tls ...]
#
# It must be root on Debian. Everything that it starts is taken away at the end, also after a failure or Ctrl-C; the
# Kubernetes stays with KEEP=1. WALSER_BINARY and WALSER_HISTORY name programs that are built already. The first run
# builds Kubernetes, which takes a few minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(scripts/target_dir.sh)
logs=$target/k8s/logs
export WALSER_K8S_STATE=${WALSER_K8S_STATE:-/var/tmp/walser-k8s}
export WALSER_CHART=${WALSER_CHART:-$PWD/charts/walser}

fail() {
  echo "test-k8s: $*" >&2
  exit 1
}

install_packages() {
  local need=() command
  for command in containerd:containerd runc:runc iptables:iptables ip:iproute2 nsenter:util-linux openssl:openssl sysctl:procps; do
    command -v "${command%:*}" >/dev/null || need+=("${command#*:}")
  done
  [ -x /usr/lib/cni/bridge ] || need+=(containernetworking-plugins)
  python3 -c 'import venv, ensurepip' 2>/dev/null || need+=(python3-venv)
  [ ${#need[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || fail "missing: ${need[*]}; install them and try again"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >"$logs/install.log" 2>&1
}

# What the load speaks with: stock stubs, made from the contract.
make_stubs() {
  local python=$1 stubs=$target/k8s/stubs
  rm -rf "$stubs"
  mkdir -p "$stubs"
  "$python" -m grpc_tools.protoc -Iproto "--python_out=$stubs" "--grpc_python_out=$stubs" proto/walser/v1/*.proto
  export PYTHONPATH=$stubs
}

down() {
  local code=$?
  trap '' INT TERM
  if [ -n "${runner:-}" ] && kill "$runner" 2>/dev/null; then wait "$runner" 2>/dev/null || true; fi
  # What the programs have said, for whoever looks for the reason of a failure.
  if [ $code != 0 ] && [ -d "$WALSER_K8S_STATE/log" ]; then cp -r "$WALSER_K8S_STATE/log" "$logs/kubernetes" || true; fi
  if [ -n "${KEEP:-}" ]; then
    echo "Kubernetes still runs: KUBECONFIG=$WALSER_K8S_STATE/admin.conf, programs in $WALSER_K8S_TOOLS; scripts/k8s/down.sh ends it"
  else
    scripts/k8s/down.sh
    if [ -n "${started_docker:-}" ]; then scripts/docker.sh down; fi
  fi
  exit $code
}

[ "$(id -u)" = 0 ] || fail "only root can run it: it makes networks and mounts"
exec 9>"$WALSER_K8S_STATE.lock"
flock -n 9 || fail "another run has not ended yet"
rm -rf "$logs"
mkdir -p "$logs"
install_packages
python=$(scripts/python.sh)
make_stubs "$python"
export PROTOC=${PROTOC:-$PWD/scripts/protoc.sh}
if [ -z "${WALSER_BINARY:-}" ]; then
  cargo build -q --release -p walser --features etcd
  WALSER_BINARY=$target/release/walser
fi
if [ -z "${WALSER_HISTORY:-}" ]; then
  cargo build -q --release -p walser-history
  WALSER_HISTORY=$target/release/walser-history
fi
export WALSER_BINARY WALSER_HISTORY WALSER_LOGS=$logs
tools=$(scripts/k8s/tools.sh)
export WALSER_K8S_TOOLS=$tools

trap down EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# What a run that was killed has left.
scripts/k8s/down.sh
docker version >/dev/null 2>&1 || started_docker=1
# The lock is not for what these start.
BUILD=outside scripts/images.sh walser etcd 9>&-
begun=$(date +%s)
scripts/k8s/up.sh "$tools" 9>&-
scripts/k8s/import.sh walser:dev gcr.io/etcd-development/etcd:v3.6.16
echo "Kubernetes is up after $(($(date +%s) - begun)) s"
"$python" -u scripts/k8s/run.py "$@" 9>&- &
runner=$!
wait "$runner"
