"""Both modes with TLS everywhere: certificates are made by the chart, renewed under load, and asked for."""

from cluster import Cluster
from standalone import Standalone
from trust import Trust

PUBLIC = "walser-tls"
# Certificates between processes by the components that show them.
INTERNAL = {
    "storage": "walser-internal-tls-storage-node",
    "controller": "walser-internal-tls-controller",
    "coordinator": "walser-internal-tls-group-coordinator",
}
GATEWAY = "walser-internal-tls-gateway"
ETCD, ETCD_CLIENT = "walser-etcd-tls", "walser-etcd-client-tls"
ALL = [PUBLIC, *INTERNAL.values(), GATEWAY, ETCD, ETCD_CLIENT]
# A name that the certificate does not have from the first.
HOST = "walser.example.com"


class Secure(Cluster):
    name, tls = "tls", True

    def __init__(self, verdicts):
        super().__init__(verdicts)
        self.trust = Trust(self.release)

    def run(self):
        self.step("helm install --wait, declared topic", self.install, vital=True)
        self.step("helm test", self.helm_test)
        self.step("a pod with the authority writes and reads", self.trust.used_by_a_pod)
        self.step("clients without TLS are refused", lambda: self.trust.refused_without_tls(self.release.address()))
        self.step("internal ports are for processes of the cluster", self.internal_ports)
        self.step("etcd is for controllers and its members", self.etcd)
        self.step("load begins", self.begin_load, vital=True)
        for role in ("storage", "etcd"):
            self.step(f"SIGKILL under load: {role}", lambda role=role: self.disturbed(lambda: self.kill(role)))
        self.step("another host in the certificate under load, no pod restarts", lambda: self.disturbed(self.another_host))
        self.step("other certificates under load, no pod restarts", lambda: self.disturbed(self.renew))
        self.step("helm upgrade restarts every process of Walser under load", lambda: self.disturbed(self.upgrade))
        self.step("the judge", self.judge)
        self.step("helm uninstall keeps the volumes", self.uninstall, vital=True)
        self.step("a second install finds the records", self.install_again)
        self.step("everything is taken away", self.release.remove)

    def addresses(self, component):
        return [pod["status"]["podIP"] for pod in self.release.pods(component)]

    def internal_ports(self):
        hosts = [host for component in INTERNAL for host in self.addresses(component)]
        for host in hosts:
            self.trust.only_for(host, 7461, GATEWAY, member=GATEWAY, strangers=[PUBLIC, ETCD_CLIENT])
        said = self.trust.refused_without_tls(*(f"{self.addresses(component)[0]}:7461" for component in INTERNAL))
        return f"{len(hosts)} ports; without TLS {said}"

    def etcd(self):
        hosts = self.addresses("etcd")
        for host in hosts:
            self.trust.only_for(host, 2379, ETCD, member=ETCD_CLIENT, strangers=[PUBLIC, GATEWAY])
            # Members come from where the names in their certificate lead to: even theirs opens nothing from here.
            self.trust.for_none(host, 2380, ETCD, [None, PUBLIC, GATEWAY, ETCD])
        health = self.release.kubectl("exec", "walser-etcd-0", "--", "etcdctl", "endpoint", "health", "--cluster")
        assert health.count("https://") == health.count("is healthy") == len(hosts), health
        return f"{len(hosts)} members"

    def without_restarts(self, action):
        def pods():
            return {(pod["metadata"]["uid"], self.release.restarts(pod["metadata"]["name"])) for pod in self.release.pods()}

        before = pods()
        said = action()
        assert pods() == before, "pods were restarted"
        return said

    def another_host(self):
        def action():
            self.trust.renewed_for(HOST, ALL)
            self.trust.show("gateway", 7460, PUBLIC)
            self.trust.known_as(HOST)

        self.without_restarts(action)

    def renew(self):
        """Takes the certificates away and has the chart make them again; the authorities stay."""

        def action():
            before = self.trust.certificates(ALL)
            self.release.kubectl("delete", "secret", *ALL)
            self.release.upgrade()
            after = self.trust.certificates(ALL)
            same = [name for name in ALL if before[name] == after[name]]
            assert not same, f"not made again: {same}"
            self.trust.show("gateway", 7460, PUBLIC)
            for component, secret in INTERNAL.items():
                self.trust.show(component, 7461, secret)
            self.trust.show("etcd", 2379, ETCD)
            return f"{len(ALL)} certificates"

        return self.without_restarts(action)


class SecureStandalone(Standalone):
    name, tls = "standalone-tls", True

    def __init__(self, verdicts):
        super().__init__(verdicts)
        self.trust = Trust(self.release)

    def run(self):
        self.step("helm install --wait", self.release.install, vital=True)
        self.step("helm test", self.helm_test)
        self.step("a pod with the authority writes and reads", self.trust.used_by_a_pod)
        self.step("clients without TLS are refused", lambda: self.trust.refused_without_tls(self.release.address()))
        self.step("load begins", self.begin, vital=True)
        self.step("SIGKILL under load", lambda: self.disturbed(self.kill))
        self.step("another host in the certificate under load, no restart", lambda: self.disturbed(self.another_host))
        self.step("helm upgrade with another setting, under load", lambda: self.disturbed(self.upgrade))
        self.step("the judge", self.judge)
        self.step("helm uninstall keeps the volume", self.uninstall, vital=True)
        self.step("a second install finds the records", self.install_again)
        self.step("everything is taken away", self.release.remove)

    def another_host(self):
        before = self.uid(), self.release.restarts("walser-0")
        self.trust.renewed_for(HOST, [PUBLIC])
        self.trust.show("standalone", 7460, PUBLIC)
        self.trust.known_as(HOST)
        assert (self.uid(), self.release.restarts("walser-0")) == before, "the pod was restarted"
