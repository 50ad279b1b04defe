#!/usr/bin/env bash
# Takes away the Kubernetes of scripts/k8s/up.sh with all its state: scripts/k8s/down.sh
set -uo pipefail
# shellcheck source=scripts/k8s/state.sh
. "$(dirname "$0")/state.sh"

end_containers() {
  local id
  for id in $(containers tasks ls -q); do containers tasks kill -s KILL "$id"; done
  for _ in $(seq 20); do
    for id in $(containers tasks ls -q); do containers tasks rm -f "$id"; done
    [ -n "$(containers tasks ls -q)" ] || break
    sleep 0.2
  done
  for id in $(containers containers ls -q); do containers containers rm "$id"; done
}

[ -e "$state" ] || exit 0
# First what would start containers again.
stop kubelet
stop kube-proxy
if [ -S "$containerd_socket" ]; then end_containers >/dev/null 2>&1; fi
for name in containerd kube-scheduler kube-controller-manager kube-apiserver etcd; do stop "$name"; done
awk -v below="$state/" 'index($2, below) == 1 { print $2 }' /proc/mounts | sort -r | while read -r mount; do
  umount -l "$mount"
done
# The networks of pods, whose names containerd has given them. It is the only one here: Docker makes none.
awk '$2 ~ "^/run/netns/cni-" { print $2 }' /proc/mounts | sort -u | while read -r mount; do
  if [ -e "$state/ipam" ]; then umount -l "$mount" && rm -f "$mount"; fi
done
find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} \; 2>/dev/null
if ip netns list | grep -qw "$namespace"; then ip netns del "$namespace"; fi
ip link del walser-k8s0 2>/dev/null
rm -rf "$state"
