#!/usr/bin/env bash
# Builds the images and checks them: scripts/images.sh [walser|etcd ...]
#
# walser  `IMAGE` (walser:dev), from the sources. Where the images that images/Dockerfile begins with cannot be pulled,
#         the program is built outside and the base is made here.
# etcd    The official image's name, made here from what scripts/etcd.sh builds, for tests.
#
# BUILD=inside|outside   decides where the program is built; `auto` asks whether images can be pulled
# WALSER_BINARY=FILE     a program that is built already, instead of a build outside
set -euo pipefail
cd "$(dirname "$0")/.."

image=${IMAGE:-walser:dev}
etcd_version=v3.6.16
etcd_image=gcr.io/etcd-development/etcd:$etcd_version
local_base=walser-base:dev
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
revision=${WALSER_COMMIT:-$(git rev-parse HEAD 2>/dev/null || true)}
created=$(date -u -d "@${SOURCE_DATE_EPOCH:-$(date +%s)}" +%Y-%m-%dT%H:%M:%SZ)

default_of() {
  sed -n "s/^ARG $1=//p" images/Dockerfile | head -1
}

# Whether an image is here, or can be had in a minute.
available() {
  docker image inspect "$1" >/dev/null 2>&1 || timeout 60 docker pull -q "$1" >/dev/null 2>&1
}

base() {
  if [ -n "${BASE_IMAGE:-}" ]; then
    echo "$BASE_IMAGE"
    return
  fi
  docker image inspect "$local_base" >/dev/null 2>&1 || scripts/base_image.sh "$local_base" >&2
  echo "$local_base"
}

place_of_build() {
  if [ "${BUILD:-auto}" != auto ]; then
    echo "$BUILD"
  elif [ -z "${WALSER_BINARY:-}" ] && available "$(default_of BASE_IMAGE)" && available "$(default_of BUILD_IMAGE)"; then
    echo inside
  else
    echo outside
  fi
}

# Runs the client with what every build of ours has.
build() {
  local client
  read -ra client <<<"$(scripts/docker.sh client)"
  "${client[@]}" build -q --build-arg VERSION="$version" --build-arg REVISION="$revision" --build-arg CREATED="$created" \
    "$@" >/dev/null
}

program() {
  if [ -n "${WALSER_BINARY:-}" ]; then
    echo "$WALSER_BINARY"
    return
  fi
  PROTOC=${PROTOC:-$PWD/scripts/protoc.sh} WALSER_COMMIT=$revision \
    cargo build -q --release -p walser --features etcd >&2
  echo "$(scripts/target_dir.sh)/release/walser"
}

build_walser() {
  local place context built base
  place=$(place_of_build)
  if [ "$place" = inside ]; then
    build -f images/Dockerfile ${BASE_IMAGE:+--build-arg BASE_IMAGE="$BASE_IMAGE"} -t "$image" .
  else
    base=$(base)
    built=$(program)
    context=$(mktemp -d)
    mkdir "$context/data"
    strip -o "$context/walser" "$built"
    # What has been linked against a newer libc than that of the base would not start.
    build -f images/Dockerfile --build-arg PROGRAM=outside --build-arg BASE_IMAGE="$base" -t "$image" "$context" ||
      { rm -rf "$context"; return 1; }
    rm -rf "$context"
  fi
  scripts/check_image.sh "$image"
}

build_etcd() {
  if available "$etcd_image"; then return 0; fi
  local context programs base
  base=$(base)
  programs=$(scripts/etcd.sh)
  context=$(mktemp -d)
  cp "$programs/etcd" "$programs/etcdctl" "$programs/etcdutl" "$context/"
  build -f images/etcd.Dockerfile --build-arg BASE_IMAGE="$base" -t "$etcd_image" "$context" ||
    { rm -rf "$context"; return 1; }
  rm -rf "$context"
  echo "$etcd_image"
  docker run --rm --read-only "$etcd_image" /usr/local/bin/etcd --version >/dev/null
}

scripts/docker.sh up
[ $# -gt 0 ] || set -- walser
for name in "$@"; do
  case $name in
    walser | etcd) "build_$name" ;;
    *) echo "images: there is no image $name; there are walser and etcd" >&2 && exit 2 ;;
  esac
done
