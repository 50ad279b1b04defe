#!/usr/bin/env bash
# Checks the chart: every value file against the schemas of Kubernetes, and the tests of scripts/chart_tests; without names of
# tests also its alerts and its dashboard. Installs what that needs: scripts/chart.sh [NAME OF A TEST ...]
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(scripts/target_dir.sh)
venv=$target/python
if [ ! -x "$venv/bin/python" ]; then python3 -m venv "$venv"; fi
"$venv/bin/python" -c 'import yaml' 2>/dev/null || "$venv/bin/pip" install -q --disable-pip-version-check 'pyyaml>=6'
go=$(command -v go || true)
if [ -z "$go" ] || ! "$go" version | grep -qE 'go1\.(2[5-9]|[3-9][0-9])'; then
  go="$target/go/toolchain/bin/go"
  [ -x "$go" ] || "$venv/bin/python" scripts/go_toolchain.py go1.26.8 "$target/go/toolchain"
fi
tools=$(scripts/chart_tools.sh "$go")
export PATH="$venv/bin:$tools:$PATH"
schemas=$(echo "$tools"/schemas-*)

status=0
for values in charts/walser/ci/*.yaml; do
  # These are no kinds of Kubernetes' own; the tests look at them.
  checked=$(helm template prod charts/walser --namespace data --values "$values" |
    kubeconform -strict -summary -skip ServiceMonitor,PrometheusRule \
      -schema-location "$schemas/{{.ResourceKind}}{{.KindSuffix}}.json") || status=$?
  printf '%-32s %s\n' "$(basename "$values")" "$(tail -n 1 <<<"$checked")"
  [ $status = 0 ] || { echo "$checked" >&2; exit $status; }
done
python -W error -m unittest discover -s scripts/chart_tests -t scripts/chart_tests "${@/#/-k}"
[ $# != 0 ] || scripts/monitoring.sh
