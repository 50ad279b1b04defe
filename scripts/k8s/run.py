"""Runs the chart on a Kubernetes, a verdict for each step: run.py [standalone] [cluster] [tls]. See scripts/test_k8s.sh."""

import os
import signal
import sys
from pathlib import Path

from cluster import Cluster
from secure import Secure, SecureStandalone
from standalone import Standalone
from verdicts import CannotGoOn, Verdicts

SCENARIOS = {"standalone": [Standalone], "cluster": [Cluster], "tls": [SecureStandalone, Secure]}


def main():
    # A request to stop ends this as Ctrl-C does; what was started is taken away by the script that runs this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    verdicts = Verdicts(Path(os.environ["WALSER_LOGS"]) / "failed.txt")
    for scenario in [scenario for name in sys.argv[1:] or SCENARIOS for scenario in SCENARIOS[name]]:
        try:
            scenario(verdicts).run()
        except CannotGoOn as step:
            print(f"{scenario.name}: the steps after \"{step}\" were not run", flush=True)
    sys.stdout.flush()
    # Threads of a load that was not judged must not hold the end up.
    os._exit(verdicts.totals())


if __name__ == "__main__":
    main()
