#!/usr/bin/env bash
# Runs the compose files, a verdict for each step: scripts/test_compose.sh
#
# The images must be there (`make images`; the one of etcd is made where it cannot be pulled). Ports are free ones, and
# everything that it starts is taken away at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
export WALSER_IMAGE=${WALSER_IMAGE:-walser:dev}
failed=0
started_docker=
docker version >/dev/null 2>&1 || started_docker=1
scripts/docker.sh up
read -ra compose <<<"$(scripts/compose.sh)"
one=("${compose[@]}" -p walser-test -f compose.yaml)
cluster=("${compose[@]}" -p walser-test-cluster -f compose.cluster.yaml)

down() {
  local code=$?
  trap '' INT TERM
  "${one[@]}" down -v -t 5 >/dev/null 2>&1 || true
  "${cluster[@]}" down -v -t 5 >/dev/null 2>&1 || true
  if [ -n "$started_docker" ]; then scripts/docker.sh down; fi
  exit $code
}
trap down EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step() {
  local text=$1 begun out
  shift
  begun=$(date +%s%3N)
  if out=$("$@" 2>&1); then
    printf 'ok      %6d ms  %s\n' $(($(date +%s%3N) - begun)) "$text"
  else
    printf 'FAILED  %6d ms  %s\n%s\n' $(($(date +%s%3N) - begun)) "$text" "$(tail -n 15 <<<"$out")"
    failed=1
  fi
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
WALSER_PORT=$(free_port) WALSER_PORT_2=$(free_port) WALSER_ADMIN_PORT=$(free_port)
export WALSER_PORT WALSER_PORT_2 WALSER_ADMIN_PORT

# The program is the one in the image: it is on the way to the server that a user takes, too.
in_one() { "${one[@]}" exec -T walser walser "$@"; }
in_gateway() { "${cluster[@]}" exec -T "$1" walser "${@:2}"; }
reads() { [ "$("$@" consume records --end -f '%v\n' | sort | tr '\n' ' ')" = "one two " ]; }
# A port that is published answers HTTP/2, which begins with a frame of settings.
published() { python3 -c 'import socket, sys; s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 3)
s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"); sys.exit(s.recv(9)[3] != 4)' "$1"; }

step "compose.yaml is valid" "${one[@]}" config -q
step "compose.cluster.yaml is valid" "${cluster[@]}" config -q

step "one server: up" "${one[@]}" up -d --wait --wait-timeout 120
step "one server: the published port answers" published "$WALSER_PORT"
step "one server: records are written" in_one produce records one two
step "one server: the container is removed, the volume stays" "${one[@]}" down
step "one server: up again" "${one[@]}" up -d --wait --wait-timeout 120
step "one server: the records are there" reads in_one
step "one server: down" "${one[@]}" down -v

scripts/images.sh etcd
step "cluster: up" "${cluster[@]}" up -d --wait --wait-timeout 180
step "cluster: the port of the first gateway answers" published "$WALSER_PORT"
step "cluster: the port of the second gateway answers" published "$WALSER_PORT_2"
step "cluster: healthy" in_gateway gateway-1 status
step "cluster: records are written" in_gateway gateway-1 produce records one two
step "cluster: a storage node and a controller are killed" "${cluster[@]}" kill storage-node-1 controller-1
step "cluster: records are read through the other gateway" reads in_gateway gateway-2
step "cluster: they are started again" "${cluster[@]}" up -d --wait --wait-timeout 120
step "cluster: down" "${cluster[@]}" down -v
exit $failed
