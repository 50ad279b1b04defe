#!/usr/bin/env bash
# Makes the small image that the program runs on from packages of this Debian: scripts/base_image.sh TAG
#
# It is for machines that can pull no image. What it has: the libraries that the program is linked with, CA certificates,
# time zones, the user 65532, and the licences of all this. It has no shell and no other program.
set -euo pipefail
cd "$(dirname "$0")/.."
tag=$1
packages=(libc6 libgcc-s1 ca-certificates tzdata)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

fail() {
  echo "base image: $*" >&2
  exit 1
}

unpack() {
  command -v apt-get >/dev/null || fail "packages of Debian are needed to make it; pull one, and name it in BASE_IMAGE"
  mkdir "$root/debs" "$root/unpacked"
  # The download needs lists of packages, which only root can get.
  if [ "$(id -u)" = 0 ]; then apt-get update -qq; fi
  download "${packages[@]}"
  # The licence of libgcc lies in the package that its directory is a link to, whose name has a version in it.
  local documents=$root/unpacked/usr/share/doc/libgcc-s1
  if [ -L "$documents" ]; then download "$(readlink "$documents")"; fi
}

download() {
  (cd "$root/debs" && apt-get download -qq "$@" 2>/dev/null) || fail "apt-get download $* failed"
  local deb
  for deb in "$root/debs"/*.deb; do dpkg-deb -x "$deb" "$root/unpacked"; done
}

# The libraries lie in /lib/MACHINE or /usr/lib/MACHINE; their loader also under the path that programs name.
libraries() {
  local from to=$root/image/lib/$(gcc -print-multiarch 2>/dev/null || dpkg-architecture -qDEB_HOST_MULTIARCH) name
  mkdir -p "$to"
  for name in libc.so.6 libm.so.6 libgcc_s.so.1; do
    from=$(find "$root/unpacked" -name "$name" -print -quit)
    cp -L "$from" "$to/$name"
  done
  from=$(find "$root/unpacked" -name 'ld-linux-*' -type f -print -quit)
  name=${from##*/}
  cp "$from" "$to/$name"
  local loader=/lib64/$name
  [ "$(uname -m)" = x86_64 ] || loader=/lib/$name
  mkdir -p "$root/image${loader%/*}"
  ln -s "${to#"$root/image"}/$name" "$root/image$loader"
}

data() {
  local image=$root/image
  mkdir -p "$image/etc/ssl/certs" "$image/usr/share" "$image/var/lib" "$image/usr/bin"
  cat "$root/unpacked"/usr/share/ca-certificates/mozilla/*.crt >"$image/etc/ssl/certs/ca-certificates.crt"
  cp -a "$root/unpacked/usr/share/zoneinfo" "$image/usr/share/zoneinfo"
  local package
  for package in "${packages[@]}"; do
    mkdir -p "$image/usr/share/doc/$package"
    cp -L "$root/unpacked/usr/share/doc/$package/copyright" "$image/usr/share/doc/$package/"
  done
  printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n' >"$image/etc/passwd"
  printf 'root:x:0:\nnonroot:x:65532:\n' >"$image/etc/group"
  printf 'hosts: files dns\n' >"$image/etc/nsswitch.conf"
}

mkdir "$root/image"
unpack
libraries
data
tar -C "$root/image" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -c . |
  docker import --message "made by scripts/base_image.sh" - "$tag" >/dev/null
