#!/usr/bin/env bash
# Provides a Docker Engine: scripts/docker.sh [up|down|client]
#
# up      Returns once an engine answers. Where none does, root on Debian gets one: it is installed and started here.
# down    Stops the engine that `up` has started, and no other one.
# client  Prints the commands of a client that builds with BuildKit.
set -euo pipefail
cd "$(dirname "$0")/.."
state=$(scripts/target_dir.sh)/docker

fail() {
  echo "docker: $*" >&2
  exit 1
}

answers() {
  docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

# Whether the engine that was started here still runs. A zombie does not.
runs() {
  local pid
  pid=$(cat "$state/dockerd.pid" 2>/dev/null) || return 1
  [ -d "/proc/$pid" ] && [ "$(awk '{ print $3 }' "/proc/$pid/stat")" != Z ] && grep -qz dockerd "/proc/$pid/cmdline"
}

install_engine() {
  local need=()
  command -v dockerd >/dev/null || need+=(docker.io)
  command -v iptables >/dev/null || need+=(iptables)
  [ ${#need[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    fail "no engine answers, and only root on Debian can install one here; start a Docker Engine and try again"
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >"$state/install.log" 2>&1 ||
    fail "installing ${need[*]} failed: $(tail -n 5 "$state/install.log")"
}

start_engine() {
  rm -f "$state/dockerd.pid"
  # Networks of its own, which neither those of usual machines nor those of the Kubernetes tests meet.
  setsid dockerd --data-root "$state/data" --exec-root "$state/run" --pidfile "$state/dockerd.pid" \
    --bip 172.31.240.1/24 --default-address-pool base=172.31.241.0/20,size=24 \
    >"$state/dockerd.log" 2>&1 </dev/null &
  for _ in $(seq 150); do
    if answers; then return 0; fi
    sleep 0.2
  done
  fail "dockerd does not answer: $(tail -n 5 "$state/dockerd.log")"
}

up() {
  if answers; then return 0; fi
  mkdir -p "$state"
  install_engine
  if answers; then return 0; fi
  [ "$(id -u)" = 0 ] || fail "no engine answers, and only root can start one; start it and try again"
  start_engine
  echo "docker: started an engine; scripts/docker.sh down stops it" >&2
}

down() {
  runs || return 0
  local pid
  pid=$(cat "$state/dockerd.pid")
  kill "$pid"
  for _ in $(seq 150); do
    runs || return 0
    sleep 0.1
  done
  fail "the engine $pid does not stop"
}

# Clients from 23 on build with the plugin buildx only; Debian's older one has BuildKit inside.
client() {
  local candidate
  for candidate in docker /usr/bin/docker; do
    command -v "$candidate" >/dev/null || continue
    if "$candidate" buildx version >/dev/null 2>&1; then
      echo "$candidate buildx"
      return
    fi
    if [ "$("$candidate" version --format '{{.Client.Version}}' | cut -d. -f1)" -lt 23 ]; then
      echo "env DOCKER_BUILDKIT=1 $candidate"
      return
    fi
  done
  fail "no client here builds with BuildKit; install the plugin buildx"
}

case ${1:-up} in
  up | down | client) "${1:-up}" ;;
  *) fail "unknown command $1; there are up, down and client" ;;
esac
