"""Values that are refused, and by what."""
import json
import os
import unittest

import yaml
from rendering import CHART, Refused, render


def load(name):
    with open(os.path.join(CHART, name)) as file:
        return yaml.safe_load(file) if name.endswith(".yaml") else json.load(file)


class Schema(unittest.TestCase):
    def refused(self, file, sets, *words):
        with self.assertRaises(Refused) as caught:
            render(file, sets)
        for word in words:
            self.assertIn(word, str(caught.exception))

    def test_typos_are_refused_with_their_name(self):
        for key in ("replicas", "storage.replicsa", "storage.persistence.sise", "storage.pdb.minAvailable",
                    "controller.persistence", "gateway.autoscaling.enable", "etcd.image.tags", "etcd.extraArgs",
                    "etcd.external.endpoint", "tls.selfSigned.host", "tls.existing.internal.storage", "image.tagg",
                    "service.ports", "upgrade.gates", "upgrade.gate.enable", "monitoring.prometheusRules",
                    "monitoring.prometheusRule.label", "monitoring.dashboards",
                    "podDefaults.replicas", "podDefaults.livenessProbe.httpGet", "storage.resources.limit",
                    "networkPolicy.allowClientFrom", "otel.endpoints", "console", "kafka", "auth", "ingress"):
            with self.subTest(key):
                self.refused("cluster.yaml", {key: True}, key.rsplit(".", 1)[-1])

    def test_values_that_make_no_sense_are_refused(self):
        for key, value in (("mode", "clustered"), ("etcd.replicas", 2), ("storage.replicas", 0), ("storage.replicas", "3"),
                           ("ipFamily", "both"), ("tls.mode", "on"), ("service.port", 0), ("service.type", "External"),
                           ("storage.persistence.size", "20 GB"), ("storage.podAntiAffinity.type", "firm"),
                           ("storage.terminationGracePeriodSeconds", 5), ("image.digest", "abc"),
                           ("etcd.replaceMember", 7), ("config", {"Log.Level": "x"}), ("config", {"log.level": []}),
                           ("topics", [{"partitions": 1}]), ("topics", [{"name": "a/b"}]), ("topics", [{"name": "a", "p": 1}]),
                           ("commonLabels", {"app.kubernetes.io/name": "x"}), ("otel.endpoint", "collector:4317"),
                           ("etcd.external.endpoints", ["etcd:2379"]), ("extraObjects", [1])):
            with self.subTest(f"{key}={value}"):
                name = "app.kubernetes.io/name" if key == "commonLabels" else key.split(".")[0]
                self.refused("cluster.yaml", {key: value}, name)

    def test_an_off_without_quotes_is_off(self):
        self.assertEqual(render("cluster.yaml"), render("cluster.yaml", {"tls.mode": False}))

    def test_a_chart_around_this_one_may_have_global_values(self):
        render("cluster.yaml", {"global": {"anything": 1}})

    def test_schema_and_values_have_the_same_keys(self):
        schema = load("values.schema.json")
        known = schema["definitions"]["pod"]["properties"]
        # Keys of Kubernetes that have no default here.
        without_default = {"global", "claims", "requests", "limits", "initialDelaySeconds", "successThreshold"}

        def compare(values, part, path):
            if "$ref" in part:
                part = schema["definitions"][part["$ref"].rsplit("/", 1)[1]]
            if "properties" not in part:
                return 0  # A map that the chart passes on.
            own = {name for name, inner in part["properties"].items() if isinstance(inner, dict)}
            shared = set(part["properties"]) - own  # Keys of podDefaults.
            self.assertIn(shared, (set(), set(known)), path)
            self.assertLessEqual(set(values), set(part["properties"]), path)
            self.assertLessEqual(own - without_default, set(values), path)
            inner = {name: known[name] if name in shared else part["properties"][name] for name in values}
            maps = [name for name in values if isinstance(values[name], dict)]
            return 1 + sum(compare(values[name], inner[name], f"{path}.{name}") for name in maps)

        self.assertGreater(compare(load("values.yaml"), schema, "values"), 30)


class Together(unittest.TestCase):
    def test_what_does_not_fit_together_is_refused_with_a_reason(self):
        existing = {"tls.mode": "existing"}
        roles = ("controller", "storageNode", "gateway", "groupCoordinator")
        internal = {f"tls.existing.internal.{role}": "a" for role in roles}
        for sets, words in (
            ({"storage.replicas": 2}, "cluster.replicationFactor 3 needs as many storage nodes; storage.replicas is 2"),
            ({"cluster.minInsyncReplicas": 4}, "no record could be acknowledged"),
            ({"storage.persistence.enabled": False}, "iUnderstandDataIsLost"),
            ({"etcd.persistence.enabled": False}, "iUnderstandDataIsLost"),
            ({"etcd.replaceMember": 3}, "there is no such member"),
            ({"etcd.external.endpoints": ["https://a:2379"]}, "https needs etcd.external.existingSecret"),
            ({"etcd.external.endpoints": ["http://a:2379"], "etcd.external.user": "a"}, "go together"),
            (existing, "needs tls.existing.public"),
            (existing | {"tls.existing.public": "a"}, "needs tls.existing.internal.controller"),
            (existing | {"tls.existing.public": "a"} | internal, "needs tls.existing.etcd.member"),
            (existing | {"tls.existing.public": "a", "tls.existing.etcd.member": "a"} | internal, "go together"),
            ({"tls.mode": "self-signed", "tls.clientCertificates.authoritySecret": "a"}, "jobSecret"),
            ({"monitoring.prometheusRule": {"enabled": True, "without": ["WalserNever"]}}, "there is no such alert"),
            ({"topics": [{"name": "a", "config": {"x.y": 1}, "unset": ["x.y"]}]}, "both sets and unsets x.y"),
        ):
            with self.subTest(words), self.assertRaises(Refused) as caught:
                render("cluster.yaml", sets)
            self.assertIn(words, str(caught.exception))

    def test_ephemeral_pods_are_had_when_asked_for(self):
        for file in ("cluster-ephemeral.yaml", "standalone-ephemeral.yaml"):
            for one in render(file):
                self.assertNotIn("volumeClaimTemplates", one.get("spec", {}))
