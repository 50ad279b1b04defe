"""What is asked of ports that have TLS: whom they serve, whom they refuse, and which certificate they show."""

import base64
import json
import os
import socket
import ssl
import tempfile
from pathlib import Path

from kube import CommandFailed, run, until

# What a client of HTTP/2 begins with: its preface, and empty settings.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
# How often a client is tried of which it is not certain what it is told.
TRIES = 10
IMAGE = "docker.io/library/walser:dev"


class Trust:
    """The Secrets of a release, and its ports as strangers see them."""

    def __init__(self, release):
        self.release = release

    def secret(self, name):
        data = json.loads(self.release.kubectl("get", "secret", name, "-o", "json"))["data"]
        return {key: base64.b64decode(value) for key, value in data.items()}

    def certificates(self, names):
        return {name: self.secret(name)["tls.crt"] for name in names}

    def refused_without_tls(self, *addresses):
        """No command without TLS is served; returns how often it was told why."""
        told = 0
        for address in addresses:
            for _ in range(TRIES):
                try:
                    run(self.release.program, "topic", "list", "--server", address, timeout=60)
                except CommandFailed as error:
                    told += "speaks TLS" in str(error)
                else:
                    raise AssertionError(f"{address} has served a client without TLS")
        assert told, "nobody was told that it is for TLS"
        return f"refused, told why {told} of {TRIES * len(addresses)} times"

    def serves(self, host, port, authority, identity=None):
        """Whether a port answers who believes in the authority of a Secret, and shows the certificate of another."""
        with tempfile.TemporaryDirectory(dir=os.environ["WALSER_LOGS"]) as directory:
            context = ssl.create_default_context(cadata=self.secret(authority)["ca.crt"].decode())
            # Between processes only authority and role count.
            context.check_hostname = False
            context.set_alpn_protocols(["h2"])
            if identity:
                files = {name: Path(directory) / name for name in ("tls.crt", "tls.key")}
                for name, file in files.items():
                    file.write_bytes(self.secret(identity)[name])
                context.load_cert_chain(*files.values())
            with socket.create_connection((host, port), 10) as plain:
                try:
                    with context.wrap_socket(plain, server_hostname=host) as stream:
                        stream.sendall(HELLO)
                        return bool(stream.recv(9))
                except ssl.SSLCertVerificationError as error:
                    raise AssertionError(f"{host}:{port} is not of the authority {authority}") from error
                except (ssl.SSLError, ConnectionError):
                    return False

    def only_for(self, host, port, authority, member, strangers):
        """A port serves who has the certificate of one Secret, and nobody with none, or with one of the others."""
        assert self.serves(host, port, authority, member), f"{host}:{port} refuses {member}"
        self.for_none(host, port, authority, [None, *strangers])

    def for_none(self, host, port, authority, strangers):
        for stranger in strangers:
            assert not self.serves(host, port, authority, stranger), f"{host}:{port} serves {stranger or 'who shows nothing'}"

    def shown(self, component, port):
        """The certificates that the pods of a component show now."""
        hosts = [pod["status"]["podIP"] for pod in self.release.pods(component)]
        return [ssl.get_server_certificate((host, port), timeout=10).strip() for host in hosts]

    def show(self, component, port, secret):
        """Waits until the pods of a component show the certificate of a Secret: Kubernetes takes its time to give it to them."""
        wanted = self.secret(secret)["tls.crt"].decode().strip()
        until(lambda: all(one == wanted for one in self.shown(component, port)), f"{component} shows {secret}", 240)

    def used_by_a_pod(self):
        """A pod that has the authority and nothing else writes and reads a record."""
        service = f"{self.release.public_host()}:7460"
        common = {"image": IMAGE, "imagePullPolicy": "Never", "volumeMounts": [{"name": "trust", "mountPath": "/trust"}]}

        def command(name, *arguments):
            return common | {"name": name, "args": [*arguments, "--server", service, "--tls-ca", "/trust/ca.crt"]}

        authority = {"secretName": f"{self.release.name}-tls", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "client"},
            "spec": {
                "restartPolicy": "Never",
                "initContainers": [command("produce", "produce", "hello", "it works")],
                "containers": [command("consume", "consume", "hello", "--end", "--format", "%v")],
                "volumes": [{"name": "trust", "secret": authority}],
            },
        }
        self.release.kubectl("create", "-f", "-", stdin=json.dumps(pod))
        self.release.kubectl("wait", "pod/client", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
        said = self.release.kubectl("logs", "client", "-c", "consume").strip()
        assert said == "it works", said
        self.release.kubectl("delete", "pod", "client")

    def renewed_for(self, host, names):
        """An upgrade with one more name changes the public certificate, and no other of these."""
        before = self.certificates(names)
        self.release.upgrade(f"tls.selfSigned.hosts={{{host}}}")
        after = self.certificates(names)
        changed = [name for name in names if before[name] != after[name]]
        assert changed == [f"{self.release.name}-tls"], f"made anew: {changed}"

    def known_as(self, host):
        """Whether a client that looks for this name finds it."""
        file = Path(os.environ["WALSER_LOGS"]) / f"{self.release.namespace}-ca.crt"
        file.write_bytes(self.release.authority())
        options = ["--server", self.release.address(), "--tls-ca", str(file), "--tls-server-name", host]
        return run(self.release.program, "topic", "list", *options, timeout=60)
