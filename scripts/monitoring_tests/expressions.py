"""Reads the alerts, the dashboard, and what docs/operations.md says of metrics; finds metrics and labels in PromQL."""
import json
import os
import re

import yaml

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
# Labels that Prometheus sets by where it scrapes; `pod` is of Kubernetes.
TARGET_LABELS = {"namespace", "job", "instance", "pod"}
# `up` is Prometheus' own. The others are there for some groups or with TLS only, so that the table leaves them out.
OUTSIDE_THE_TABLE = {
    "up": set(),
    "walser_group_lag": {"group", "topic"},
    "walser_tls_certificate_not_after_timestamp_seconds": {"port"},
}
KEYWORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
NAME = re.compile(r"[a-zA-Z_:][\w:]*")
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\d[\w.]*|[a-zA-Z_:][\w:]*|=~|!~|!=|\S')


def read(*path):
    with open(os.path.join(ROOT, *path)) as file:
        return file.read()


def operations():
    return read("docs", "operations.md")


def metrics():
    """Every metric with its labels, by the table and the list above; histograms by the names of their series."""
    table = re.search(r"<!-- metrics -->(.*?)<!-- end of metrics -->", operations(), re.S)[1]
    found = dict(OUTSIDE_THE_TABLE)
    for line in table.strip().split("\n")[2:]:
        name, kind, labels = (cell.strip() for cell in line.strip("| ").split("|")[:3])
        name, labels = name.strip("`"), set(re.findall(r"`(\w+)`", labels))
        if kind == "histogram":
            found[f"{name}_bucket"] = labels | {"le"}
            found[f"{name}_sum"] = found[f"{name}_count"] = labels
        else:
            found[name] = labels
    return found


def alerts():
    rules = yaml.safe_load(read("charts", "walser", "files", "alerts.yaml"))
    return [rule for group in rules["groups"] for rule in group["rules"]]


def dashboard():
    return json.loads(read("charts", "walser", "files", "dashboard.json"))


def panels():
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def plain(expression):
    """An expression of the dashboard without its variables."""
    expression = expression.replace("$__rate_interval", "5m")
    return re.sub(r"\$\w+", "x", expression)


def tokens(expression):
    return TOKEN.findall(expression)


def selectors(words):
    """Metrics, each with the labels of its matchers, of an expression in tokens."""
    found, at = [], 0
    while at < len(words):
        word, after = words[at], words[at + 1:at + 2]
        if word == "[" or word in GROUPING and after == ["("]:
            at = closing(words, at if word == "[" else at + 1)
        elif NAME.fullmatch(word) and word not in GROUPING | KEYWORDS and after != ["("] and not GROUPING & set(after):
            labels = set()
            if after == ["{"]:
                end = closing(words, at + 1)
                labels = {name for name, then in zip(words[at + 2:end], words[at + 3:end]) if then in ("=", "=~", "!=", "!~")}
                at = end
            found.append((word, labels))
        at += 1
    return found


def groupings(words):
    """Labels of by, without, on and so on, each with the tokens that they are about."""
    for at, word in enumerate(words):
        if word in GROUPING and words[at + 1:at + 2] == ["("]:
            end = closing(words, at + 1)
            # The whole expression is about `on`; aggregations are written with their labels before what they add up.
            about = words[end + 1:closing(words, end + 1) + 1] if word in ("by", "without") else words
            yield {label for label in words[at + 2:end] if label != ","}, about


def closing(words, begin):
    """Where the bracket is closed that is opened at `begin`."""
    depth = 0
    for at in range(begin, len(words)):
        depth += {"(": 1, "{": 1, "[": 1, ")": -1, "}": -1, "]": -1}.get(words[at], 0)
        if depth == 0:
            return at
    raise ValueError(f"no end of the bracket in {' '.join(words)}")
