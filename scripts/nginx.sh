#!/usr/bin/env bash
# Builds nginx from the sources in the crate nginx-src, once, and prints the directory: scripts/nginx.sh
set -euo pipefail
cd "$(dirname "$0")/.."

version=1.28.3
crate=1.28.5+$version # The crate counts by itself. It comes from NGINX.
checksum=60c9192630560c017a18e1da5b4c5de9d78450923f17325752c6f0f7f3911c86

fail() {
  echo "nginx: $*" >&2
  exit 1
}

nginx=$(scripts/target_dir.sh)/nginx/$version
if [ ! -x "$nginx/nginx" ]; then
  for tool in cc make; do
    command -v $tool >/dev/null || fail "$tool is missing; install it (on Debian: apt-get install gcc libc6-dev make) and try again"
  done
  # This downloads that one crate; as a dependency it would bring seventy others.
  cargo info --quiet "nginx-src@$crate" >/dev/null || fail "cargo cannot download the crate nginx-src $crate; see above"
  crates=${CARGO_HOME:-$HOME/.cargo}/registry/cache
  archive=$(find "$crates" -name "nginx-src-$crate.crate" -print -quit)
  [ -n "$archive" ] || fail "cargo has put the crate nginx-src $crate elsewhere than in $crates; set CARGO_HOME"
  echo "$checksum  $archive" | sha256sum --check --status ||
    fail "$archive does not have the checksum in scripts/nginx.sh; remove the file and try again"

  rm -rf "$nginx"
  mkdir -p "$nginx/src"
  tar -xzf "$archive" -C "$nginx/src" --strip-components 1
  cd "$nginx/src/nginx"
  # HTTP/2 and grpc_pass without TLS; what is left out needs PCRE and zlib, or is not for gRPC.
  options=(--with-http_v2_module --without-pcre --with-cc-opt=-Wno-error)
  for module in access auth_basic autoindex browser charset empty_gif fastcgi geo gzip memcached mirror referer rewrite \
    scgi split_clients ssi userid uwsgi; do
    options+=("--without-http_${module}_module")
  done
  { auto/configure "${options[@]}" && make -j "$(nproc)"; } >"$nginx/log" 2>&1 ||
    fail "building it failed; all of what was printed is in $nginx/log, which ends with:
$(tail -n 20 "$nginx/log")"
  cp objs/nginx "$nginx/nginx.new"
  cd "$nginx"
  mv nginx.new nginx
  rm -r src
fi
echo "$nginx"
