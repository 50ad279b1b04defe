#!/usr/bin/env bash
# Checks the alerts and the dashboard of the chart: rules and expressions with promtool, every alert by its tests, and all of
# it against docs/operations.md. Installs what that needs: scripts/monitoring.sh
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$(scripts/target_dir.sh)/python
if [ ! -x "$venv/bin/python" ]; then python3 -m venv "$venv"; fi
"$venv/bin/python" -c 'import yaml' 2>/dev/null || "$venv/bin/pip" install -q --disable-pip-version-check 'pyyaml>=6'
PROMTOOL=$(scripts/promtool.sh)
export PROMTOOL

"$PROMTOOL" check rules charts/walser/files/alerts.yaml
"$PROMTOOL" test rules scripts/monitoring_tests/*.yaml >/dev/null
"$venv/bin/python" -W error -m unittest discover -s scripts/monitoring_tests -t scripts/monitoring_tests
