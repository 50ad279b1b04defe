"""Alerts, dashboard, documents and tests say the same."""
import glob
import os
import re
import subprocess
import tempfile
import unittest

import yaml
from expressions import ROOT, TARGET_LABELS, alerts, dashboard, groupings, metrics, operations, panels, plain, read, selectors, tokens

RUNBOOK = "https://github.com/walser-log/walser/blob/main/docs/operations.md#"
COUNT = re.compile(r'count\(ALERTS\{alertname="(\w+)",alertstate="firing"\}\)')


def dashboard_expressions():
    return [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]


def every_expression():
    """The name of an alert or panel, its expression, and the templates that show labels of the result."""
    for rule in alerts():
        yield rule["alert"], rule["expr"], re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], plain(target["expr"]), re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))


class Metrics(unittest.TestCase):
    def test_every_metric_and_label_is_one_that_is_documented(self):
        known = metrics()
        self.assertGreater(len(known), 60)
        used = set()
        for name, expression, shown in every_expression():
            words = tokens(expression)
            found = selectors(words)
            self.assertTrue(found, name)
            for metric, labels in found:
                with self.subTest(name, metric=metric):
                    self.assertIn(metric, known)
                    self.assertLessEqual(labels, known[metric] | TARGET_LABELS)
                used.add(metric)
            for labels, about in groupings(words):
                with self.subTest(name, about=about):
                    inner = [known[metric] for metric, _ in selectors(about) if metric in known]
                    self.assertLessEqual(labels, TARGET_LABELS.union(*inner))
            with self.subTest(name, shown=shown):
                whole = [known[metric] for metric, _ in found if metric in known]
                self.assertLessEqual(set(shown), TARGET_LABELS.union(*whole))
        self.assertGreater(len(used), 50)

    def test_what_is_outside_of_the_table_is_documented(self):
        for metric in ("walser_group_lag", "walser_tls_certificate_not_after_timestamp_seconds"):
            self.assertIn(f"`{metric}`", operations())

    def test_reasons_and_methods_exist(self):
        reasons = set(re.findall(r"ERROR_REASON_(\w+) =", read("proto", "walser", "v1", "errors.proto")))
        protos = glob.glob(os.path.join(ROOT, "proto", "walser", "**", "*.proto"), recursive=True)
        methods = {name for path in protos for name in re.findall(r"rpc (\w+)\(", read(path))}
        checked = 0
        for name, expression, _ in every_expression():
            for label, text in re.findall(r'(reason|error_type|rpc_method)[=!]~?"([^"]+)"', expression):
                for value in re.findall(r"[A-Z]\w+(?!Service)\b", re.sub(r"\w+Service/", "", text)):
                    with self.subTest(name, value=value):
                        self.assertIn(value, methods if label == "rpc_method" else reasons)
                    checked += 1
        self.assertGreater(checked, 20)

    def test_what_expressions_name_is_found(self):
        words = tokens('sum by (job, x) (rate(a_b{c=~"d|e(f)",g!="h"}[5m] offset 1d)) > 0.5e3 and on (y) max(i)')
        self.assertEqual(selectors(words), [("a_b", {"c", "g"}), ("i", set())])
        self.assertEqual([(labels, selectors(about)) for labels, about in groupings(words)],
                         [({"job", "x"}, [("a_b", {"c", "g"})]), ({"y"}, selectors(words))])


class Alerts(unittest.TestCase):
    def test_every_alert_says_what_is_so_how_bad_it_is_and_where_help_is(self):
        for rule in alerts():
            with self.subTest(rule["alert"]):
                self.assertEqual(set(rule), {"alert", "expr", "for", "labels", "annotations"})
                self.assertIn(rule["labels"], ({"severity": "critical"}, {"severity": "warning"}))
                self.assertEqual(set(rule["annotations"]), {"summary", "description", "runbook_url"})
                self.assertNotIn("{{", rule["annotations"]["summary"])
                self.assertIn("$labels.job", rule["annotations"]["description"])
                self.assertEqual(rule["annotations"]["runbook_url"], RUNBOOK + rule["alert"].lower())

    def test_every_alert_has_an_entry_and_every_entry_an_alert(self):
        section = re.search(r"\n## Alerts\n(.*?)\n## ", operations(), re.S)[1]
        entries = re.findall(r"^### (\w+)$", section, re.M)
        self.assertEqual(entries, [rule["alert"] for rule in alerts()])

    def test_every_alert_fires_in_a_test_and_is_quiet_in_another(self):
        fires, quiet = set(), set()
        for path in glob.glob(os.path.join(ROOT, "scripts", "monitoring_tests", "*.yaml")):
            for test in yaml.safe_load(read(path))["tests"]:
                for one in test.get("promql_expr_test", []):
                    match = COUNT.fullmatch(one["expr"])
                    if match is None:  # No alert at all.
                        self.assertEqual((one["expr"], one.get("exp_samples")), ("count(ALERTS)", None))
                    elif f"{match[1]} fires" in test["name"]:
                        fires |= {match[1]} if "exp_samples" in one else set()
                    else:
                        self.assertIn(f"{match[1]} is quiet", test["name"])
                        self.assertNotIn("exp_samples", one)
                        quiet.add(match[1])
        names = {rule["alert"] for rule in alerts()}
        self.assertEqual((fires, quiet), (names, names))

    def test_clusters_do_not_mix(self):
        for rule in alerts():
            for labels, _ in groupings(tokens(rule["expr"])):
                with self.subTest(rule["alert"]):
                    self.assertLessEqual({"namespace", "job"}, labels)


class Dashboard(unittest.TestCase):
    def test_every_expression_is_of_the_chosen_cluster(self):
        for title, expression in dashboard_expressions():
            with self.subTest(title):
                selected = selectors(tokens(plain(expression)))
                for _, labels in selected:
                    self.assertLessEqual({"namespace", "job"}, labels)
                self.assertEqual(expression.count('namespace=~"$namespace", job="$job"'), len(selected))

    def test_every_expression_can_be_read_by_prometheus(self):
        rules = [{"record": f"panel:{number}", "expr": plain(expression)}
                 for number, (_, expression) in enumerate(dashboard_expressions())]
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}, file)
            file.flush()
            command = [os.environ["PROMTOOL"], "check", "rules", file.name]
            done = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn(f"{len(rules)} rules found", done.stdout)

    def test_panels_have_ids_of_their_own_a_unit_and_the_data_source_of_the_variable(self):
        page = dashboard()
        ids = [panel["id"] for panel in page["panels"]]
        self.assertEqual(len(ids), len(set(ids)))
        for panel in panels():
            with self.subTest(panel["title"]):
                self.assertEqual(panel["datasource"], {"type": "prometheus", "uid": "${datasource}"})
                letters = [target["refId"] for target in panel["targets"]]
                self.assertEqual(letters, sorted(set(letters)))
        self.assertEqual([one["name"] for one in page["templating"]["list"]], ["datasource", "namespace", "job", "instance"])

    def test_panels_do_not_overlap(self):
        taken = {}
        for panel in dashboard()["panels"]:
            place = panel["gridPos"]
            for x in range(place["x"], place["x"] + place["w"]):
                for y in range(place["y"], place["y"] + place["h"]):
                    self.assertLess(x, 24)
                    self.assertNotIn((x, y), taken, panel["title"])
                    taken[x, y] = panel["id"]


if __name__ == "__main__":
    unittest.main()
