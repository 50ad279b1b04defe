"""What the modes have in common: one release of the chart, disturbed under load step by step."""

import os
import time
from pathlib import Path

from kube import Release, until
from load import Load, Server

HERE = Path(__file__).parent


class Mode:
    """A release of the chart; `values` is the file of its kind."""

    name, values, tls, topic, partitions = "", "", False, "load", 3

    def __init__(self, verdicts):
        self.verdicts = verdicts
        files = ["values.yaml", self.values] + (["values-tls.yaml"] if self.tls else [])
        self.release = Release(self.name, [HERE / file for file in files], tls=self.tls)
        self.load = None
        self.count = 0

    def step(self, name, action, vital=False):
        self.verdicts.step(f"{self.name}: {name}", action, self.release.describe, vital)

    def helm_test(self):
        self.release.helm("test", "walser", "--timeout", "3m")

    def begin_load(self):
        server = Server(self.release.address(), self.release.authority(), self.release.public_host())
        self.load = Load(server, self.topic, self.partitions, Path(os.environ["WALSER_LOGS"]) / f"{self.name}.history")
        self.load.go_on()

    def disturbed(self, action):
        """Does something under load; the pause that it makes, once all is well again."""
        since = time.monotonic()
        said = action()
        until(self.release.healthy, "healthy again", 300)
        self.load.go_on()
        return f"{f'{said}, ' if said else ''}pause {self.load.pause(since):.1f} s"
