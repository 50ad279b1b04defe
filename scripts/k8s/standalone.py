"""Mode standalone: one server is killed, evicted, upgraded and installed again, and keeps every record."""

import os

from kube import until
from mode import Mode


class Standalone(Mode):
    name, values = "standalone", "values-standalone.yaml"

    def run(self):
        self.step("helm install --wait", self.release.install, vital=True)
        self.step("helm test", self.helm_test)
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
        self.release.walser("topic", "create", self.topic, "--partitions", str(self.partitions))
        self.begin_load()

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
        values = self.release.walser("consume", self.topic, "--end", "--format", "%v\\n").split()
        assert len(values) == len(set(values)) == self.count, f"{len(values)} records, of {self.count}"
        return f"{len(values)} records"
