"""Mode standalone: one server is killed, evicted, upgraded and installed again, and keeps every record."""

import os
import time
from pathlib import Path

from kube import Release, until
from load import Load, Server

HERE = Path(__file__).parent
TOPIC, PARTITIONS = "load", 3


class Standalone:
    name, tls = "standalone", False

    def __init__(self, verdicts):
        self.verdicts = verdicts
        values = ["values.yaml", "values-standalone.yaml"] + (["values-tls.yaml"] if self.tls else [])
        self.release = Release(self.name, [HERE / file for file in values], tls=self.tls)
        self.load = None
        self.count = 0

    def step(self, name, action, vital=False):
        self.verdicts.step(f"{self.name}: {name}", action, self.release.describe, vital)

    def run(self):
        self.step("helm install --wait", self.release.install, vital=True)
        self.step("helm test", lambda: self.release.helm("test", "walser", "--timeout", "3m") and None)
        self.step("load begins", self.begin, vital=True)
        self.step("SIGKILL under load", lambda: self.disturbed(self.kill))
        self.step("pod evicted under load", lambda: self.disturbed(self.evict))
        self.step("helm upgrade with another setting, under load", lambda: self.disturbed(self.upgrade))
        self.step("helm rollback under load", lambda: self.disturbed(self.rollback))
        self.step("the judge", self.judge)
        self.step("helm uninstall keeps the volume", self.uninstall, vital=True)
        self.step("a second install finds the records", self.install_again)
        self.step("everything is taken away", self.release.remove)

    def begin(self):
        self.release.walser("topic", "create", TOPIC, "--partitions", str(PARTITIONS))
        server = Server(self.release.address(), self.release.authority(), self.release.public_host())
        self.load = Load(server, TOPIC, PARTITIONS, Path(os.environ["WALSER_LOGS"]) / f"{self.name}.history")
        self.load.go_on()

    def disturbed(self, action):
        since = time.monotonic()
        action()
        until(self.release.healthy, "healthy again", 180)
        self.load.go_on()
        return f"pause {self.load.pause(since):.1f} s"

    def kill(self):
        self.release.kill(self.release.pod("standalone"))

    def changes_pod(self, action):
        before = self.uid()
        action()
        until(lambda: self.uid() not in (before, None), "another pod")

    def uid(self):
        pods = self.release.pods("standalone")
        return pods[0]["metadata"]["uid"] if pods else None

    def evict(self):
        self.changes_pod(lambda: self.release.evict(self.release.pod("standalone")))

    def upgrade(self):
        self.changes_pod(lambda: self.release.upgrade("config.shutdown\\.grace\\.ms=9s"))

    def rollback(self):
        self.changes_pod(lambda: self.release.helm("rollback", "walser", "1", "--wait", "--timeout", "5m"))

    def judge(self):
        said = self.load.judge(os.environ["WALSER_HISTORY"])
        self.count = self.load.written()
        return said

    def uninstall(self):
        self.release.uninstall()
        claims = [claim["status"]["phase"] for claim in self.release.get("pvc")]
        assert claims == ["Bound"], f"the claims are {claims}"

    def install_again(self):
        self.release.install()
        values = self.release.walser("consume", TOPIC, "--end", "--format", "%v\\n").split()
        assert len(values) == len(set(values)) == self.count, f"{len(values)} records, of {self.count}"
        return f"{len(values)} records"
