#!/usr/bin/env bash
# Starts a Kubernetes of one node from what scripts/k8s/tools.sh builds: scripts/k8s/up.sh TOOLS
#
# Real parts: etcd, API server, controller manager, scheduler, containerd, kubelet, kube-proxy, CoreDNS. Volumes are twelve
# directories. It must be root on Debian. scripts/k8s/down.sh takes it all away.
set -euo pipefail
tools=$1
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/k8s/state.sh
. "$here/state.sh"
pki=$state/pki

network() {
  ip netns add "$namespace"
  ip link add walser-k8s0 type veth peer name eth0 netns "$namespace"
  ip addr add "$host_address/30" dev walser-k8s0
  ip link set walser-k8s0 up
  ip -n "$namespace" addr add "$node_address/30" dev eth0
  ip -n "$namespace" link set eth0 up
  ip -n "$namespace" link set lo up
  ip -n "$namespace" route add default via "$host_address"
  # This machine reaches services and pods as a machine of the cluster does.
  ip route replace "$services" via "$node_address"
  ip route replace "$pods" via "$node_address"
  nsenter "--net=/run/netns/$namespace" sysctl -qw net.ipv4.ip_forward=1
  nsenter "--net=/run/netns/$namespace" sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true
}

new_key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)

# certificate FILE NAME ORGANIZATION [ALTERNATIVE NAMES]
certificate() {
  local extensions='keyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=clientAuth,serverAuth\n'
  openssl req -new "${new_key[@]}" -keyout "$pki/$1.key" -subj "/O=$3/CN=$2" -out "$pki/$1.csr" 2>/dev/null
  openssl x509 -req -in "$pki/$1.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 30 \
    -out "$pki/$1.crt" -extfile <(printf '%b%b' "$extensions" "${4:+subjectAltName=$4\n}") 2>/dev/null
}

# access FILE CERTIFICATE: how a component finds the API server, and shows who it is.
access() {
  cat >"$state/$1" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: walser, cluster: {server: "https://$node_address:6443", certificate-authority: "$pki/ca.crt"}}]
users: [{name: user, user: {client-certificate: "$pki/$2.crt", client-key: "$pki/$2.key"}}]
contexts: [{name: walser, context: {cluster: walser, user: user}}]
current-context: walser
YAML
}

certificates() {
  openssl req -x509 "${new_key[@]}" -keyout "$pki/ca.key" -subj /CN=walser-tests -days 30 -out "$pki/ca.crt" 2>/dev/null
  openssl genrsa -out "$pki/accounts.key" 2048 2>/dev/null
  openssl rsa -in "$pki/accounts.key" -pubout -out "$pki/accounts.pub" 2>/dev/null
  local api="DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
  certificate api kube-apiserver walser "$api,DNS:localhost,IP:127.0.0.1,IP:$service_of_api,IP:$node_address"
  certificate kubelet-client kube-apiserver-kubelet-client system:masters
  certificate kubelet "system:node:$node" system:nodes "DNS:$node,IP:$node_address"
  certificate admin admin system:masters
  access admin.conf admin
  access kubelet.conf kubelet
  local name
  for name in kube-controller-manager kube-scheduler kube-proxy; do
    certificate "$name" "system:$name" walser
    access "$name.conf" "$name"
  done
}

control_plane() {
  start etcd "$tools/etcd" --data-dir "$state/etcd" --log-level warn --unsafe-no-fsync
  start kube-apiserver "$tools/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0 \
    --secure-port=6443 --advertise-address="$node_address" --client-ca-file="$pki/ca.crt" \
    --tls-cert-file="$pki/api.crt" --tls-private-key-file="$pki/api.key" \
    --kubelet-client-certificate="$pki/kubelet-client.crt" --kubelet-client-key="$pki/kubelet-client.key" \
    --kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
    --service-cluster-ip-range="$services" --authorization-mode=Node,RBAC \
    --enable-admission-plugins=NodeRestriction --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-key-file="$pki/accounts.pub" --service-account-signing-key-file="$pki/accounts.key"
  wait_for "API server" 60 kubectl get --raw /readyz
  local name
  for name in kube-controller-manager kube-scheduler; do
    local access=$state/$name.conf options=()
    if [ "$name" = kube-controller-manager ]; then
      options=(--service-account-private-key-file="$pki/accounts.key" --root-ca-file="$pki/ca.crt"
        --use-service-account-credentials=true)
    fi
    start "$name" "$tools/$name" --kubeconfig="$access" --authentication-kubeconfig="$access" \
      --authorization-kubeconfig="$access" --bind-address=127.0.0.1 --leader-elect=false "${options[@]}"
  done
  wait_for "controller manager" 60 kubectl -n default get serviceaccount default
}

# The containers have no shell to be made with: each of these images is one program.
program_image() {
  tar -C "$tools" -c "$1" | docker import --change "ENTRYPOINT [\"/$1\"]" - "$1:walser-tests" >/dev/null
}

runtime() {
  sed -e "s#@STATE@#$state#g" "$here/containerd.toml" >"$state/conf/containerd.toml"
  sed -e "s#@STATE@#$state#g" -e "s#@PODS@#$pods#g" "$here/network.conflist" >"$state/cni/10-walser.conflist"
  start containerd containerd --config "$state/conf/containerd.toml"
  wait_for containerd 20 containers version
  local image
  for image in pause coredns; do
    program_image "$image"
    "$here/import.sh" "$image:walser-tests"
  done
}

node() {
  sed -e "s#@STATE@#$state#g" -e "s#@DNS@#$service_of_dns#g" "$here/kubelet.yaml" >"$state/conf/kubelet.yaml"
  sed -e "s#@STATE@#$state#g" -e "s#@PODS@#$pods#g" -e "s#@NODE@#$node#g" "$here/proxy.yaml" >"$state/conf/proxy.yaml"
  start kubelet "$tools/kubelet" --config="$state/conf/kubelet.yaml" --kubeconfig="$state/kubelet.conf" \
    --root-dir="$state/kubelet" --cert-dir="$pki" --hostname-override="$node" --node-ip="$node_address"
  start kube-proxy "$tools/kube-proxy" --config="$state/conf/proxy.yaml"
  wait_for "the node" 60 kubectl wait "node/$node" --for=condition=Ready --timeout=1s
}

# Nothing makes volumes here: these are bound as they are asked for.
volumes() {
  local number
  for number in $(seq -w 12); do
    mkdir -p "$state/volumes/$number"
    sed -e "s#@NAME@#volume-$number#" -e "s#@PATH@#$state/volumes/$number#" -e "s#@NODE@#$node#" "$here/volume.yaml"
  done | kubectl apply -f - >/dev/null
}

[ ! -e "$state" ] || fail "$state exists; scripts/k8s/down.sh takes away what an earlier run has left"
mkdir -p "$state"/{run,log,conf,cni,volumes,pki,containerd,kubelet}
chmod 755 "$state"
network
certificates
control_plane
runtime
node
sed -e "s#@DNS@#$service_of_dns#" "$here/system.yaml" | kubectl apply -f - >/dev/null
volumes
kubectl -n kube-system rollout status deployment/coredns --timeout=90s >/dev/null
