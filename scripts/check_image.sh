#!/usr/bin/env bash
# Checks an image of Walser, a line for each: scripts/check_image.sh IMAGE
set -euo pipefail
image=$1
size_max=80000000
container=
failed=0

stop() {
  [ -z "$container" ] || docker rm -f -v "$container" >/dev/null 2>&1 || true
}
trap stop EXIT

# check TEXT COMMAND...: the last line of what the command prints is shown.
check() {
  local text=$1 out
  shift
  if out=$("$@" 2>&1); then
    printf '  ok      %-34s %s\n' "$text" "$(tail -n 1 <<<"$out")"
  else
    printf '  FAILED  %-34s %s\n' "$text" "$out"
    failed=1
  fi
}

field() {
  docker image inspect -f "$1" "$image"
}

size() {
  local size
  size=$(field '{{.Size}}')
  awk -v size="$size" 'BEGIN { printf "%.1f MB\n", size / 1e6 }'
  [ "$size" -le "$size_max" ]
}

equals() { # EXPECTED TEMPLATE
  local actual
  actual=$(field "$2")
  echo "$actual"
  [ "$actual" = "$1" ]
}

labels() {
  local name
  for name in title description licenses source version revision created; do
    if [ -z "$(field "{{index .Config.Labels \"org.opencontainers.image.$name\"}}")" ]; then
      echo "the label $name is empty"
      return 1
    fi
  done
  field '{{index .Config.Labels "org.opencontainers.image.version"}}'
}

# What a container of it has, without what the engine puts into every container.
contents() {
  local id
  id=$(docker create "$image")
  docker export "$id" | tar -t | sed 's#^\./##' | grep -vE '/$|^(dev/|proc/|sys/|\.dockerenv|etc/(hostname|hosts|resolv.conf|mtab)$)'
  docker rm -v "$id" >/dev/null
}

nothing_else() {
  local known other
  known='^usr/bin/walser$|^lib(64)?/([a-z0-9_-]+/)?(ld-linux-[a-z0-9-]+|libc|libm|libgcc_s)\.so\.[0-9]+$'
  known+='|^etc/(passwd|group|nsswitch\.conf|ssl/certs/ca-certificates\.crt)$|^usr/share/(zoneinfo|doc/[a-z0-9-]+/copyright)'
  if [ "$(field '{{index .RootFS.Layers 0}}')" != "$(docker image inspect -f '{{index .RootFS.Layers 0}}' walser-base:dev 2>/dev/null)" ]; then
    # A base that was pulled has more libraries: only programs count.
    other=$(contents | grep -E '(^|/)s?bin/[^/]+$' | grep -vE '^usr/bin/walser$') || true
  else
    other=$(contents | grep -vE "$known") || true
  fi
  echo "${other:-$(contents | wc -l) files}"
  [ -z "$other" ]
}

hardened=(--read-only --cap-drop ALL --security-opt no-new-privileges)

version() {
  docker run --rm --network none "${hardened[@]}" "$image" --version
}

# Without its client a controller refuses to start for another reason than that no member is named.
knows_etcd() {
  local said
  said=$(docker run --rm --network none "${hardened[@]}" "$image" controller --set controller.metastore=etcd 2>&1) || true
  echo "$said"
  ! grep -q "built without etcd" <<<"$said"
}

serves() {
  container=$(docker run -d --network none "${hardened[@]}" "$image")
  for _ in $(seq 150); do
    if docker exec "$container" walser status >/dev/null 2>&1; then
      docker exec "$container" walser status | sed -n 2p
      return
    fi
    sleep 0.2
  done
  docker logs --tail 5 "$container"
  return 1
}

user_of_process() {
  local user
  user=$(docker top "$container" -eo pid,uid,args | awk 'NR == 2 { print $2 }')
  echo "$user"
  [ "$user" = 65532 ]
}

record() {
  docker exec "$container" walser produce images one >/dev/null
  [ "$(docker exec "$container" walser consume images --end -f '%v\n')" = one ]
}

stops() {
  local started
  started=$(date +%s%3N)
  docker stop -t 30 "$container" >/dev/null
  echo "$(($(date +%s%3N) - started)) ms"
  [ "$(docker inspect -f '{{.State.ExitCode}}' "$container")" = 0 ]
}

echo "$image"
check "size, at most 80 MB" size
check "user" equals 65532:65532 '{{.Config.User}}'
check "stop signal" equals SIGTERM '{{.Config.StopSignal}}'
check "entrypoint" equals '[walser]' '{{.Config.Entrypoint}}'
check "volume" equals 'map[/var/lib/walser:{}]' '{{.Config.Volumes}}'
check "labels" labels
check "nothing else is in it" nothing_else
check "walser --version, read-only root" version
check "metadata can be in etcd" knows_etcd
# In this shell, because the container is needed further on.
serves >/dev/null || true
check "serves with a read-only root" docker exec "$container" walser status
check "user of the process" user_of_process
check "a record is written and read" record
check "SIGTERM ends it with code 0" stops
exit $failed
