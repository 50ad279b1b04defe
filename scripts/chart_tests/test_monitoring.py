"""Alerts and the dashboard, as the chart installs them."""
import json
import os
import unittest

import yaml
from rendering import CHART, named, of_kind, render

ON = {"monitoring.prometheusRule.enabled": True, "monitoring.dashboard.enabled": True}


def file(name):
    with open(os.path.join(CHART, "files", name)) as text:
        return text.read()


def alerts(groups):
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


class Monitoring(unittest.TestCase):
    def test_nothing_is_made_that_nobody_asked_for(self):
        for values in ("cluster.yaml", "standalone.yaml"):
            objects = render(values)
            self.assertEqual(of_kind(objects, "PrometheusRule", "ServiceMonitor"), [])
            self.assertEqual([one for one in of_kind(objects, "ConfigMap") if "dashboard" in one["metadata"]["name"]], [])

    def test_each_can_be_had_alone(self):
        for key, kind, name in (("prometheusRule", "PrometheusRule", "prod-walser-alerts"),
                                ("dashboard", "ConfigMap", "prod-walser-dashboard")):
            before = render("standalone.yaml")
            after = render("standalone.yaml", {f"monitoring.{key}.enabled": True})
            self.assertEqual([one for one in after if one not in before], [named(after, kind, name)])

    def test_rules_come_as_they_are_in_the_file(self):
        rule = named(render("cluster.yaml", ON), "PrometheusRule", "prod-walser-alerts")
        self.assertEqual(rule["apiVersion"], "monitoring.coreos.com/v1")
        self.assertEqual(rule["spec"], yaml.safe_load(file("alerts.yaml")))
        self.assertIn("{{ $labels.job }}", str(rule["spec"]))

    def test_rules_that_are_not_wanted_are_left_out(self):
        whole = alerts(yaml.safe_load(file("alerts.yaml"))["groups"])
        rule, = of_kind(render("cluster-monitoring.yaml"), "PrometheusRule")
        del whole["WalserRecordsExpireAtOnce"]
        self.assertEqual(alerts(rule["spec"]["groups"]), whole)
        clients = [name for name in whole if name in alerts(yaml.safe_load(file("alerts.yaml"))["groups"][-1:])]
        fewer = render("cluster-monitoring.yaml", {"monitoring.prometheusRule.without": clients + ["WalserRecordsExpireAtOnce"]})
        rule, = of_kind(fewer, "PrometheusRule")
        self.assertEqual(len(rule["spec"]["groups"]), 3, "a group without rules is none")

    def test_the_dashboard_comes_as_it_is_in_the_file(self):
        data = named(render("cluster.yaml", ON), "ConfigMap", "prod-walser-dashboard")["data"]
        self.assertEqual(json.loads(data["walser.json"]), json.loads(file("dashboard.json")))

    def test_both_are_found_by_their_labels_and_have_those_of_the_release(self):
        objects = render("cluster-monitoring.yaml", {"commonLabels": {"team": "data"}})
        rule = named(objects, "PrometheusRule", "prod-walser-alerts")["metadata"]
        dashboard = named(objects, "ConfigMap", "prod-walser-dashboard")["metadata"]
        for metadata, own in ((rule, {"release": "prometheus"}), (dashboard, {"grafana_dashboard": "1"})):
            wanted = own | {"app.kubernetes.io/name": "walser", "app.kubernetes.io/instance": "prod", "team": "data"}
            self.assertLessEqual(wanted.items(), metadata["labels"].items())
        self.assertEqual(dashboard["annotations"], {"grafana_folder": "Walser"})

    def test_nothing_in_them_is_of_one_release(self):
        first = render("cluster.yaml", ON | {"fullnameOverride": "first"})
        second = render("cluster.yaml", ON | {"fullnameOverride": "second"})
        self.assertEqual(named(first, "PrometheusRule", "first-alerts")["spec"],
                         named(second, "PrometheusRule", "second-alerts")["spec"])
        self.assertEqual(named(first, "ConfigMap", "first-dashboard")["data"],
                         named(second, "ConfigMap", "second-dashboard")["data"])
