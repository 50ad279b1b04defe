#!/usr/bin/env bash
# A member of a group without a stream: prints the values of records, a line each, and commits what it has printed.
#   poll.sh GROUP TOPIC GATEWAY...    needs grpcurl and jq
set -euo pipefail
join=$(jq -nc --arg group "$1" --arg topic "$2" '{group: $group, topics: [$topic]}')
shift 2
token=''
while :; do
  request=$(jq -nc --argjson join "$join" --arg token "$token" '{join: $join, token: $token, commitPrevious: true}')
  if answer=$(grpcurl -plaintext -max-time 10 -d "$request" "$1" walser.v1.GroupService/PollGroup 2>&1); then
    jq -r '.chunks[]?.records[]?.value | @base64d' <<<"$answer"
    token=$(jq -r .token <<<"$answer")
  else
    printf '%s\n' "$answer" >&2
    case $answer in
    *FENCED* | *FIELD_INVALID*) token='' ;; # The token is of no use any more: join anew.
    esac
    # Else the same call again, at the next gateway.
    set -- "${@:2}" "$1"
    sleep 1
  fi
done
