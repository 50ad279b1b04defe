"""Mode cluster with TLS everywhere: certificates are made by the chart, renewed under load, and asked for."""

import base64
import json

from cluster import Cluster
from kube import CommandFailed, run, until

ROLES = ["controller", "storage-node", "gateway", "group-coordinator"]


class Secure(Cluster):
    name, tls = "tls", True

    def run(self):
        self.step("helm install --wait, declared topic", self.install, vital=True)
        self.step("helm test", lambda: self.release.helm("test", "walser", "--timeout", "3m") and None)
        self.step("a client without TLS is refused", self.refused)
        self.step("load begins", self.begin, vital=True)
        for role in ("storage", "etcd"):
            self.step(f"SIGKILL under load: {role}", lambda role=role: self.disturbed(lambda: self.kill(role)))
        self.step("other certificates under load, no pod restarts", lambda: self.disturbed(self.renew))
        self.step("helm upgrade restarts every process of Walser under load", lambda: self.disturbed(self.upgrade))
        self.step("the judge", self.judge)
        self.step("helm uninstall keeps the volumes", self.uninstall, vital=True)
        self.step("a second install finds the records", self.install_again)
        self.step("everything is taken away", self.release.remove)

    def refused(self):
        try:
            run(self.release.program, "status", "--server", self.release.address(), timeout=60)
        except CommandFailed:
            return "refused"
        raise AssertionError("it was served")

    def secret(self, name):
        return json.loads(self.release.kubectl("get", "secret", name, "-o", "json"))["data"]

    def renew(self):
        """Takes the certificates away and has the chart make them again; the authorities stay."""
        names = ["walser-tls"] + [f"walser-internal-tls-{role}" for role in ROLES]
        before = {name: base64.b64decode(self.secret(name)["tls.crt"]) for name in names}
        pods = self.uids(["storage", "controller", "coordinator", "gateway"])
        self.release.kubectl("delete", "secret", *names)
        self.release.upgrade()
        after = {name: base64.b64decode(self.secret(name)["tls.crt"]) for name in names}
        same = [name for name in names if before[name] == after[name]]
        assert not same, f"not made again: {same}"
        assert self.uids(["storage", "controller", "coordinator", "gateway"]) == pods, "pods were restarted"
        until(self.release.healthy, "healthy with other certificates", 180)
        return f"{len(names)} certificates"
