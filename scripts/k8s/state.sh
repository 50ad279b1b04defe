# Sourced by the scripts beside it: where the state of the small Kubernetes is, and how its processes are started and
# stopped. Everything runs in a network namespace of its own, so that its rules, bridges and ports meet nobody else's.

# Not below the target directory, whose path may be too long for the sockets in it.
state=${WALSER_K8S_STATE:-/var/tmp/walser-k8s}
namespace=walser-k8s
node=walser-node
host_address=10.200.0.1
node_address=10.200.0.2
services=10.96.0.0/16
service_of_api=10.96.0.1
service_of_dns=10.96.0.10
pods=10.244.0.0/24
containerd_socket=$state/containerd/containerd.sock

fail() {
  echo "kubernetes: $*" >&2
  exit 1
}

# Whether the process that was started under a name runs. A zombie does not, nor does another one with its id.
runs() {
  local pid
  pid=$(cat "$state/run/$1.pid" 2>/dev/null) || return 1
  [ -r "/proc/$pid/stat" ] && [ "$(awk '{ print $3 }' "/proc/$pid/stat" 2>/dev/null)" != Z ] &&
    tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "$1"
}

# start NAME PROGRAM ARGUMENT...: in the namespace, in a session of its own.
start() {
  local name=$1
  shift
  setsid nsenter "--net=/run/netns/$namespace" "$@" >"$state/log/$name.log" 2>&1 </dev/null &
  echo $! >"$state/run/$name.pid"
}

stop() {
  local pid
  if runs "$1"; then
    pid=$(cat "$state/run/$1.pid")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 100); do
      runs "$1" || break
      sleep 0.1
    done
    if runs "$1"; then kill -9 "$pid" 2>/dev/null || true; fi
  fi
  rm -f "$state/run/$1.pid"
}

# wait_for WHAT SECONDS COMMAND...
wait_for() {
  local what=$1 tries=$(($2 * 5))
  shift 2
  for _ in $(seq "$tries"); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.2
  done
  fail "$what: not within $((tries / 5)) s; logs are in $state/log"
}

kubectl() {
  "$tools/kubectl" --kubeconfig "$state/admin.conf" "$@"
}

containers() {
  ctr --address "$containerd_socket" -n k8s.io "$@"
}
