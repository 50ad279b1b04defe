"""What runs, and how it is placed, watched and kept apart."""
import os
import re
import tomllib
import unittest

from rendering import (CHART, ROOT, component, containers, every, main_container, named, of_component, of_kind, pods,
                       render, workloads)

PROCESSES = ("controller", "storage", "coordinator", "gateway", "standalone")


def documented_settings():
    with open(os.path.join(ROOT, "docs", "operations.md")) as file:
        page = file.read()
    tables = re.findall(r"<!-- (?:processes|settings) -->(.*?)<!-- end of", page, re.S)
    return {key for table in tables for key in re.findall(r"^\| `([a-z.]+)` \|", table, re.M)}


def settings(objects, name):
    workload = [one for one in workloads(objects) if component(one) == name][0]
    volume = workload["spec"]["template"]["spec"]["volumes"][0]
    return tomllib.loads(named(objects, "ConfigMap", volume["configMap"]["name"])["data"]["walser.toml"])


def variables(container):
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container.get("env", [])}


def milliseconds(duration):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m)?", duration).groups()
    return int(number) * {"ms": 1, None: 1, "s": 1000, "m": 60_000}[unit]


class Quorums(unittest.TestCase):
    def test_pods_start_at_once_and_find_each_other_before_they_are_ready(self):
        for file, objects in every():
            for one in of_kind(objects, "StatefulSet"):
                self.assertEqual(one["spec"]["podManagementPolicy"], "Parallel", file)
                service = named(objects, "Service", one["spec"]["serviceName"])["spec"]
                self.assertEqual((service["clusterIP"], service["publishNotReadyAddresses"]), ("None", True), file)
                self.assertEqual(service["selector"], one["spec"]["selector"]["matchLabels"], file)

    def test_clients_meet_only_gateways_that_are_ready(self):
        for file, objects in every():
            service = [one for one in of_kind(objects, "Service") if one["spec"].get("clusterIP") != "None"]
            self.assertEqual(len(service), 1, file)
            self.assertNotIn("publishNotReadyAddresses", service[0]["spec"])

    def test_controllers_are_known_by_name(self):
        objects = render("cluster.yaml", {"controller.replicas": 3})
        addresses = settings(objects, "gateway")["controller.address"].split(",")
        domain = "prod-walser-controller.data.svc.cluster.local:7461"
        self.assertEqual(addresses, [f"prod-walser-controller-{number}.{domain}" for number in range(3)])
        self.assertEqual(settings(objects, "storage")["controller.address"].split(","), addresses)

    def test_nodes_have_the_number_of_their_pod_and_ids_begin_at_one(self):
        storage = of_component(render("cluster.yaml"), "StatefulSet", "storage")
        self.assertEqual(storage["spec"]["ordinals"], {"start": 1})
        node = variables(main_container(storage))["WALSER_STORAGE_NODE_ID"]["fieldRef"]["fieldPath"]
        self.assertEqual(node, "metadata.labels['apps.kubernetes.io/pod-index']")

    def test_addresses_of_ipv6_are_in_brackets(self):
        for file, address, everywhere in (("cluster.yaml", "$(POD_IP):7461", "0.0.0.0"),
                                          ("cluster-ipv6.yaml", "[$(POD_IP)]:7461", "[::]")):
            objects = render(file)
            storage = variables(main_container(of_component(objects, "StatefulSet", "storage")))
            self.assertEqual(storage["WALSER_STORAGE_ADVERTISE"], address)
            self.assertEqual(settings(objects, "gateway")["listen"], f"{everywhere}:7460")


class Probes(unittest.TestCase):
    def test_life_is_the_process_alone_and_readiness_no_part_of_the_start(self):
        checked = 0
        for file, objects in every():
            for one in workloads(objects):
                container = main_container(one)
                paths = {probe: container[probe]["httpGet"]["path"] for probe in container if probe.endswith("Probe")}
                wanted = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
                self.assertEqual(paths, wanted, file)
                for probe in paths:
                    self.assertEqual(container[probe]["httpGet"]["port"], "admin")
                checked += 1
        self.assertGreater(checked, 50)

    def test_a_roll_waits_for_readiness(self):
        storage = of_component(render("cluster.yaml"), "StatefulSet", "storage")["spec"]
        self.assertEqual(storage.get("updateStrategy", {"type": "RollingUpdate"})["type"], "RollingUpdate")
        # Storage nodes are ready once their replicas are in sync: to wait longer is for those who want it.
        self.assertNotIn("minReadySeconds", storage)
        slower = of_component(render("cluster.yaml", {"storage.minReadySeconds": 7}), "StatefulSet", "storage")["spec"]
        self.assertEqual(slower["minReadySeconds"], 7)
        # etcd says nothing of members that have to catch up.
        self.assertGreaterEqual(of_component(render("cluster.yaml"), "StatefulSet", "etcd")["spec"]["minReadySeconds"], 5)
        gateway = of_component(render("cluster.yaml"), "Deployment", "gateway")["spec"]
        self.assertEqual(gateway["strategy"]["rollingUpdate"], {"maxSurge": 1, "maxUnavailable": 0})

    def test_the_time_to_stop_is_more_than_a_process_takes(self):
        for file, objects in every():
            for one in workloads(objects):
                spec = one["spec"]["template"]["spec"]
                sleep = main_container(one).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
                grace = 10_000
                if component(one) != "etcd":
                    grace = milliseconds(settings(objects, component(one)).get("shutdown.grace.ms", "10000"))
                # 10 s in which leads are given away, and as much again as a margin for the disk.
                needed = sleep + grace / 1000 + 10 + 30
                self.assertGreaterEqual(spec["terminationGracePeriodSeconds"], needed, f"{file} {component(one)}")

    def test_gateways_leave_the_service_before_they_stop(self):
        gateway = main_container(of_component(render("cluster.yaml"), "Deployment", "gateway"))
        self.assertGreater(gateway["lifecycle"]["preStop"]["sleep"]["seconds"], 0)


class Etcd(unittest.TestCase):
    def test_no_member_removes_itself(self):
        for file, objects in every():
            for one in [one for one in of_kind(objects, "StatefulSet") if component(one) == "etcd"]:
                for container in containers(one["spec"]["template"]["spec"]):
                    self.assertNotIn("lifecycle", container, file)
                    self.assertNotIn("member", str(container.get("command", "")) + str(container.get("args", "")))

    def test_a_replacement_concerns_one_member_and_restarts_none(self):
        before, after = render("cluster.yaml"), render("cluster.yaml", {"etcd.replaceMember": 2})
        self.assertEqual(of_kind(before, "StatefulSet"), of_kind(after, "StatefulSet"))
        files = [named(objects, "ConfigMap", "prod-walser-etcd")["data"] for objects in (before, after)]
        changed = {name for name in files[0] if files[0][name] != files[1][name]}
        self.assertEqual(changed, {"prod-walser-etcd-2.yaml"})
        self.assertIn("initial-cluster-state: existing", files[1]["prod-walser-etcd-2.yaml"])
        self.assertNotIn("existing", "".join(files[0].values()))

    def test_members_know_each_other(self):
        data = named(render("cluster-large.yaml"), "ConfigMap", "prod-walser-etcd")["data"]
        self.assertEqual(len(data), 5)
        clusters = {line for text in data.values() for line in text.split("\n") if line.startswith("initial-cluster:")}
        self.assertEqual(len(clusters), 1)
        self.assertEqual(clusters.pop().count("=http://"), 5)
        self.assertIn("quota-backend-bytes: 4294967296", data["prod-walser-etcd-0.yaml"])

    def test_an_external_one_is_used_and_none_installed(self):
        for file, scheme in (("cluster-external-etcd.yaml", "http"), ("cluster-external-etcd-tls.yaml", "https")):
            objects = render(file)
            self.assertEqual([one for one in objects if component(one) == "etcd"], [])
            controller = settings(objects, "controller")
            self.assertTrue(controller["controller.etcd.endpoints"].startswith(f"{scheme}://"))
            self.assertEqual("controller.etcd.cert.file" in controller, scheme == "https")


class Settings(unittest.TestCase):
    def test_every_setting_is_documented(self):
        known = documented_settings()
        self.assertGreater(len(known), 40)
        for file, objects in every():
            for one in workloads(objects):
                if component(one) != "etcd":
                    self.assertEqual(set(settings(objects, component(one))) - known, set(), file)
                for name in variables(main_container(one)):
                    if name.startswith("WALSER_") and not name.startswith("WALSER_TLS"):
                        key = name.removeprefix("WALSER_").lower().replace("_", ".")
                        self.assertIn(key, known, file)

    def test_numbers_are_written_out(self):
        objects = render("standalone-ephemeral.yaml")
        self.assertEqual(settings(objects, "standalone")["gateway.write.bytes.max"], "134217728")

    def test_what_a_component_is_given_wins(self):
        sets = {"config": {"log.level": "debug", "shutdown.grace.ms": "1s"}, "storage.config": {"log.level": "warn"}}
        objects = render("cluster.yaml", sets)
        self.assertEqual(settings(objects, "storage")["log.level"], "warn")
        self.assertEqual(settings(objects, "storage")["shutdown.grace.ms"], "1s")
        self.assertEqual(settings(objects, "gateway")["shutdown.grace.ms"], "30s")

    def test_without_tls_it_is_said_and_with_tls_only_probes_are_open(self):
        for file, objects in every():
            for one in workloads(objects):
                if component(one) != "etcd":
                    arguments = main_container(one)["args"]
                    self.assertEqual("--insecure-admin" in arguments, "tls" in file and "external" not in file
                                     or file == "cluster-external-etcd-tls.yaml", file)
                    self.assertEqual("--insecure" in arguments, "--insecure-admin" not in arguments, file)


class Tls(unittest.TestCase):
    def test_every_file_that_a_setting_names_is_mounted_from_a_secret(self):
        checked = 0
        for file, objects in every():
            for one in workloads(objects):
                spec = one["spec"]["template"]["spec"]
                volumes = {volume["name"]: volume for volume in spec["volumes"]}
                mounts = {mount["mountPath"]: volumes.get(mount["name"]) for mount in main_container(one)["volumeMounts"]}
                contents = {} if component(one) == "etcd" else settings(objects, component(one))
                for key, value in contents.items():
                    if key.endswith(".file"):
                        self.assertIn("secret", mounts[os.path.dirname(value)], f"{file}: {key}")
                        checked += 1
        self.assertGreater(checked, 50)

    def test_each_role_has_its_own_certificate(self):
        objects = render("cluster-tls.yaml")
        secrets = {}
        for one in workloads(objects):
            volumes = one["spec"]["template"]["spec"]["volumes"]
            names = {volume["name"]: volume["secret"]["secretName"] for volume in volumes if "secret" in volume}
            secrets[component(one)] = {name.removeprefix("tls-"): of.removeprefix("prod-walser-")
                                       for name, of in names.items()}
        self.assertEqual(secrets, {
            "controller": {"internal": "internal-tls-controller", "etcd": "etcd-client-tls"},
            "storage": {"internal": "internal-tls-storage-node"},
            "coordinator": {"internal": "internal-tls-group-coordinator"},
            "gateway": {"internal": "internal-tls-gateway", "public": "tls"},
            "etcd": {"etcd": "etcd-tls"},
        })

    def test_certificates_have_the_names_that_are_dialed(self):
        job = named(render("cluster-tls.yaml"), "Job", "prod-walser-tls-setup")
        arguments = containers(job["spec"]["template"]["spec"])[0]["args"]
        hosts = {arguments[at + 1] for at, flag in enumerate(arguments) if flag == "--host"}
        self.assertLessEqual({"prod-walser", "prod-walser.data.svc", "127.0.0.1"}, hosts)
        members = {arguments[at + 1] for at, flag in enumerate(arguments) if flag == "--etcd-host"}
        self.assertIn("prod-walser-etcd-2.prod-walser-etcd.data.svc.cluster.local", members)

    def test_jobs_and_commands_in_pods_are_clients_with_tls(self):
        for file, wanted in (("cluster-tls.yaml", {"WALSER_TLS_CA": "/etc/walser/tls/public/ca.crt"}),
                             ("cluster-tls-system-trust.yaml", {"WALSER_TLS": "true"}),
                             ("cluster-tls-existing.yaml", {"WALSER_TLS_CERT": "/etc/walser/tls/job/tls.crt",
                                                            "WALSER_TLS_SERVER_NAME": "walser.example.com"})):
            objects = render(file)
            test = named(objects, "Pod", "prod-walser-test")["spec"]
            gateway = named(objects, "Deployment", "prod-walser-gateway")["spec"]["template"]["spec"]
            for container in [*containers(test), *containers(gateway)]:
                self.assertLessEqual(wanted.items(), variables(container).items(), file)
                mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
                for path in wanted.values():
                    if path.startswith("/"):
                        self.assertIn(path.rsplit("/", 1)[0], mounted, file)


class Safety(unittest.TestCase):
    def test_containers_may_nothing(self):
        for file, objects in every():
            for one, spec in pods(objects):
                where = f"{file}: {one['metadata']['name']}"
                self.assertFalse(spec["enableServiceLinks"], where)
                self.assertTrue(spec["securityContext"]["runAsNonRoot"], where)
                self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"}, where)
                for container in containers(spec):
                    self.assertFalse(container["image"].endswith(":latest"), where)
                    if container["image"].startswith("busybox") or file == "cluster-hatches.yaml":
                        continue  # What the values bring along.
                    context = container["securityContext"]
                    self.assertFalse(context["allowPrivilegeEscalation"], where)
                    self.assertTrue(context["readOnlyRootFilesystem"], where)
                    self.assertEqual(context["capabilities"], {"drop": ["ALL"]}, where)

    def test_names_are_not_too_long_and_not_twice(self):
        for file, objects in every():
            names = [(one["kind"], one["metadata"]["name"]) for one in objects]
            self.assertEqual(len(names), len(set(names)), file)
        objects = render("cluster-tls.yaml", {"fullnameOverride": "a" * 40})
        for one in objects:
            # A StatefulSet's name and a hash are a label of its pods.
            longest = 52 if one["kind"] == "StatefulSet" else 63
            self.assertLessEqual(len(one["metadata"]["name"]), longest, one["metadata"]["name"])

    def test_evictions_take_one_pod_of_each_kind(self):
        budgets = {component(one): one["spec"] for one in of_kind(render("cluster.yaml"), "PodDisruptionBudget")}
        self.assertEqual(set(budgets), {"controller", "storage", "coordinator", "gateway", "etcd"})
        for name, spec in budgets.items():
            self.assertEqual(spec["maxUnavailable"], 1)
            policy = "AlwaysAllow" if name == "gateway" else "IfHealthyBudget"
            self.assertEqual(spec["unhealthyPodEvictionPolicy"], policy, name)

    def test_pods_are_spread_where_that_is_possible(self):
        for one in workloads(render("cluster.yaml")):
            spec = one["spec"]["template"]["spec"]
            rule, = spec["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
            selector = one["spec"]["selector"]
            self.assertEqual(rule["podAffinityTerm"]["labelSelector"], selector)
            zones, = spec["topologySpreadConstraints"]
            self.assertEqual((zones["whenUnsatisfiable"], zones["labelSelector"]), ("ScheduleAnyway", selector))
        hard = of_component(render("cluster-large.yaml"), "StatefulSet", "storage")["spec"]["template"]["spec"]
        self.assertIn("requiredDuringSchedulingIgnoredDuringExecution", hard["affinity"]["podAntiAffinity"])

    def test_internal_ports_are_for_the_release(self):
        policies = {component(one): one["spec"] for one in of_kind(render("cluster.yaml"), "NetworkPolicy")}
        release = {"app.kubernetes.io/name": "walser", "app.kubernetes.io/instance": "prod"}
        for name, port in (("controller", "internal"), ("storage", "internal"), ("coordinator", "internal")):
            rule, = [rule for rule in policies[name]["ingress"] if rule["ports"] == [{"port": port}]]
            self.assertEqual(rule["from"], [{"podSelector": {"matchLabels": release}}], name)
        clients, = [rule for rule in policies["etcd"]["ingress"] if rule["ports"] == [{"port": "client"}]]
        allowed = {peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in clients["from"]}
        self.assertEqual(allowed, {"controller", "etcd"})
        public, = [rule for rule in policies["gateway"]["ingress"] if rule["ports"] == [{"port": "grpc"}]]
        self.assertNotIn("from", public)
        limited = named(render("cluster-monitoring.yaml"), "NetworkPolicy", "prod-walser-gateway")["spec"]["ingress"]
        self.assertIn({"podSelector": {"matchLabels": release}}, limited[0]["from"], "jobs of the chart are clients")

    def test_metrics_are_found(self):
        objects = render("cluster-monitoring.yaml")
        monitor, = of_kind(objects, "ServiceMonitor")
        service = named(objects, "Service", "prod-walser-metrics")
        labels = service["metadata"]["labels"]
        self.assertLessEqual(monitor["spec"]["selector"]["matchLabels"].items(), labels.items())
        self.assertEqual(monitor["spec"]["endpoints"][0]["port"], service["spec"]["ports"][0]["name"])
        self.assertEqual(monitor["metadata"]["labels"]["release"], "prometheus")
        for one in workloads(objects):
            self.assertIn("admin", [port["name"] for port in main_container(one)["ports"]])
            self.assertLessEqual(service["spec"]["selector"].items(), one["spec"]["selector"]["matchLabels"].items())

    def test_hatches_open(self):
        objects = render("cluster-hatches.yaml")
        storage = of_component(objects, "StatefulSet", "storage")["spec"]["template"]
        container = storage["spec"]["containers"][0]
        self.assertIn("--set=storage.flush.threads=4", container["args"])
        self.assertEqual(variables(container)["WALSER_STORAGE_SHARDS"], "2")
        # A list of a component takes the place of that in podDefaults.
        self.assertNotIn("RUST_BACKTRACE", variables(container))
        self.assertEqual(variables(main_container(of_component(objects, "Deployment", "gateway")))["RUST_BACKTRACE"], "1")
        self.assertIn({"name": "scratch", "mountPath": "/tmp"}, container["volumeMounts"])
        self.assertEqual([one["name"] for one in storage["spec"]["containers"]], ["walser", "beside"])
        self.assertEqual(storage["spec"]["initContainers"][0]["name"], "first")
        self.assertEqual(storage["spec"]["securityContext"]["fsGroup"], 1000)
        self.assertIn("nodeAffinity", storage["spec"]["affinity"])
        self.assertEqual(storage["metadata"]["labels"]["team"], "data")
        self.assertEqual(named(objects, "ConfigMap", "prod-walser-extra")["data"], {"mode": "cluster"})
        named(objects, "ConfigMap", "prod-text")
