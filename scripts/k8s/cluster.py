"""Mode cluster: every service is killed, evicted, restarted and scaled under load, and nothing acknowledged is lost."""

import json
import os
import time

from kube import CommandFailed, until
from mode import Mode

# Roles by the names of the chart, with the number of their pods.
ROLES = {"storage": 3, "etcd": 3, "controller": 2, "coordinator": 2, "gateway": 2}


class Cluster(Mode):
    name, values, partitions = "cluster", "values-cluster.yaml", 6

    def run(self):
        self.step("helm install --wait, declared topic", self.install, vital=True)
        self.step("helm test", self.helm_test)
        self.step("load begins", self.begin_load, vital=True)
        for role in ROLES:
            self.step(f"SIGKILL under load: {role}", lambda role=role: self.disturbed(lambda: self.kill(role)))
        for role in ("controller", "storage", "gateway"):
            self.step(f"network cut, then gone: {role}", lambda role=role: self.disturbed(lambda: self.vanish(role)))
        self.step("storage pod evicted, the next one is refused", lambda: self.disturbed(lambda: self.evict("storage")))
        self.step("gateway pod evicted", lambda: self.disturbed(lambda: self.release.evict(self.victim("gateway"))))
        self.step("helm upgrade restarts every process of Walser under load", lambda: self.disturbed(self.upgrade))
        self.step("gateways scaled to 3", lambda: self.disturbed(lambda: self.scale(3)))
        self.step("gateways scaled to 2", lambda: self.disturbed(lambda: self.scale(2)))
        self.step("helm rollback under load", lambda: self.disturbed(self.rollback))
        self.step("an upgrade to fewer storage nodes is refused", self.shrink)
        self.step("an empty volume in place of a lost one is filled", lambda: self.disturbed(self.lose_volume))
        self.step("the judge", self.judge)
        self.step("helm uninstall keeps the volumes", self.uninstall, vital=True)
        self.step("a second install finds the records", self.install_again)
        self.step("everything is taken away", self.release.remove)

    def install(self):
        self.release.install()
        counts = {role: len(self.release.pods(role)) for role in ROLES}
        assert counts == ROLES, f"pods: {counts}"
        until(self.release.healthy, "healthy")

    def victim(self, role):
        """The pod of a role whose loss is felt: the controller that leads, the gateway that most clients are connected to."""
        metric = {"controller": "walser_controller_active", "gateway": "walser_listener_connections"}.get(role)
        if metric is None:
            return self.release.pod(role)
        values = {pod["metadata"]["name"]: self.release.metric(pod, metric) for pod in self.release.pods(role)}
        chosen = max(values, key=values.get)
        assert values[chosen] > 0, f"{metric}: {values}"
        return chosen

    def kill(self, role):
        self.release.kill(self.victim(role))

    def vanish(self, role):
        """As if the machine of a pod were gone: its address answers nothing any more, not even with a refusal."""
        pod = self.victim(role)
        before = self.uids([role])
        self.release.cut(pod)
        time.sleep(3)
        self.release.kill_process(pod)
        self.release.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
        until(lambda: self.uids([role]) - before, "another pod")

    def evict(self, role):
        self.release.evict(self.release.pod(role, 0))
        try:
            self.release.evict(self.release.pod(role, 1))
        except CommandFailed as error:
            if "disruption budget" in str(error):
                return "refused by the budget"
            raise
        raise AssertionError("a second pod was evicted while the first was away")

    def uids(self, roles):
        return {pod["metadata"]["uid"] for role in roles for pod in self.release.pods(role)}

    def restarts(self, action, roles):
        before = self.uids(roles)
        action()
        until(lambda: not before & self.uids(roles), "every pod is another one", 60)
        return f"{len(before)} pods"

    def upgrade(self):
        walser = [role for role in ROLES if role != "etcd"]
        return self.restarts(lambda: self.release.upgrade("config.log\\.level=debug"), walser)

    def rollback(self):
        walser = [role for role in ROLES if role != "etcd"]
        return self.restarts(lambda: self.release.helm("rollback", "walser", "1", "--wait", "--timeout", "10m"), walser)

    def scale(self, replicas):
        self.release.upgrade("config.log\\.level=debug", f"gateway.replicas={replicas}")
        until(lambda: len(self.release.pods("gateway")) == replicas, f"{replicas} gateways")

    def shrink(self):
        before = self.uids(ROLES)
        try:
            self.release.upgrade("storage.replicas=2", timeout="2m")
        except CommandFailed:
            assert self.uids(ROLES) == before, "pods were changed although the upgrade was refused"
            return "refused"
        raise AssertionError("the upgrade was not refused")

    def lose_volume(self):
        pod = self.release.pod("storage", 2)
        claims = json.loads(self.release.kubectl("get", "pod", pod, "-o", "json"))["spec"]["volumes"]
        claim = next(volume["persistentVolumeClaim"]["claimName"] for volume in claims if "persistentVolumeClaim" in volume)
        before, lost = self.uids(["storage"]), self.volume_of(claim)
        self.release.kubectl("delete", "pvc", claim, "--wait=false")
        self.release.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
        until(lambda: len(self.uids(["storage"]) - before) == 1, "another pod")
        until(lambda: self.volume_of(claim) not in (None, lost), "another volume", 60)

    def volume_of(self, claim):
        found = [item for item in self.release.get("pvc") if item["metadata"]["name"] == claim]
        return found[0]["spec"].get("volumeName") if found else None

    def judge(self):
        said = self.load.judge(os.environ["WALSER_HISTORY"])
        self.count = self.load.written()
        return said

    def uninstall(self):
        before = {claim["metadata"]["name"] for claim in self.release.get("pvc")}
        self.release.uninstall()
        after = {claim["metadata"]["name"] for claim in self.release.get("pvc") if claim["status"]["phase"] == "Bound"}
        assert after == before and len(after) == 6, f"claims before {before}, after {after}"
        return f"{len(after)} claims"

    def install_again(self):
        self.release.install()
        until(self.release.healthy, "healthy", 180)
        values = self.release.walser("consume", self.topic, "--end", "--format", "%v\\n").split()
        assert len(values) == len(set(values)) == self.count, f"{len(values)} records, of {self.count}"
        return f"{len(values)} records"
