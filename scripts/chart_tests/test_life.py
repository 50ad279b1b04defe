"""Installs, upgrades and hooks."""
import json
import os
import re
import shutil
import subprocess
import unittest

from rendering import (CHART, VALUE_FILES, changed_chart, component, containers, every, helm, hooks, immutables,
                       named, of_component, of_kind, pods, render, text, weight, workloads)

GOLDEN = os.path.join(CHART, "ci", "immutable.golden")
# How Argo CD maps the hooks of Helm; it does not know installs from upgrades.
ARGO_CD = {"pre-install": "PreSync", "pre-upgrade": "PreSync", "post-install": "PostSync", "post-upgrade": "PostSync"}


def references(spec):
    """What a pod needs before it can start: kind and name of ConfigMaps, Secrets and ServiceAccounts."""
    if "serviceAccountName" in spec:
        yield "ServiceAccount", spec["serviceAccountName"], False
    for volume in spec.get("volumes", []):
        for key, kind, name in (("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")):
            if key in volume:
                yield kind, volume[key][name], volume[key].get("optional", False)
    for container in containers(spec):
        for source in container.get("envFrom", []):
            for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if key in source:
                    yield kind, source[key]["name"], source[key].get("optional", False)


class Upgrades(unittest.TestCase):
    def test_claims_have_nothing_of_the_release(self):
        claims = 0
        labelled = {"commonLabels": {"team": "data"}, "commonAnnotations": {"a": "b"}}
        for file, _ in every():
            for one in of_kind(render(file, labelled), "StatefulSet"):
                for claim in one["spec"].get("volumeClaimTemplates", []):
                    claims += 1
                    wanted = {"example.com/backup": "daily"} if file == "standalone-names.yaml" else None
                    self.assertEqual(set(claim["metadata"]) - {"annotations"}, {"name"}, file)
                    self.assertEqual(claim["metadata"].get("annotations"), wanted, file)
        self.assertGreater(claims, 20)

    def test_volumes_are_kept(self):
        for file, objects in every():
            for one in of_kind(objects, "StatefulSet"):
                if "volumeClaimTemplates" in one["spec"]:
                    policy = one["spec"]["persistentVolumeClaimRetentionPolicy"]
                    self.assertEqual(policy, {"whenDeleted": "Retain", "whenScaled": "Retain"}, file)

    def test_no_immutable_field_differs_from_the_chart_before(self):
        """UPDATE_GOLDEN=1 accepts what is new; a line that is there changes only with a way to upgrade in the documents."""
        lines = []
        for file, objects in every():
            lines += [f"{file} {name} {json.dumps(fields)}\n" for name, fields in sorted(immutables(objects).items())]
        if os.environ.get("UPDATE_GOLDEN"):
            with open(GOLDEN, "w") as file:
                file.writelines(lines)
        with open(GOLDEN) as file:
            self.assertEqual(file.readlines(), lines)

    def test_an_upgrade_of_values_changes_no_immutable_field(self):
        changes = {
            "commonLabels": {"a": "b"},
            "podDefaults.podLabels": {"c": "d"},
            "image.tag": "9.9.9",
            "config": {"log.level": "debug"},
            "storage.replicas": 20,
            "controller.replicas": 3,
            "storage.resources.limits.memory": "64Gi",
            "tls.mode": "self-signed",
            "monitoring.serviceMonitor.enabled": True,
            "monitoring.prometheusRule.enabled": True,
            "monitoring.dashboard.enabled": True,
        }
        for file in VALUE_FILES:
            before, after = immutables(render(file)), immutables(render(file, changes))
            self.assertEqual(before, {name: after[name] for name in before}, file)

    def test_the_version_of_the_chart_alone_rolls_nothing(self):
        newer = changed_chart(version="9.9.9", appVersion="9.9.9")
        try:
            for file in VALUE_FILES:
                pinned = {"image.tag": "1.0.0"}
                before, after = render(file, pinned), render(file, pinned, newer)
                self.assertEqual(immutables(before), immutables(after), file)
                templates = [[one["spec"]["template"] for one in workloads(objects)] for objects in (before, after)]
                self.assertEqual(*templates, file)
        finally:
            shutil.rmtree(os.path.dirname(newer))

    def test_a_setting_rolls_the_pods_that_have_it_and_no_others(self):
        def rolled(sets):
            before, after = render("cluster.yaml"), render("cluster.yaml", sets)
            pairs = zip(workloads(before), workloads(after), strict=True)
            return {component(old) for old, new in pairs if old["spec"]["template"] != new["spec"]["template"]}

        processes = {"controller", "storage", "coordinator", "gateway"}
        self.assertEqual(rolled({"config": {"log.level": "debug"}}), processes)
        self.assertEqual(rolled({"otel.endpoint": "http://a:4317"}), processes)
        self.assertEqual(rolled({"storage.config": {"storage.shards": 2}}), {"storage"})
        self.assertEqual(rolled({"gateway.config": {"gateway.num.partitions": 2}}), {"gateway"})
        self.assertEqual(rolled({"controller.replicas": 3}), processes - {"controller"})
        self.assertEqual(rolled({"etcd.config": {"quota-backend-bytes": 1}}), {"etcd"})
        self.assertEqual(rolled({"storage.replicas": 5, "gateway.replicas": 5}), set())
        self.assertEqual(rolled({"topics": [{"name": "a"}], "commonAnnotations": {"a": "b"}}), set())

    def test_a_larger_volume_changes_the_template_of_claims_and_nothing_else(self):
        before, after = render("cluster.yaml"), render("cluster.yaml", {"storage.persistence.size": "40Gi"})
        storage = of_component(after, "StatefulSet", "storage")
        claim = storage["spec"]["volumeClaimTemplates"][0]["spec"]
        self.assertEqual(claim["resources"]["requests"]["storage"], "40Gi")
        claim["resources"]["requests"]["storage"] = "20Gi"
        self.assertEqual(before, after)

    def test_templates_are_the_same_each_time(self):
        banned = re.compile(r"\b(lookup|rand\w+|uuidv4|gen(CA|SelfSignedCert|SignedCert|PrivateKey)\w*|now|htpasswd"
                            r"|Release\.(IsInstall|IsUpgrade|Revision))\b")
        for folder, _, files in os.walk(os.path.join(CHART, "templates")):
            for name in files:
                with open(os.path.join(folder, name)) as file:
                    code = re.findall(r"\{\{.*?\}\}", file.read(), re.S)
                code = [part for part in code if not part.startswith(("{{/*", "{{- /*"))]
                self.assertEqual([part for part in code if banned.search(part)], [], name)
        for file in VALUE_FILES:
            self.assertEqual(text(file), text(file, flags=("--is-upgrade",)), file)


class Hooks(unittest.TestCase):
    def test_no_secret_is_rendered(self):
        for file, objects in every():
            self.assertEqual(of_kind(objects, "Secret"), [], file)

    def test_what_a_hook_needs_is_there_when_it_runs(self):
        """On the first install, and under Argo CD, where hooks before and after run at every sync."""
        checked = 0
        for file, objects in every():
            for one, spec in pods(objects):
                events = hooks(one)
                if not any(event.startswith("pre-") for event in events):
                    continue
                made = {(other["kind"], other["metadata"]["name"]): other for other in objects if hooks(other)}
                for kind, name, optional in references(spec):
                    checked += 1
                    if optional or kind == "Secret" and not name.startswith("prod-walser"):
                        continue  # A Secret of the user.
                    if kind == "Secret":  # One that the job of certificates makes.
                        kind, name = "Job", "prod-walser-tls-setup"
                    self.assertIn((kind, name), made, f"{file}: {one['metadata']['name']} needs {kind} {name}")
                    self.assertLess(weight(made[kind, name]), weight(one), file)
        self.assertGreater(checked, 30)

    def test_nothing_of_the_release_waits_for_a_hook_that_comes_after_it(self):
        """`helm install --wait` runs these hooks once everything else is ready."""
        for file, objects in every():
            late = {(one["kind"], one["metadata"]["name"]) for one in objects if "post-install" in hooks(one)}
            for one, spec in pods(objects):
                if not hooks(one):
                    needed = {(kind, name) for kind, name, _ in references(spec)}
                    self.assertEqual(needed & late, set(), file)

    def test_hooks_run_at_installs_as_at_upgrades(self):
        for file, objects in every():
            for one in objects:
                phases = {ARGO_CD[event] for event in hooks(one) if event != "test"}
                self.assertLessEqual(len(phases), 1, file)
                if one["kind"] == "Job" and component(one) in ("tls", "topics"):
                    self.assertEqual(len(hooks(one)), 2, f"{file}: {one['metadata']['name']}")
                if hooks(one):
                    policy = one["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
                    self.assertIn("before-hook-creation", policy)

    def test_jobs_end(self):
        for file, objects in every():
            for one in of_kind(objects, "Job"):
                self.assertGreater(one["spec"]["activeDeadlineSeconds"], 0, file)

    def test_only_the_job_of_certificates_may_ask_the_api(self):
        for file, objects in every():
            for one, spec in pods(objects):
                may = spec.get("automountServiceAccountToken", True)
                self.assertEqual(may, component(one) == "tls", f"{file}: {one['metadata']['name']}")
            for role in of_kind(objects, "Role"):
                self.assertTrue(all(rule["resources"] == ["secrets"] for rule in role["rules"]))
                names = [rule.get("resourceNames") for rule in role["rules"] if rule["verbs"] != ["create"]]
                self.assertTrue(names and all(names), "only Secrets by their names are read")


class Gate(unittest.TestCase):
    """The gate runs `walser` with what two ConfigMaps say: its own, and that of the release that is there."""

    def commands(self, running, upgraded):
        """What the containers of the gate of `upgraded` run, where `running` is installed."""
        job = named(upgraded, "Job", "prod-walser-gate")
        self.assertEqual(hooks(job), ["pre-upgrade"])
        there = {one["metadata"]["name"]: one["data"] for one in upgraded
                 if one["kind"] == "ConfigMap" and "pre-upgrade" in hooks(one)}
        there |= {one["metadata"]["name"]: one["data"] for one in of_kind(running, "ConfigMap") if not hooks(one)}
        commands = {}
        for container in containers(job["spec"]["template"]["spec"]):
            variables = {}
            for source in container["envFrom"]:
                variables |= there.get(source["configMapRef"]["name"], {})
            arguments = " ".join(container["args"])
            commands[container["name"]] = re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], arguments)
        return commands

    def test_it_passes_where_nothing_is_installed(self):
        for file in ("cluster.yaml", "standalone.yaml", "cluster-tls.yaml", "cluster-external-etcd.yaml"):
            for command in self.commands([], render(file)).values():
                # Whatever stands behind it.
                self.assertEqual(command.split()[0], "--version", file)

    def test_it_asks_for_health_where_there_is_a_cluster(self):
        for file, health in (("cluster.yaml", "status"), ("standalone.yaml", "--version")):
            same = render(file)
            commands = self.commands(same, same)
            self.assertEqual(commands.pop("health"), health)
            looks = commands.pop("storage-replicas", None)
            self.assertEqual(looks, "node removable --from 4" if file == "cluster.yaml" else None)
            self.assertEqual(set(commands.values()), {"--version"})

    def test_what_is_fixed_is_refused_at_once(self):
        cluster, one = render("cluster.yaml"), render("standalone.yaml")
        for running, upgraded, container, words in (
            (cluster, one, "mode", "mode cannot change from cluster to standalone"),
            (one, cluster, "mode", "mode cannot change from standalone to cluster"),
            (cluster, render("cluster.yaml", {"etcd.replicas": 5}), "etcd", "cannot change from 3 to 5"),
            (cluster, render("cluster-external-etcd.yaml"), "etcd", "cannot change from 3 to external"),
            (cluster, render("cluster-tls.yaml"), "tls", "TLS cannot change from none to given"),
            (render("cluster-tls.yaml"), cluster, "tls", "TLS cannot change from given to none"),
        ):
            commands = self.commands(running, upgraded)
            self.assertIn(words, commands[container])
            job = named(upgraded, "Job", "prod-walser-gate")
            failing = {rule["onExitCodes"]["containerName"]: rule["action"] for rule in job["spec"]["podFailurePolicy"]["rules"]}
            self.assertEqual(failing[container], "FailJob")
            self.assertEqual(set(failing), {one["name"] for one in job["spec"]["template"]["spec"]["initContainers"]})

    def test_fewer_storage_nodes_are_refused_while_those_to_go_hold_replicas_unless_allowed(self):
        running, upgraded = render("cluster.yaml", {"storage.replicas": 5}), render("cluster.yaml", {"storage.replicas": 3})
        self.assertEqual(self.commands(running, upgraded)["storage-replicas"], "node removable --from 4")
        rules = named(upgraded, "Job", "prod-walser-gate")["spec"]["podFailurePolicy"]["rules"]
        refused = [rule["onExitCodes"]["values"] for rule in rules if rule["onExitCodes"]["containerName"] == "storage-replicas"]
        self.assertEqual(refused, [[6]])
        allowed = render("cluster.yaml", {"storage.replicas": 3, "upgrade.gate.allowShrink": True})
        commands = self.commands(running, allowed)
        self.assertNotIn("storage-replicas", commands)
        self.assertEqual(commands["mode"], "--version")

    def test_it_can_be_switched_off(self):
        objects = render("cluster.yaml", {"upgrade.gate.enabled": False})
        self.assertEqual([one for one in objects if "pre-upgrade" in hooks(one)], [])
        # The next upgrade may have it again, and finds what it needs.
        self.assertEqual(self.commands(objects, render("cluster.yaml"))["health"], "status")

    def test_rollbacks_have_no_gate(self):
        for file, objects in every():
            self.assertEqual([one for one in objects if "pre-rollback" in hooks(one)], [], file)


class Topics(unittest.TestCase):
    def test_both_commands_of_a_topic_say_the_same(self):
        job = named(render("cluster-topics.yaml"), "Job", "prod-walser-topics")
        spec = job["spec"]["template"]["spec"]
        self.assertEqual(spec["restartPolicy"], "OnFailure")
        self.assertGreaterEqual(job["spec"]["backoffLimit"], 1000)
        arguments = {one["name"]: one["args"] for one in spec["containers"]}
        config = ["--config=min.insync.replicas=2", "--config=retention.ms=7d", "--config=segment.bytes=1073741824"]
        create = ["topic", "create", "orders", "--if-not-exists", *config, "--partitions=12", "--replicas=3"]
        self.assertEqual(arguments["create-0"], create)
        self.assertEqual(arguments["alter-0"], ["topic", "alter", "orders", *config])
        self.assertEqual(arguments["alter-1"][-1], "--unset=retention.ms")
        self.assertNotIn("alter-2", arguments)

    def test_none_is_no_job(self):
        self.assertEqual([one for one in render("cluster.yaml") if component(one) == "topics"], [])


class Documents(unittest.TestCase):
    def test_the_readme_is_of_these_values(self):
        script = os.path.join(CHART, "..", "..", "scripts", "chart_readme.py")
        done = subprocess.run(["python3", script, "--check"], capture_output=True, text=True)
        self.assertEqual(done.stderr, "")

    def test_the_notes_can_be_shown(self):
        """`helm template` does not show them: they are made a value of an object."""
        copy = changed_chart()
        try:
            notes = os.path.join(copy, "templates", "NOTES.txt")
            with open(notes) as file:
                shown = '{{- define "notes" -}}\n' + file.read() + "{{- end -}}\n"
            with open(os.path.join(copy, "templates", "notes.yaml"), "w") as file:
                file.write(shown + 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata:\n'
                           '  notes: {{ include "notes" . | toJson }}\n')
            for file in VALUE_FILES:
                notes = named(render(file, chart=copy), "ConfigMap", "notes")["data"]["notes"]
                self.assertIn("walser consume hello --end", notes)
                self.assertNotIn("<no value>", notes)
                self.assertNotIn("%!", notes)
                self.assertEqual("WARNING: TLS" in notes, "tls" not in file, file)
        finally:
            shutil.rmtree(os.path.dirname(copy))

    def test_helm_finds_nothing_to_complain_about(self):
        for file in VALUE_FILES:
            said = helm("lint", "--strict", CHART, "--values", os.path.join(CHART, "ci", file))
            self.assertNotIn("[WARNING]", said, file)
