"""Kubernetes and Helm as a test uses them: commands that are run, and waited for."""

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

# The network namespace of the node, as scripts/k8s/state.sh names it.
NETWORK = "walser-k8s"
COMPONENT = "app.kubernetes.io/component"


class CommandFailed(Exception):
    pass


def run(*command, stdin=None, timeout=900, env=None):
    """Returns what a command prints; raises what it says when it fails."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, env=env, check=False)
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{' '.join(command[:4])} … did not end within {timeout} s") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-600:]
        raise CommandFailed(f"{' '.join(command[:6])} … ended with {done.returncode}: {said}")
    return done.stdout


def until(condition, what, seconds=120):
    """Waits until a condition holds; an error of it counts as no. Returns what it returned."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except CommandFailed as error:
            last = error
        time.sleep(0.3)
    raise CommandFailed(f"not within {seconds} s: {what}{f' ({last})' if last else ''}")


class Release:
    """A release of the chart in a namespace of its own."""

    def __init__(self, namespace, values, name="walser", tls=False):
        self.name, self.namespace, self.tls = name, namespace, tls
        self.tools, self.state = Path(os.environ["WALSER_K8S_TOOLS"]), Path(os.environ["WALSER_K8S_STATE"])
        self.chart, self.values, self.program = os.environ["WALSER_CHART"], values, os.environ["WALSER_BINARY"]
        self.env = os.environ | {"KUBECONFIG": str(self.state / "admin.conf")}
        self.kubectl_anywhere("create", "namespace", namespace)

    def kubectl_anywhere(self, *arguments, **options):
        return run(str(self.tools / "kubectl"), *arguments, env=self.env, **options)

    def kubectl(self, *arguments, **options):
        return self.kubectl_anywhere("-n", self.namespace, *arguments, **options)

    def get(self, kind, *arguments):
        return json.loads(self.kubectl("get", kind, "-o", "json", *arguments))["items"]

    # Helm.

    def helm(self, *arguments):
        return run(str(self.tools / "helm"), "-n", self.namespace, *arguments, env=self.env)

    def apply(self, verb, *settings, timeout="8m"):
        files = [option for file in self.values for option in ("-f", str(file))]
        sets = [option for setting in settings for option in ("--set", setting)]
        self.helm(verb, self.name, self.chart, "--wait", "--timeout", timeout, *files, *sets)

    def install(self, *settings):
        self.apply("install", *settings)

    def upgrade(self, *settings, timeout="10m"):
        self.apply("upgrade", *settings, timeout=timeout)

    def uninstall(self):
        self.helm("uninstall", self.name, "--wait", "--timeout", "8m")
        until(lambda: not self.pods(), "all pods gone")

    def remove(self):
        """Removes the release with its namespace and volumes, which are emptied for the next one."""
        self.uninstall()
        self.kubectl_anywhere("delete", "namespace", self.namespace, "--timeout=2m")
        volumes = json.loads(self.kubectl_anywhere("get", "pv", "-o", "json"))["items"]
        for volume in volumes:
            if volume["status"]["phase"] == "Released":
                path = Path(volume["spec"]["local"]["path"])
                shutil.rmtree(path)
                path.mkdir()
                patch = '[{"op":"remove","path":"/spec/claimRef"}]'
                self.kubectl_anywhere("patch", "pv", volume["metadata"]["name"], "--type=json", "-p", patch)

    # Pods.

    def pods(self, component=None):
        """Pods that are not those of jobs, which end."""
        selector = f"{COMPONENT}={component}" if component else COMPONENT
        found = self.get("pods", "-l", selector)
        return [pod for pod in found if pod["spec"].get("restartPolicy", "Always") == "Always"]

    def pod(self, component, number=0):
        pods = sorted(self.pods(component), key=lambda pod: pod["metadata"]["name"])
        if len(pods) <= number:
            raise CommandFailed(f"there is no pod {number} of the component {component}")
        return pods[number]["metadata"]["name"]

    def all_ready(self):
        def ready(pod):
            conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
            return "deletionTimestamp" not in pod["metadata"] and conditions.get("Ready") == "True"

        pods = self.pods()
        return bool(pods) and all(ready(pod) for pod in pods) and len(pods) == self.wanted()

    def wanted(self):
        return sum(item["spec"]["replicas"] for kind in ("statefulsets", "deployments") for item in self.get(kind))

    def restarts(self, pod):
        return sum(status["restartCount"] for status in self.status(pod).get("containerStatuses", []))

    def status(self, pod):
        return json.loads(self.kubectl("get", "pod", pod, "-o", "json"))["status"]

    def kill_process(self, pod):
        container = self.status(pod)["containerStatuses"][0]["containerID"].removeprefix("containerd://")
        socket = str(self.state / "containerd/containerd.sock")
        run("ctr", "--address", socket, "-n", "k8s.io", "tasks", "kill", "-s", "KILL", container)

    def kill(self, pod):
        """Kills the process of a pod (SIGKILL), and waits until it was started again."""
        before = self.restarts(pod)
        self.kill_process(pod)
        until(lambda: self.restarts(pod) > before, f"{pod} was started again")

    def cut(self, pod):
        """Takes the cable out of a pod: its link to the bridge goes down, and nobody is told."""
        ip = self.status(pod)["podIP"]
        neighbour = run("ip", "-n", NETWORK, "neigh", "show", ip).split()
        if "lladdr" not in neighbour:
            raise CommandFailed(f"the address of {pod} is not known to the bridge: {neighbour}")
        port = until(lambda: self.port_of(neighbour[neighbour.index("lladdr") + 1]), f"port of {pod}", 5)
        run("ip", "-n", NETWORK, "link", "set", port, "down")

    def port_of(self, lladdr):
        for line in run("bridge", "-n", NETWORK, "fdb", "show").splitlines():
            words = line.split()
            if words[0] == lladdr and "permanent" not in words and "dev" in words:
                return words[words.index("dev") + 1]
        return None

    def metric(self, pod, name):
        """A metric without labels of a pod, whose admin port this machine reaches by the pod's address."""
        url = f"http://{pod['status']['podIP']}:7463/metrics"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError as error:
            raise CommandFailed(f"{url}: {error}") from error
        return next((float(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0.0)

    def evict(self, pod):
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": self.namespace}}
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        self.kubectl_anywhere("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))

    # The product.

    def address(self):
        """Of the Service that clients use."""
        for service in self.get("services"):
            ports = [port["port"] for port in service["spec"]["ports"]]
            if 7460 in ports and service["spec"]["clusterIP"] != "None":
                return f"{service['spec']['clusterIP']}:7460"
        raise CommandFailed("there is no Service with the port 7460")

    def public_host(self):
        """The name of that Service, which its certificate has."""
        return f"{self.name}.{self.namespace}.svc"

    def authority(self):
        """The certificate (PEM) of the authority that the public port is known by; `None` without TLS."""
        if not self.tls:
            return None
        secret = json.loads(self.kubectl("get", "secret", f"{self.name}-tls", "-o", "json"))
        return base64.b64decode(secret["data"]["ca.crt"])

    def walser(self, *arguments):
        env = {"WALSER_SERVER": self.address()}
        if self.tls:
            file = Path(os.environ["WALSER_LOGS"]) / f"{self.namespace}-ca.crt"
            file.write_bytes(self.authority())
            env |= {"WALSER_TLS_CA": str(file), "WALSER_TLS_SERVER_NAME": self.public_host()}
        return run(self.program, *arguments, env=os.environ | env, timeout=120)

    def healthy(self):
        """Whether every pod is ready and the product finds nothing wrong: all replicas are in sync, too."""
        return self.all_ready() and bool(self.walser("status"))

    def describe(self):
        """For a step that has failed: what is there, and what was last said."""
        lines = [self.kubectl("get", "pods,pvc", "-o", "wide"), self.kubectl("get", "events", "--sort-by=.lastTimestamp")[-3000:]]
        for pod in self.pods():
            conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
            if conditions.get("Ready") != "True":
                name = pod["metadata"]["name"]
                for previous in ([], ["--previous"]) if self.restarts(name) else ([],):
                    try:
                        lines.append(f"--- {name} {previous}\n" + self.kubectl("logs", name, "--tail=15", *previous))
                    except CommandFailed as error:
                        lines.append(f"--- {name}: {error}")
        return "\n".join(lines)
